/** What a program trains on, as data that can be bound to a model's inputs. */
import { AgdError } from '../../graph/errors.js';
import type { Tensor } from '../../graph/tensor.js';
import { checkAugmented, dataOf, finiteRows } from './arrays.js';
import type { InputSpec } from './bind.js';
import type { Data, DataBinding, DataOptions } from './data.js';
import { Dataset } from './dataset.js';
import type { readSequence, Sample, Sequence } from './sequence.js';
import { type TensorLike, toTensor } from './to-tensor.js';

export type { Sample };

/**
 * A bound `Dataset`; data that are open, which stay so; files; arrays by name, of which each row is a sample; a sequence of
 * samples or batches, which is read once, into memory or, where it is larger than 256 MB, into a temporary file; or a function
 * that gives such a sequence for each epoch (from 0), which is read as training goes on: all have the same number of samples.
 */
export type FitData =
  | Dataset
  | Data
  | string
  | readonly string[]
  | ReadonlyMap<string, TensorLike>
  | Readonly<Record<string, TensorLike>>
  | Sequence
  | ((epoch: number) => Sequence);

/**
 * The samples of arrays, files, or any sequence of samples or batches, as they feed these inputs (`trainer.inputs`). Throws
 * as `bindData` does.
 */
export async function datasetFrom(
  data: FitData,
  inputs: readonly InputSpec[],
  binding: DataBinding = {},
): Promise<Dataset> {
  return (await dataFrom(data)).bind(inputs, binding);
}

/** Throws `io`, `bad-data` and `bad-shape`; `name` is for messages. */
export async function dataFrom(given: FitData, name = 'the data', options: DataOptions = {}): Promise<Data> {
  if (!isOpen(given) && !arePaths(given)) checkFileless(options, name);
  if (given instanceof Dataset) {
    checkAugmented(options.augment, name, false);
    return ofDataset(given, name);
  }
  if (isOpen(given)) return given;
  if (arePaths(given)) {
    const { openData } = await import('./open.js');
    return openData(given, options);
  }
  if (given instanceof Map) return ofArrays(tensors([...given]), name, options);
  if (typeof given === 'function') {
    const { passSamples } = await import('./sequence.js');
    return ofSamples(await passSamples(given, options), name, options);
  }
  if (typeof given !== 'object' || given === null)
    throw new AgdError(
      'bad-data',
      `${String(given)} is not data: expected arrays by name, samples, a Dataset or a path.`,
    );
  if (Symbol.iterator in given || Symbol.asyncIterator in given) {
    const { readSequence } = await import('./sequence.js');
    return ofSamples(await readSequence(given as Sequence, options), name, options);
  }
  return ofArrays(tensors(Object.entries(given as Readonly<Record<string, TensorLike>>)), name, options);
}

export const arePaths = (given: FitData): given is string | readonly string[] =>
  typeof given === 'string' ||
  (Array.isArray(given) && given.length > 0 && given.every(path => typeof path === 'string'));

/** Whether it is data that the caller opened, and closes. */
export const isOpen = (given: FitData): given is Data =>
  typeof given === 'object' &&
  !(given instanceof Dataset) &&
  typeof (given as Partial<Data> | null)?.bind === 'function';

/** Throws `bad-option` for options of files, with which nothing would be done. */
function checkFileless({ columns, label, skipDamaged }: DataOptions, name: string): void {
  const [option] = Object.entries({ columns, label, skipDamaged }).find(([, value]) => value) ?? [];
  if (option)
    throw new AgdError(
      'bad-option',
      `'${option}' is for files, and ${name} feeds the inputs of the names that its arrays have: leave it out, or give a path.`,
    );
}

function ofArrays(arrays: ReadonlyMap<string, Tensor>, name: string, options: DataOptions): Data {
  const { arrays: finite, notes } = finiteRows(arrays, name, options.skipMissing);
  return dataOf(finite, name, options, { notes });
}

const ofSamples = (
  found: Awaited<ReturnType<typeof readSequence>>,
  name: string,
  options: DataOptions,
): Data =>
  'arrays' in found
    ? ofArrays(found.arrays, name, options)
    : dataOf(found.samples, name, options, { close: found.close });

const tensors = (arrays: readonly (readonly [string, TensorLike])[]) =>
  new Map(arrays.map(([name, array]) => [name, toTensor(array, name)]));

/** A dataset that was bound already feeds the inputs that it was bound to. */
function ofDataset(dataset: Dataset, name: string): Data {
  const bind = async () => dataset;
  return {
    name,
    recipe: undefined,
    isSplit: false,
    has: input => dataset.columns.some(column => column.input === input),
    use() {},
    bind,
    validation: async () => undefined,
    preview: bind,
    fingerprint: async () => 0,
    close: async () => {},
  };
}
