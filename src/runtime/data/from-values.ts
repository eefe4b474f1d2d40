/** What a program trains on, as data that can be bound to a model's inputs. */
import { AgdError } from '../../graph/errors.js';
import { Tensor } from '../../graph/tensor.js';
import type { InputSpec } from './bind.js';
import { Dataset } from './dataset.js';
import { joinArrays } from './gather.js';
import { checkAugmented, type Data, type DataBinding, type DataOptions, dataOf, openData } from './open.js';
import { type NestedArray, type TensorLike, toTensor } from './to-tensor.js';

/** A sample: a value, or an array of them, by the name of the input or array that it belongs to. */
export type Sample = Readonly<Record<string, NestedArray | Tensor | number | bigint | boolean | string>>;

/** Some samples together: arrays with a row for each, as a `Batch` has them. */
export type SampleBatch = { inputs: Readonly<Record<string, TensorLike>>; size?: number };

/**
 * A bound `Dataset`; data that are open, which stay so; files; arrays by name, of which each row is a sample; or a sequence of samples or batches, which is
 * read into memory.
 */
export type FitData =
  | Dataset
  | Data
  | string
  | readonly string[]
  | ReadonlyMap<string, TensorLike>
  | Readonly<Record<string, TensorLike>>
  | Iterable<Sample | SampleBatch>
  | AsyncIterable<Sample | SampleBatch>;

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
  if (given instanceof Dataset) {
    checkAugmented(options.augment, name, false);
    return ofDataset(given, name);
  }
  if (isOpen(given)) return given;
  if (arePaths(given)) return openData(given, options);
  if (given instanceof Map) return dataOf(tensors([...given]), name, options);
  if (typeof given !== 'object' || given === null)
    throw new AgdError(
      'bad-data',
      `${String(given)} is not data: expected arrays by name, samples, a Dataset or a path.`,
    );
  if (Symbol.iterator in given || Symbol.asyncIterator in given)
    return dataOf(await stacked(given as AsyncIterable<Sample | SampleBatch>), name, options);
  return dataOf(tensors(Object.entries(given as Readonly<Record<string, TensorLike>>)), name, options);
}

export const arePaths = (given: FitData): given is string | readonly string[] =>
  typeof given === 'string' ||
  (Array.isArray(given) && given.length > 0 && given.every(path => typeof path === 'string'));

/** Whether it is data that the caller opened, and closes. */
export const isOpen = (given: FitData): given is Data =>
  typeof given === 'object' &&
  !(given instanceof Dataset) &&
  typeof (given as Partial<Data> | null)?.bind === 'function';

const tensors = (arrays: readonly (readonly [string, TensorLike])[]) =>
  new Map(arrays.map(([name, array]) => [name, toTensor(array, name)]));

/** The samples of a sequence as the rows of arrays, or the rows of its batches. */
async function stacked(samples: AsyncIterable<Sample | SampleBatch>): Promise<Map<string, Tensor>> {
  const columns = new Map<string, unknown[]>();
  const batches: { path: string; arrays: Map<string, Tensor> }[] = [];
  let rows = 0;
  for await (const sample of samples) {
    if (isBatch(sample)) {
      batches.push({ path: `batch ${batches.length}`, arrays: tensors(Object.entries(sample.inputs)) });
      continue;
    }
    if (typeof sample !== 'object' || sample === null || Array.isArray(sample))
      throw new AgdError(
        'bad-data',
        `Sample ${rows} is not an object of values by name, as { x: [1, 2], target: 0 }.`,
      );
    for (const [name, value] of Object.entries(sample)) {
      const column = columns.get(name) ?? [];
      if (column.length !== rows) throw missing(name, rows);
      columns.set(name, column);
      column.push(value);
    }
    rows++;
    for (const [name, column] of columns) if (column.length !== rows) throw missing(name, rows - 1);
  }
  if (rows && batches.length)
    throw new AgdError('bad-data', 'The data mixes samples with batches: give one or the other.');
  if (batches.length) return joinArrays(batches);
  if (!rows) throw new AgdError('bad-data', 'The data has no samples.');
  const arrays = [...columns].map(([name, column]) => [name, toTensor(column as NestedArray, name)] as const);
  return new Map(arrays);
}

/** `inputs` with arrays by name is what a sample does not have: its values are arrays, or numbers. */
function isBatch(given: unknown): given is SampleBatch {
  const { inputs } = (given ?? {}) as { inputs?: unknown };
  return (
    typeof inputs === 'object' &&
    inputs !== null &&
    !Array.isArray(inputs) &&
    !ArrayBuffer.isView(inputs) &&
    !(inputs instanceof Tensor)
  );
}

const missing = (name: string, row: number) =>
  new AgdError(
    'bad-data',
    `Sample ${row} has other names than those before it: '${name}' is not in all of them.`,
  );

/** A dataset that was bound already feeds the inputs that it was bound to. */
function ofDataset(dataset: Dataset, name: string): Data {
  const bind = async () => dataset;
  return {
    name,
    recipe: undefined,
    use() {},
    bind,
    validation: async () => undefined,
    preview: bind,
    fingerprint: async () => 0,
    close: async () => {},
  };
}
