/** What `inject` is made from, besides a model file: values from elsewhere, and ONNX Runtime's training artifacts. */
import { readdir } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { AgdError } from '../../graph/errors.js';
import { loadModel } from '../../graph/files.js';
import type { Model } from '../../graph/ir.js';
import { decodeModel } from '../../graph/proto/codec.js';
import type { Tensor } from '../../graph/tensor.js';
import { liftArtifacts } from '../../passes/import/lift-artifacts.js';
import { checkOperators } from '../../passes/import/lower-ort-gradients.js';
import { isOrtTraining } from '../../passes/import/ort-operators.js';
import type { ShapeOracle } from '../../passes/normalize/infer-shapes.js';
import type { InjectOptions } from '../../passes/options.js';
import { readBytes } from '../data/bytes.js';
import { loadArrays } from '../data/load.js';
import { TRAINING } from './is-artifacts.js';
import {
  decodeCheckpoint,
  isCheckpoint,
  type OptimizerGroup,
  type OrtCheckpoint,
  parametersOf,
} from './ort-checkpoint.js';
import { storeProperties } from './ort-state.js';

const CHECKPOINT = /checkpoint$|\.ckpt$/;

/** Where the parameters' values come from, if not from the model or its checkpoint. */
export type Beginning = {
  params?: string;
  initialize?: boolean;
  adapter?: string;
  /** Files of models that the loss reads. */
  teacher?: string;
  lossModel?: string;
};

/** A model to inject, what its kind adds to the options, and the optimizer's state that its checkpoint has. */
export type Opened = { model: Model; options: InjectOptions; optimizer?: OptimizerGroup };

type Stored = { values: ReadonlyMap<string, Tensor>; checkpoint?: OrtCheckpoint };

/**
 * What `openForInjection` opens where there is more to it than a model: values from elsewhere, or a training model of ONNX
 * Runtime's, whose file is `file`.
 */
export async function openWithValues(
  training: Model,
  file: string,
  options: InjectOptions,
  { params, initialize }: Pick<Beginning, 'params' | 'initialize'>,
  oracle: ShapeOracle,
): Promise<Opened> {
  const given: Stored | undefined = initialize
    ? { values: await (await import('./initialize.js')).initialValues(training, options.seed) }
    : params === undefined
      ? undefined
      : await readParameters(params);
  if (!training.graph.nodes.some(isOrtTraining))
    return given ? withGiven(training, options, given) : { model: training, options };
  checkOperators(training.graph);
  const folder = dirname(file);
  const beside = besides(basename(file), await readdir(folder));
  const stored: Stored =
    given ??
    (options.values ? { values: options.values } : await readParameters(join(folder, beside.checkpoint())));
  const evaluation = beside.evaluation ? await loadModel(join(folder, beside.evaluation)) : undefined;
  const { values, checkpoint } = stored;
  const { model, options: lifted } = await liftArtifacts(
    {
      training,
      evaluation,
      values,
      properties: checkpoint && storeProperties(checkpoint.properties),
    },
    { ...options, frozen: frozenIn(checkpoint) },
    oracle,
  );
  return { model, options: lifted, optimizer: checkpoint?.optimizers[0] };
}

/** A model that computes no gradients, with parameters from elsewhere. */
function withGiven(model: Model, options: InjectOptions, { values, checkpoint }: Stored): Opened {
  const given: InjectOptions = { ...options, values, original: undefined };
  if (!checkpoint) return { model, options: given };
  const { trainable, optimizers, properties } = checkpoint;
  const frozen = frozenIn(checkpoint);
  const kept = { trainable: [...trainable.keys()], frozen, properties: storeProperties(properties) };
  return { model, options: { ...given, frozen, checkpoint: kept }, optimizer: optimizers[0] };
}

const frozenIn = (checkpoint: OrtCheckpoint | undefined) => [...(checkpoint?.frozen.keys() ?? [])];

/** What belongs to a training model: the files that its name begins like. */
function besides(training: string, names: readonly string[]) {
  const prefix = training.endsWith(TRAINING) ? training.slice(0, -TRAINING.length) : '';
  return {
    evaluation: names.find(name => name === `${prefix}eval_model.onnx`),
    checkpoint() {
      const usual = `${prefix}checkpoint`;
      const found = names.includes(usual)
        ? [usual]
        : names.filter(name => name.startsWith(prefix) && CHECKPOINT.test(name));
      if (found.length === 1) return found[0]!;
      throw new AgdError(
        'missing-data',
        `There ${found.length ? `are ${found.length} checkpoints` : 'is no checkpoint'} in the folder of ${training}: specify the parameter values with --params FILE.`,
      );
    },
  };
}

/**
 * Tensors by name: those of a checkpoint of ONNX Runtime's training, the initializers of a model, or the arrays of a
 * .npz, .npy or .safetensors file.
 */
export async function loadParameters(path: string): Promise<ReadonlyMap<string, Tensor>> {
  return (await readParameters(path)).values;
}

/** The same, with the checkpoint that they are of. */
async function readParameters(path: string): Promise<Stored> {
  const bytes = await readBytes(path);
  if (isCheckpoint(bytes) || CHECKPOINT.test(basename(path))) {
    const checkpoint = await decodeCheckpoint(bytes, path);
    return { values: parametersOf(checkpoint), checkpoint };
  }
  if (!/\.onnx$/i.test(basename(path))) return { values: await loadArrays(path) };
  const { graph } = decodeModel(bytes, dirname(path));
  return { values: new Map([...graph.initializers].map(([value, tensor]) => [value.name, tensor])) };
}
