/** What `inject` is made from, besides a model file: the folder that ONNX Runtime's training artifacts lie in. */
import { readdir } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { AgdError } from '../../graph/errors.js';
import { loadModel, saveModel } from '../../graph/files.js';
import type { Model } from '../../graph/ir.js';
import { openModel } from '../../graph/open-model.js';
import { patchModelFile } from '../../graph/patch-file.js';
import { decodeModel } from '../../graph/proto/codec.js';
import { checkState } from '../../graph/state-file.js';
import type { Tensor } from '../../graph/tensor.js';
import { adapterNames } from '../../passes/adapters/adapter-names.js';
import { applyAdapters, withAdapterInputs } from '../../passes/adapters/apply-adapters.js';
import { mergeAdapters } from '../../passes/adapters/merge-adapters.js';
import { adaptersChange } from '../../passes/adapters/set-adapter-values.js';
import { partOfModel } from '../../passes/common/part-of-model.js';
import { readOriginal } from '../../passes/file/embed-original.js';
import { isInjected, readDescription } from '../../passes/file/step-metadata.js';
import { inferenceModel, liftArtifacts } from '../../passes/import/lift-artifacts.js';
import { checkOperators } from '../../passes/import/lower-ort-gradients.js';
import { isOrtTraining } from '../../passes/import/ort-operators.js';
import type { ShapeOracle } from '../../passes/normalize/infer-shapes.js';
import type { InjectOptions } from '../../passes/options.js';
import { readRecipe } from '../../passes/recipe/read-recipe.js';
import { readBytes } from '../data/bytes.js';
import { loadArrays } from '../data/load.js';
import { type ExportOptions, exportFile, exportPlain, saveTrained, withParameters } from '../export.js';
import { isFolder, TRAINING } from './is-artifacts.js';
import { readAdapterFile } from './onnx-adapter.js';
import {
  decodeCheckpoint,
  isCheckpoint,
  type OptimizerGroup,
  type OrtCheckpoint,
  parametersOf,
} from './ort-checkpoint.js';
import { storeProperties } from './ort-state.js';

const CHECKPOINT = /checkpoint$|\.ckpt$/;

type Stored = { values: ReadonlyMap<string, Tensor>; checkpoint?: OrtCheckpoint };

/** Where the parameters' values come from, if not from the model or its checkpoint. */
export type Beginning = {
  params?: string;
  initialize?: boolean;
  adapter?: string;
  /** Files of models that the loss reads. */
  teacher?: string;
  lossModel?: string;
};

/** Loads the runtime when it is asked. */
const sessionShapes: ShapeOracle = async model => (await import('../session.js')).sessionShapes(model);

/** A model to inject, what its kind adds to the options, and the optimizer's state that its checkpoint has. */
export type Opened = { model: Model; options: InjectOptions; optimizer?: OptimizerGroup };

/**
 * The model in `path`, and the options with what its kind adds to them. A training model of ONNX Runtime's, or the
 * folder with it, comes with the evaluation model and the checkpoint beside it, whose names begin alike. `params` is a
 * file of values for the parameters, a checkpoint or others; with `initialize`, they are those that the initialization of
 * training_info gives. Throws `missing-data`, `io`, and as `liftArtifacts` and `initialValues` do.
 */
export async function openForInjection(
  path: string,
  options: InjectOptions,
  { params, initialize, adapter, teacher, lossModel }: Beginning = {},
  oracle: ShapeOracle = sessionShapes,
): Promise<Opened> {
  if (teacher !== undefined || lossModel !== undefined) {
    const models = {
      ...(teacher === undefined ? {} : { teacherModel: await openModel(teacher) }),
      ...(lossModel === undefined ? {} : { lossGraph: await openModel(lossModel) }),
    };
    return openForInjection(path, { ...options, ...models }, { params, initialize, adapter }, oracle);
  }
  if (adapter !== undefined)
    return openForInjection(
      path,
      { ...options, adapters: await readAdapterFile(adapter) },
      { params, initialize },
      oracle,
    );
  const file = await modelFile(path);
  const training = await openModel(file);
  await checkState(training, file);
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

/**
 * The model in `path`: a file is it, a folder of training artifacts has one training model, whose name may begin with
 * something that the names of what belongs to it begin with too. Throws `bad-option` where there are several.
 */
export async function modelFile(path: string): Promise<string> {
  if (!(await isFolder(path))) return path;
  const found = (await readdir(path)).filter(name => name.endsWith(TRAINING));
  if (found.length > 1)
    throw new AgdError('bad-option', `${path} has several training models: name one of ${found.join(', ')}.`);
  return join(path, found[0] ?? TRAINING);
}

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

/** Values from elsewhere: of parameters, or of adapters in a folder that PEFT wrote. */
type ValuesToExport = { values?: ReadonlyMap<string, Tensor>; adapter?: string };

/**
 * Writes the trained model that is in `source`: an injected model's; the inference model of training artifacts, with
 * the checkpoint's parameters or `values`; or a model with `values` in the places of its own. Throws `bad-option` where
 * there is nothing to take values from, and as `exportFile` does. Tells whether these are values that no step has changed,
 * and which layers keep their adapters.
 */
export async function exportFrom(
  source: string,
  target: string,
  { values, adapter, ...exporting }: ExportOptions & ValuesToExport = {},
): Promise<{ isUntrained: boolean; kept: string[] }> {
  const { ema, recipe, bakePreprocessing } = exporting;
  const { model, options } = await openForInjection(source, { values });
  const done = { isUntrained: false, kept: [] as string[] };
  if (isInjected(model)) {
    if (adapter !== undefined)
      throw new AgdError(
        'bad-option',
        `${source} holds a training step: an adapter goes into a model without.`,
      );
    await exportFile(values ? withParameters(model, values) : model, target, exporting);
    const kept = exporting.adaptersOnly ? [] : mergeAdapters(readOriginal(model)).kept;
    return { isUntrained: !values && stepOf(model) === 0 && !adaptersChange(model), kept };
  }
  if (adapter !== undefined || (adapterNames(model).size && !values)) {
    const adapted =
      adapter === undefined ? model : applyAdapters(model, { adapters: await readAdapterFile(adapter) });
    const merged = exporting.adaptersOnly
      ? { model: withAdapterInputs(adapted), kept: [] }
      : mergeAdapters(adapted);
    await saveModel(merged.model, target);
    return { ...done, kept: merged.kept };
  }
  if (ema)
    throw new AgdError('bad-option', `${source} keeps no average of its weights: only a training step does.`);
  const { original, exports } = options;
  if (recipe || bakePreprocessing) {
    if (original || values)
      throw new AgdError(
        'bad-option',
        `${source}: a recipe goes into a model with its own weights; write the trained model first, then export that one.`,
      );
    await exportPlain(model, target, recipe ?? (await readRecipe(model)), bakePreprocessing);
    return done;
  }
  if (original) {
    const forward = decodeModel(original);
    const { values = new Map() } = options;
    await saveTrained(exports ? partOfModel(forward, exports) : forward, target, values);
    return done;
  }
  if (!values)
    throw new AgdError(
      'bad-option',
      `${source} holds no training step: run agd-onnx inject on it first, or give trained parameters with --params.`,
    );
  const { inputs, initializers } = model.graph;
  if (inputs.some(v => values.has(v.name) && !initializers.has(v))) {
    await saveTrained(await inferenceModel(model, values, sessionShapes), target, values);
    return done;
  }
  const names = new Set([...initializers.keys()].map(v => v.name));
  const known = [...values].filter(([name]) => names.has(name));
  if (!known.length) throw new AgdError('no-such-value', `None of the parameters given is one of ${source}.`);
  await patchModelFile(source, target, new Map(known));
  return done;
}

/** How many updates an injected model has seen. */
function stepOf(model: Model): number {
  const { step } = readDescription(model);
  const [, tensor] = [...model.graph.initializers].find(([{ name }]) => name === step) ?? [];
  return tensor?.numbers()[0] ?? 0;
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
