/** Opens what is injected: a model file or a folder of training artifacts. What only some of them need is loaded for these. */
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { AgdError } from '../../graph/errors.js';
import { openModel } from '../../graph/open-model.js';
import { checkState } from '../../graph/state-file.js';
import { isOrtTraining } from '../../passes/import/ort-operators.js';
import type { ShapeOracle } from '../../passes/normalize/infer-shapes.js';
import type { InjectOptions } from '../../passes/options.js';
import type { Beginning, Opened } from './artifacts.js';
import { isFolder, TRAINING } from './is-artifacts.js';

/** Loads the runtime when it is asked. */
export const sessionShapes: ShapeOracle = async model => (await import('../session.js')).sessionShapes(model);

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
  if (adapter !== undefined) {
    const { readAdapterFile } = await import('./onnx-adapter.js');
    const adapters = await readAdapterFile(adapter);
    return openForInjection(path, { ...options, adapters }, { params, initialize }, oracle);
  }
  const file = await modelFile(path);
  const training = await openModel(file);
  await checkState(training, file);
  const isPlain = !initialize && params === undefined && !training.graph.nodes.some(isOrtTraining);
  if (isPlain) return { model: training, options };
  const { openWithValues } = await import('./artifacts.js');
  return openWithValues(training, file, options, { params, initialize }, oracle);
}

/**
 * The model in `path`: a file is it, a folder of training artifacts has one training model, whose name may begin with
 * something that the names of what belongs to it begin with too. Throws `bad-option` where there are several, `io` where there is none.
 */
export async function modelFile(path: string): Promise<string> {
  if (!(await isFolder(path))) return path;
  const models = (await readdir(path)).filter(name => name.endsWith('.onnx'));
  const found = models.filter(name => name.endsWith(TRAINING));
  if (found.length === 1) return join(path, found[0]!);
  const [what, named] = found.length ? ['several training models', found] : [`no ${TRAINING}`, models];
  const hint = named.length ? `: name one of ${named.slice(0, 8).join(', ')}` : ', and no other .onnx file';
  throw new AgdError(found.length ? 'bad-option' : 'io', `The folder '${path}' has ${what}${hint}.`);
}
