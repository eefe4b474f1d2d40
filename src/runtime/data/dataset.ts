import type { DType } from '../../graph/dtype.js';
import { AgdError } from '../../graph/errors.js';
import { Tensor } from '../../graph/tensor.js';
import { convert, moveAxis, takeRows } from './convert.js';
import { permutation, random } from './random.js';

/**
 * An array and how it feeds a model's input: as `dtype`, each sample (row of the array) in shape `dims`, each element times
 * `scale`, the samples along the input's axis `batchAxis`, the first if not given. Null: the array is fed whole, in shape `dims`.
 */
export type Column = {
  input: string;
  array: Tensor;
  arrayName: string;
  dtype: DType;
  dims: readonly number[];
  scale: number;
  batchAxis?: number | null;
};

/**
 * What one run is fed, by input name, and how many samples that is. The tensors are the receiver's own. After the samples
 * come `padding` others, that only fill the batch and are not to be counted.
 */
export type Batch = { inputs: Record<string, Tensor>; size: number; padding?: number };

/** Batches along a leading axis of steps, and the number of samples in each; `padding` as in a batch. */
export type Chunk = { inputs: Record<string, Tensor>; sizes: number[]; padding?: number };

export type BatchOptions = {
  /** Samples a batch; a model with a fixed batch axis sets it. */
  batchSize?: number;
  /** Seed of a random order; the file's order without it. The same seed and epoch give the same order everywhere. */
  shuffle?: number;
  /** Which of a seed's orders: 0, 1, 2 ... */
  epoch?: number;
  /** Leave out a last batch that is smaller. Always so where the model's batch axis is fixed, unless `pad` is set. */
  dropLast?: boolean;
  /**
   * Leave out nothing: for evaluation. Where the model's batch axis is fixed, such a last batch is filled up with samples
   * that do not count.
   */
  pad?: boolean;
  /** Batches of the pass to leave out at its begin, by a run that goes on in its middle. */
  skip?: number;
};

const DEFAULT_BATCH_SIZE = 32;

/**
 * Samples for a model: row i of every column is sample i. Where all columns are fed whole, they are one sample. Conversion
 * is done batch by batch.
 */
export class Dataset {
  /** Number of samples. */
  readonly length: number;

  /**
   * `fixedBatch` is the batch size where the model has a fixed one; `notes` are lines for the user on what
   * was assumed; `least` is the fewest samples that a batch may have, so that a last one of fewer is left out. Throws `bad-shape` where the arrays differ in length, `bad-data` where they are empty.
   */
  constructor(
    readonly columns: readonly Column[],
    readonly fixedBatch?: number,
    readonly notes: readonly string[] = [],
    readonly least = 1,
  ) {
    const rows = ({ array }: Column) => array.dims[0] ?? 0;
    const sampled = columns.filter(c => c.batchAxis !== null);
    const [first] = sampled;
    this.length = first ? rows(first) : Math.min(1, columns.length);
    const other = sampled.find(c => rows(c) !== this.length);
    if (first && other) throw unequal(sampled, rows);
    if (this.length === 0) throw new AgdError('bad-data', 'The data has no samples.');
  }

  /** Samples in a full batch. Throws `bad-option`. */
  batchSize({ batchSize }: BatchOptions = {}): number {
    const size = batchSize ?? this.fixedBatch ?? DEFAULT_BATCH_SIZE;
    if (!Number.isSafeInteger(size) || size < 1)
      throw new AgdError('bad-option', `A batch size of ${size} is not a whole number above 0.`);
    if (this.fixedBatch !== undefined && size !== this.fixedBatch)
      throw new AgdError(
        'bad-option',
        `The model takes batches of exactly ${this.fixedBatch} samples, not ${size}.`,
      );
    return size;
  }

  /** Number of batches in a whole pass. Throws `bad-option`, also where not one batch can be filled. */
  batchCount(options: BatchOptions = {}): number {
    const size = this.batchSize(options);
    const count = (this.length - this.leftOut(options)) / size;
    if (count > 0) return Math.ceil(count);
    const why = this.fixedBatch === undefined ? '' : ' that the model takes';
    throw new AgdError(
      'bad-option',
      `The data has ${this.length} samples, fewer than one batch of ${size}${why}.`,
    );
  }

  /** Samples that no batch of a pass has. Throws `bad-option`. */
  leftOut(options: BatchOptions = {}): number {
    const rest = this.length % this.batchSize(options);
    if (options.pad) return 0;
    return options.dropLast || this.fixedBatch !== undefined || rest < this.least ? rest : 0;
  }

  /** Lines for the user on what was assumed, and on what such batches leave out. Throws `bad-option`. */
  notesOn(options: BatchOptions = {}): string[] {
    const rest = this.fixedBatch === undefined ? this.leftOut(options) : 0;
    const short = `${rest} sample${rest === 1 ? '' : 's'}`;
    const why = `The last batch of each epoch would have ${short}, on which batch normalization cannot train`;
    return [...this.notes, ...(rest ? [`${why}: it is left out.`] : [])];
  }

  /** The batches of a pass over the data. Throws as `batchCount` does. */
  *batches(options: BatchOptions = {}): Generator<Batch> {
    for (const { inputs, sizes, padding } of this.chunks(options, () => 1)) {
      const one = Object.entries(inputs).map(([name, t]) => [
        name,
        new Tensor(t.dtype, t.dims.slice(1), t.bytes),
      ]);
      yield { inputs: Object.fromEntries(one), size: sizes[0]!, padding };
    }
  }

  /**
   * The same batches, several at a time: `steps` is asked before each chunk how many it may hold. All batches
   * of a chunk are of one size.
   */
  *chunks(options: BatchOptions, steps: () => number): Generator<Chunk> {
    const size = this.batchSize(options);
    const count = this.batchCount(options);
    const order = this.#order(options);
    const full = Math.floor(this.length / size);
    for (let i = options.skip ?? 0, k: number; i < count; i += k) {
      k = i < full ? Math.max(1, Math.min(steps(), full - i)) : 1;
      const rows = order.subarray(i * size, (i + k) * size);
      const each = rows.length / k;
      const padding = this.fixedBatch === undefined ? 0 : size - each;
      const filled = padding ? Uint32Array.from({ length: size }, (_, j) => rows[j % each]!) : rows;
      const { inputs } = this.take(filled, [k, each + padding]);
      yield { inputs, sizes: Array(k).fill(each), ...(padding ? { padding } : {}) };
    }
  }

  /** The samples with these numbers; `lead` shapes them otherwise than as one batch. */
  take(rows: Uint32Array, lead: readonly number[] = [rows.length]): Batch {
    const steps = lead.slice(0, -1);
    const inputs = this.columns.map(({ input, array, dtype, dims, scale, batchAxis = 0 }) => {
      if (batchAxis === null) return [input, repeat(convert(array, dtype, scale), steps, dims)];
      const taken = takeRows(array, rows, dtype, [...lead, ...dims], scale);
      return [input, moveAxis(taken, steps.length, steps.length + batchAxis)];
    });
    return { inputs: Object.fromEntries(inputs), size: rows.length };
  }

  #order({ shuffle, epoch = 0 }: BatchOptions): Uint32Array {
    if (shuffle === undefined) return Uint32Array.from({ length: this.length }, (_, i) => i);
    if (!Number.isSafeInteger(shuffle))
      throw new AgdError('bad-option', `A seed of ${shuffle} is not a whole number.`);
    return permutation(this.length, random(shuffle, epoch));
  }
}

/** The array of shape `dims`, once for each of the steps. */
function repeat({ dtype, bytes }: Tensor, steps: readonly number[], dims: readonly number[]): Tensor {
  const count = steps.reduce((n, d) => n * d, 1);
  const all = new Uint8Array(count * bytes.length);
  for (let i = 0; i < count; i++) all.set(bytes, i * bytes.length);
  return new Tensor(dtype, [...steps, ...dims], all);
}

/** Names those that disagree with most, which may have no samples. */
function unequal(columns: readonly Column[], rows: (column: Column) => number): AgdError {
  const having = (count: number) => columns.filter(c => rows(c) === count);
  const counts = [...new Set(columns.map(rows))].sort((a, b) => having(b).length - having(a).length);
  const [usual] = having(counts[0]!);
  const others = columns.filter(c => rows(c) !== counts[0]);
  const [other] = others;
  const flags = others.map(c => `--whole ${c.input}`).join(' ');
  return new AgdError(
    'bad-shape',
    `Array '${usual!.arrayName}' has ${rows(usual!)} rows, but '${other!.arrayName}' has ${rows(other!)}; each row is a sample. ` +
      `What has no samples is fed whole at every step with ${flags}.`,
  );
}
