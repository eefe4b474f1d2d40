/** Arrays in memory, or samples that are read one after another, as data. */
import { crc32 } from 'node:zlib';
import { isFloat } from '../../graph/dtype.js';
import { AgdError } from '../../graph/errors.js';
import { Tensor } from '../../graph/tensor.js';
import type { Augmentation } from '../../passes/recipe/augmentation.js';
import { nonFiniteRows } from '../train/finite.js';
import { type BindOptions, bindData, type InputSpec } from './bind.js';
import { isInteger } from './convert.js';
import type { Data, DataBinding, DataOptions } from './data.js';
import type { Dataset } from './dataset.js';
import { gatherBlock } from './gather.js';
import type { Samples } from './samples.js';
import { balancedWeights, checkWeights, type Split, splitFold, splitRows } from './split.js';

/** The rows in which none of these arrays is NaN or infinite. Throws `missing-data` for one that is not there. */
export function finiteRows(
  arrays: ReadonlyMap<string, Tensor>,
  name: string,
  wanted: readonly string[] = [],
): { arrays: ReadonlyMap<string, Tensor>; notes: string[] } {
  const unknown = wanted.find(array => !arrays.get(array)?.dims.length);
  if (unknown !== undefined)
    throw new AgdError(
      'missing-data',
      `--skip-missing ${unknown}: ${name} has no array of rows '${unknown}', only ${[...arrays.keys()].map(array => `'${array}'`).join(', ')}.`,
    );
  const bad = new Set(wanted.flatMap(array => [...nonFiniteRows(arrays.get(array)!)]));
  if (!bad.size) return { arrays, notes: [] };
  const length = arrays.get(wanted[0]!)!.dims[0]!;
  const rows = Array.from({ length }, (_, row) => row).filter(row => !bad.has(row));
  if (!rows.length)
    throw new AgdError('bad-data', `--skip-missing ${wanted.join(', ')} leaves no row of ${name}.`);
  const sampled = [...arrays].filter(([, { dims }]) => dims[0] === length);
  const { values } = gatherBlock({ rows: length, values: new Map(sampled) }, rows);
  const note = `Left out ${bad.size} of ${length} rows of ${name}, in which ${wanted.join(' or ')} is NaN or infinite.`;
  return { arrays: new Map([...arrays, ...(values as Map<string, Tensor>)]), notes: [note] };
}

/** Throws `bad-option` where there are no image files to change; arrays may be mixed. */
export function checkAugmented(list: readonly Augmentation[] = [], name: string, hasImages: boolean): void {
  const other = list.find(({ kind }) => kind !== 'mixup' && kind !== 'cutmix');
  if (hasImages || !other) return;
  throw new AgdError(
    'bad-option',
    `--augment ${other.kind} changes image files, and ${name} feeds none to the model: only mixup and cutmix apply to arrays.`,
  );
}

type ArraysOptions = Pick<BindOptions, 'columns'> & {
  close?: () => Promise<void>;
  notes?: readonly string[];
};

/** Arrays, or samples that are not in memory, as data. */
export function dataOf(
  arrays: ReadonlyMap<string, Tensor> | Samples,
  name: string,
  options: DataOptions = {},
  { close = async () => {}, notes = [], columns }: ArraysOptions = {},
): Data {
  checkAugmented(options.augment, name, false);
  const { shuffleBuffer } = options;
  const samples = 'take' in arrays ? arrays : undefined;
  const whole = (inputs: readonly InputSpec[], binding: DataBinding = {}) =>
    bindData(arrays, inputs, { ...binding, columns, source: name }).with({ shuffleBuffer, notes });
  const split = (data: Dataset, { labels = [] }: DataBinding) =>
    splitBy(options, data.length, targetClasses(data, labels[0]));
  return {
    name,
    recipe: undefined,
    isSplit: isSplit(options),
    has: array => ('take' in arrays ? arrays.arrays : arrays).has(array),
    use() {},
    async bind(inputs, binding = {}) {
      const { sampler, sampleWeights } = options;
      if (samples?.isSequential && (sampleWeights !== undefined || (sampler && sampler !== 'shuffle')))
        throw new AgdError(
          'bad-option',
          `The samples of a function are read in order, so ${sampleWeights === undefined ? `--sampler ${sampler}` : '--sample-weights'} cannot draw from them: give arrays, a sequence of samples or files.`,
        );
      const data = whole(inputs, binding);
      const train = isSplit(options) ? data.subset(split(data, binding).train) : data;
      return sampled(train, options, binding, () => {
        const column = 'take' in arrays ? undefined : arrays.get(options.sampleWeights!);
        if (column?.dims[0] === data.length && column.size === data.length)
          return Float64Array.from(column.numbers());
        const is = column ? `is [${column.dims}]` : samples ? 'does not fit in memory' : 'is not there';
        throw new AgdError(
          'missing-data',
          `Array '${options.sampleWeights}' of ${name} ${is}: weights are one number for each sample.`,
        );
      });
    },
    async validation(inputs, binding = {}) {
      if (!isSplit(options)) return undefined;
      const data = whole(inputs, binding);
      return data.subset(split(data, binding).validation);
    },
    preview: async (inputs, binding) => whole(inputs, binding),
    fingerprint: async () => ('take' in arrays ? 0 : checksum(arrays)),
    close,
  };
}

/** Whether a part of the samples is kept for validation. */
export const isSplit = ({ valSplit, fold }: DataOptions) => valSplit !== undefined || fold !== undefined;

export const splitBy = (
  { valSplit, fold, seed = 0 }: DataOptions,
  length: number,
  classes: Int32Array | undefined,
): Split => (fold ? splitFold(length, fold, seed, classes) : splitRows(length, valSplit!, seed, classes));

/** With the weights that the sampler asks for. */
export async function sampled(
  data: Dataset,
  { sampler, sampleWeights }: DataOptions,
  { labels = [] }: DataBinding,
  read: () => Float64Array | Promise<Float64Array>,
  classes: () => Int32Array | undefined | Promise<Int32Array | undefined> = () =>
    targetClasses(data, labels[0]),
): Promise<Dataset> {
  if (sampleWeights !== undefined) {
    const weights = checkWeights(await read(), sampleWeights);
    return data.weighted(data.rows ? Float64Array.from(data.rows, row => weights[row]!) : weights);
  }
  if (sampler === 'poisson') return data.poisson();
  if (sampler !== 'weighted') return data;
  const found = await classes();
  if (!found)
    throw new AgdError(
      'bad-option',
      '--sampler weighted draws by the frequency of classes, and the target is not classes: give the weights with --sample-weights COLUMN.',
    );
  return data.weighted(balancedWeights(found));
}

/** The class of each sample, where the target in memory is one whole number per sample. */
export function targetClasses(data: Dataset, target: string | undefined): Int32Array | undefined {
  const array = data.columns.find(({ input }) => input === target)?.array;
  if (!(array instanceof Tensor) || array.size !== array.dims[0]) return undefined;
  const values = array.numbers();
  const isClasses = isInteger(array.dtype) || (isFloat(array.dtype) && values.every(x => x === 0 || x === 1));
  if (!isClasses) return undefined;
  return data.rows ? Int32Array.from(data.rows, row => values[row]!) : Int32Array.from(values);
}

function checksum(arrays: ReadonlyMap<string, Tensor>): number {
  let sum = 0;
  for (const [name, tensor] of [...arrays].sort(([a], [b]) => (a < b ? -1 : 1)))
    sum = crc32(tensor.strings ? '' : tensor.bytes, crc32(`${name} ${tensor.dtype} ${tensor.dims}`, sum));
  return sum;
}
