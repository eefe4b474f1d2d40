/** What `inject` is made from, besides a model file: the folder that ONNX Runtime's training artifacts lie in. */
import { readdir, stat } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { AgdError } from '../graph/errors.js';
import { loadModel, saveModel } from '../graph/files.js';
import type { Model } from '../graph/ir.js';
import { patchModelFile } from '../graph/patch-file.js';
import { decodeModel } from '../graph/proto.js';
import type { Tensor } from '../graph/tensor.js';
import type { InjectOptions } from '../passes/inject.js';
import { liftArtifacts } from '../passes/lift-artifacts.js';
import { isOrtTraining } from '../passes/ort-training.js';
import { partOfModel } from '../passes/part-of-model.js';
import { isInjected } from '../passes/training-description.js';
import { readBytes } from './data/bytes.js';
import { loadArrays } from './data/load.js';
import { exportFile, withParameters } from './export.js';
import { decodeCheckpoint, isCheckpoint, parametersOf } from './ort-checkpoint.js';
import { sessionShapes } from './session.js';

const TRAINING = 'training_model.onnx';
const EVALUATION = 'eval_model.onnx';

/**
 * The model in `path`, and the options with what its kind adds to them. A training model of ONNX Runtime's, or the
 * folder with it, comes with the evaluation model and the checkpoint beside it. Throws `missing-data`, `io`.
 */
export async function openForInjection(
  path: string,
  options: InjectOptions,
): Promise<{ model: Model; options: InjectOptions }> {
  const file = (await isFolder(path)) ? join(path, TRAINING) : path;
  const training = await loadModel(file);
  if (!training.graph.nodes.some(isOrtTraining) || options.gradients) return { model: training, options };
  const folder = dirname(file);
  const names = await readdir(folder);
  const checkpoint = names.filter(name => name === 'checkpoint' || name.endsWith('.ckpt'));
  if (!options.values && checkpoint.length !== 1)
    throw new AgdError(
      'missing-data',
      `${folder} has ${checkpoint.length || 'no'} checkpoints: give the parameters' values with --params FILE.`,
    );
  const values = options.values ?? (await loadParameters(join(folder, checkpoint[0]!)));
  const evaluation = names.includes(EVALUATION) ? await loadModel(join(folder, EVALUATION)) : undefined;
  return liftArtifacts({ training, evaluation, values }, options, sessionShapes);
}

/**
 * Writes the trained model that is in `source`: an injected model's; the inference model of training artifacts, with
 * the checkpoint's parameters or `values`; or a model with `values` in the places of its own. Throws `bad-option` where
 * there is nothing to take values from, and as `exportFile` does.
 */
export async function exportFrom(
  source: string,
  target: string,
  { values, ema }: { values?: ReadonlyMap<string, Tensor>; ema?: boolean } = {},
): Promise<void> {
  const { model, options } = await openForInjection(source, { values });
  if (isInjected(model)) return exportFile(values ? withParameters(model, values) : model, target, { ema });
  if (ema)
    throw new AgdError('bad-option', `${source} keeps no average of its weights: only a training step does.`);
  const { original, exports } = options;
  if (original) {
    const forward = decodeModel(original);
    return saveModel(exports ? partOfModel(forward, exports) : forward, target);
  }
  if (!values)
    throw new AgdError(
      'bad-option',
      `${source} holds no training step: run agd-onnx inject on it first, or give trained parameters with --params.`,
    );
  const names = new Set([...model.graph.initializers.keys()].map(v => v.name));
  const known = [...values].filter(([name]) => names.has(name));
  if (!known.length) throw new AgdError('no-such-value', `None of the parameters given is one of ${source}.`);
  return patchModelFile(source, target, new Map(known));
}

export async function isFolder(path: string): Promise<boolean> {
  return (await stat(path).catch(() => undefined))?.isDirectory() ?? false;
}

/**
 * Tensors by name: those of a checkpoint of ONNX Runtime's training, the initializers of a model, or the arrays of a
 * .npz, .npy or .safetensors file.
 */
export async function loadParameters(path: string): Promise<Map<string, Tensor>> {
  const bytes = await readBytes(path);
  if (isCheckpoint(bytes)) return parametersOf(await decodeCheckpoint(bytes, path));
  if (!/\.onnx$/i.test(basename(path))) return loadArrays(path);
  const { graph } = decodeModel(bytes, dirname(path));
  return new Map([...graph.initializers].map(([value, tensor]) => [value.name, tensor]));
}
