import { byteLength, type DType } from '../../graph/dtype.js';
import { AgdError } from '../../graph/errors.js';
import { random } from '../../graph/random.js';
import { Tensor } from '../../graph/tensor.js';
import { partOfRank } from '../collective/collective.js';
import { convert, moveAxis, takeRows } from './convert.js';
import {
  blockwise,
  fileOrder,
  inBlocks,
  type Order,
  offsets,
  partOf,
  poissonSample,
  shuffled,
  weighted,
} from './order.js';
import type { ArrayType, Pass, Samples } from './samples.js';
import { foldRows, splitRows } from './split.js';

/**
 * An array and how it feeds a model's input: as `dtype`, each sample (row of the array) in shape `dims`, each element times
 * `scale`, the samples along the input's axis `batchAxis`, the first if not given. Null: the array is fed whole, in shape `dims`.
 * An array of samples that are not in memory is only described; `check` throws for rows that cannot feed the input.
 */
export type Column = {
  input: string;
  array: Tensor | ArrayType;
  arrayName: string;
  /** Whether it was read from a file, to which options of files apply. */
  isFromFile?: boolean;
  dtype: DType;
  dims: readonly number[];
  scale: number;
  batchAxis?: number | null;
  check?: (rows: Tensor) => void;
};

/** `samples` are those of the columns that are only described. */
export type DatasetOptions = {
  /** The batch size where the model has a fixed one. */
  fixedBatch?: number;
  /** Lines for the user on what was assumed. */
  notes?: readonly string[];
  /** The same of what is as one would expect. */
  details?: readonly string[];
  /** The fewest samples that a batch may have, so that a last one of fewer is left out. */
  least?: number;
  samples?: Samples;
  /** The rows of the columns that are samples, in their order; all if not given. */
  rows?: Uint32Array;
  /** The weight of each sample: an epoch with a seed draws in proportion to them, with replacement. */
  weights?: Float64Array;
  /** Each sample is in a batch of an epoch with the same probability, by itself; so many batches share an update. */
  poisson?: number;
  /** Most samples that are shuffled at a time where they are read in blocks. */
  shuffleBuffer?: number;
  /** Changes what a run is fed, batch by batch. */
  mapped?: Mapping;
  /** The rank of a distributed run that this data set is for, and the fewest samples of a part of a batch. */
  shard?: Shard;
};

/** A rank of a distributed run. */
type Shard = { rank: number; size: number; least: number };

/** `rows` are the numbers of the samples in the data, `pass` is the pass over them in training. */
export type Mapping = (batch: Batch, about: { rows: Uint32Array; pass?: Pass }) => Batch | Promise<Batch>;

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
  /** Samples as the data has them, although their order is random: none is augmented or mixed. For evaluation. */
  asStored?: boolean;
};

/** The arrays that batches are written into, by the input. */
type Memory = Map<string, Uint8Array<ArrayBuffer>>;

export const DEFAULT_BATCH_SIZE = 32;

/** Memory for the samples that are shuffled at a time, where they are read in blocks and no number is given. */
export const SHUFFLE_BYTES = 64 * 2 ** 20;
/** Chunks that are prepared before they are asked for: so many, with so many bytes together. */
const AHEAD = { chunks: 4, bytes: 32 * 2 ** 20 };

/**
 * Samples for a model: row i of every column is sample i. Where all columns are fed whole, they are one sample. Conversion
 * is done batch by batch.
 */
export class Dataset {
  /** Number of samples. */
  readonly length: number;
  /** The batch size where the model has a fixed one. */
  readonly fixedBatch: number | undefined;
  readonly #least: number;

  /** Throws `bad-shape` where the arrays differ in length, `bad-data` where they are empty. */
  constructor(
    readonly columns: readonly Column[],
    private readonly options: DatasetOptions = {},
  ) {
    const rows = ({ array }: Column) => array.dims[0] ?? 0;
    const sampled = columns.filter(c => c.batchAxis !== null);
    const [first] = sampled;
    const length = first ? rows(first) : Math.min(1, columns.length);
    const other = sampled.find(c => rows(c) !== length);
    if (first && other) throw unequal(sampled, rows);
    this.length = options.rows?.length ?? length;
    this.fixedBatch = options.fixedBatch;
    this.#least = options.least ?? 1;
    if (this.length === 0) throw new AgdError('bad-data', 'The data has no samples.');
  }

  /** Samples in a full batch. Throws `bad-option`. */
  batchSize({ batchSize, pad }: BatchOptions = {}): number {
    const { fixedBatch } = this;
    const { shard } = this.options;
    const whole = fixedBatch && fixedBatch * (shard?.size ?? 1);
    const size = batchSize ?? whole ?? DEFAULT_BATCH_SIZE;
    if (!Number.isSafeInteger(size) || size < 1)
      throw new AgdError('bad-option', `The batch size must be a whole number of at least 1, not ${size}.`);
    if (whole !== undefined && size !== whole)
      throw new AgdError(
        'bad-option',
        shard
          ? `The model takes batches of exactly ${fixedBatch} samples on each of ${shard.size} ranks, ${whole} in all, not ${size}.`
          : `The model takes batches of exactly ${fixedBatch} samples, not ${size}.`,
      );
    // Ranks evaluate batches, not parts of them.
    return pad && fixedBatch !== undefined ? fixedBatch : size;
  }

  /** Number of batches in a whole pass. Throws `bad-option`, also where not one batch can be filled. */
  batchCount(options: BatchOptions = {}): number {
    const size = this.batchSize(options);
    const { poisson } = this.options;
    if (poisson !== undefined && !options.pad) return Math.ceil(this.length / (size * poisson)) * poisson;
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
    if (options.pad || this.isPoisson) return 0;
    return options.dropLast || this.fixedBatch !== undefined || rest < this.#least ? rest : 0;
  }

  /** Lines for the user on what was assumed. */
  get notes(): readonly string[] {
    const { notes = [], details = [] } = this.options;
    return [...details, ...notes];
  }

  /** The notes on a pass as events have them: what a user should look at is a warning. */
  reportOn(options: BatchOptions = {}): { text: string; level?: 'warning' }[] {
    const details = new Set(this.options.details);
    return this.notesOn(options).map(text => (details.has(text) ? { text } : { text, level: 'warning' }));
  }

  /** Lines for the user on what was assumed, and on what such batches leave out. Throws `bad-option`. */
  notesOn(options: BatchOptions = {}): string[] {
    const rest = this.fixedBatch === undefined ? this.leftOut(options) : 0;
    const short = `${rest} sample${rest === 1 ? '' : 's'}`;
    const why = `The last batch of each epoch would have ${short}, on which batch normalization cannot train`;
    return [...this.notes, ...(rest ? [`${why}: it is left out.`] : [])];
  }

  /** The batches of a pass over the data. Throws as `batchCount` does. */
  async *batches(options: BatchOptions = {}): AsyncGenerator<Batch> {
    for await (const { inputs, sizes, padding } of this.chunks(options, () => 1)) {
      const one = Object.entries(inputs).map(([name, t]) => [
        name,
        new Tensor(t.dtype, t.dims.slice(1), t.bytes),
      ]);
      yield { inputs: Object.fromEntries(one), size: sizes[0]!, padding };
    }
  }

  /**
   * The same batches, several at a time: `steps` is asked before each chunk how many it may hold, given the number
   * in its pass of the batch that it begins with. All batches of a chunk are of one size. Where samples are not in
   * memory, the next chunks are read before they are asked for. Samples that are in memory are copied into the arrays
   * of `reused`, if given: a chunk is then valid until the next one is asked for.
   */
  async *chunks(
    options: BatchOptions,
    steps: (first: number) => number,
    reused?: Memory,
  ): AsyncGenerator<Chunk> {
    const parts = this.#parts(options, steps);
    const { shuffle, epoch = 0, asStored } = options;
    const pass = shuffle === undefined || asStored ? undefined : { seed: shuffle, epoch };
    const memory = this.isInMemory ? reused : undefined;
    const make = async ({ rows, first, lead, padding, size }: Part): Promise<Chunk> => {
      if (!rows.length && size) return { inputs: {}, sizes: [size] };
      const places = this.options.weights && Uint32Array.from(rows, (_, i) => first + i);
      const { inputs } = await this.take(rows, lead, pass && places ? { ...pass, places } : pass, memory);
      const [k, each] = lead as [number, number];
      return { inputs, sizes: Array(k).fill(size ?? each - padding), ...(padding ? { padding } : {}) };
    };
    const ahead: Promise<Chunk>[] = [];
    let most = this.options.samples ? 1 : 0;
    for (;;) {
      while (ahead.length <= most) {
        const { value, done } = parts.next();
        if (done) break;
        const chunk = make(value);
        // Where it fails, whoever awaits it is told.
        chunk.catch(() => {});
        ahead.push(chunk);
      }
      const chunk = await ahead.shift();
      if (!chunk) return;
      if (this.options.samples) most = chunksAhead(chunk);
      yield chunk;
    }
  }

  *#parts(options: BatchOptions, steps: (first: number) => number): Generator<Part> {
    const size = this.batchSize(options);
    const count = this.batchCount(options);
    const { poisson } = this.options;
    if (poisson !== undefined && !options.pad) {
      yield* this.#drawn(options, size, count, poisson);
      return;
    }
    const order = this.#order(options);
    const full = Math.floor(this.length / size);
    const { shard } = this.options;
    if (shard) {
      yield* this.#partsOfRank(options, size, count, order, shard);
      return;
    }
    for (let i = options.skip ?? 0, k: number; i < count; i += k) {
      k = i < full ? Math.max(1, Math.min(steps(i), full - i)) : 1;
      const end = Math.min((i + k) * size, this.length);
      const rows = order.rows(i * size, end);
      if (order.blocks) this.options.samples!.prepare?.(order.blocks(end));
      const each = rows.length / k;
      const padding = this.fixedBatch === undefined ? 0 : size - each;
      const filled = padding ? Uint32Array.from({ length: size }, (_, j) => rows[j % each]!) : rows;
      yield { rows: filled, first: i * size, lead: [k, each + padding], padding };
    }
  }

  /**
   * Of each batch of training this rank's part, with the samples of the whole batch as its size; fewer ranks share a batch that
   * has not enough samples for all. Of an evaluation, in turn whole batches.
   */
  *#partsOfRank(
    options: BatchOptions,
    size: number,
    count: number,
    order: Order,
    { rank, size: ranks, least }: Shard,
  ): Generator<Part> {
    const { skip = 0, pad } = options;
    for (let i = pad ? skip + rank : skip; i < count; i += pad ? ranks : 1) {
      const [first, end] = [i * size, Math.min((i + 1) * size, this.length)];
      const all = end - first;
      const sharing = Math.max(1, Math.min(ranks, Math.floor(all / least)));
      const [from, to] = pad ? [0, all] : rank < sharing ? partOfRank(all, { rank, size: sharing }) : [0, 0];
      const rows = order.rows(first + from, first + to);
      if (order.blocks) this.options.samples!.prepare?.(order.blocks(end));
      const padding = pad && this.fixedBatch !== undefined ? size - all : 0;
      const filled = padding ? Uint32Array.from({ length: size }, (_, j) => rows[j % all]!) : rows;
      yield { rows: filled, first: first + from, lead: [1, filled.length], padding, size: all };
    }
  }

  /** Batches of Poisson sampling: their sizes differ, so that each is a chunk of its own. */
  *#drawn(
    { shuffle = 0, epoch = 0, skip = 0 }: BatchOptions,
    size: number,
    count: number,
    perUpdate: number,
  ): Generator<Part> {
    const draw = random(shuffle, epoch);
    const rate = Math.min(1, (size * perUpdate) / this.length);
    for (let first = 0; first < count; first += perUpdate) {
      const rows = poissonSample(this.length, rate, draw);
      for (let i = 0; i < perUpdate; i++) {
        if (first + i < skip) continue;
        const [from, to] = [i, i + 1].map(j => Math.floor((rows.length * j) / perUpdate));
        const part = rows.subarray(from, to);
        yield { rows: part, first: (first + i) * size, lead: [1, part.length], padding: 0 };
      }
    }
  }

  /** The samples with these numbers; `lead` shapes them otherwise than as one batch, `memory` has arrays to reuse. */
  async take(
    rows: Uint32Array,
    lead: readonly number[] = [rows.length],
    pass?: Pass,
    memory?: Memory,
  ): Promise<Batch> {
    const { samples, rows: chosen, mapped } = this.options;
    const stored = chosen ? rows.map(row => chosen[row]!) : rows;
    const taken = await samples?.take(stored, pass);
    const steps = lead.slice(0, -1);
    const inputs = this.columns.map(
      ({ input, array, arrayName, dtype, dims, scale, batchAxis = 0, check }) => {
        if (batchAxis === null) return [input, repeat(convert(array as Tensor, dtype, scale), steps, dims)];
        const read = array instanceof Tensor ? undefined : taken!.get(arrayName)!;
        if (read) check?.(read);
        const out = read
          ? fromRows(read, dtype, [...lead, ...dims], scale)
          : takeRows(
              array as Tensor,
              stored,
              dtype,
              [...lead, ...dims],
              scale,
              memory && room(memory, input),
            );
        return [input, moveAxis(out, steps.length, steps.length + batchAxis)];
      },
    );
    const batch = { inputs: Object.fromEntries(inputs), size: rows.length };
    return mapped ? mapped(batch, { rows: stored, pass }) : batch;
  }

  /** The rows of the columns that are samples, in their order; undefined for all. */
  get rows(): Uint32Array | undefined {
    return this.options.rows;
  }

  /** Whether no sample has to be read or decoded when it is taken. */
  get isInMemory(): boolean {
    return !this.options.samples;
  }

  /** The same samples, other options. */
  with(options: DatasetOptions): Dataset {
    const notes = [...(options.notes ?? []), ...(this.options.notes ?? [])];
    return new Dataset(this.columns, { ...this.options, ...options, notes });
  }

  /**
   * The samples with these numbers, in this order; ascending where samples are read in blocks. Nothing is copied.
   * Throws `bad-option` for a number that is not one of a sample.
   */
  subset(rows: Iterable<number>): Dataset {
    const chosen = Uint32Array.from(rows);
    const stray = chosen.find(row => row >= this.length);
    if (stray !== undefined)
      throw new AgdError('bad-option', `Sample ${stray} is not one of the ${this.length} samples.`);
    const { rows: own, weights, samples } = this.options;
    if (samples?.isSequential)
      throw new AgdError(
        'bad-option',
        'The samples of a function are read in order, so no part of them can be chosen: give validation data apart from them.',
      );
    if (samples?.blocks) chosen.sort();
    return new Dataset(this.columns, {
      ...this.options,
      rows: own ? chosen.map(row => own[row]!) : chosen,
      ...(weights ? { weights: Float64Array.from(chosen, row => weights[row]!) } : {}),
    });
  }

  /**
   * Two parts, the second with this share of the samples, chosen at random by the seed: with `classes`, the class of each
   * sample, that share of each class. Throws `bad-option` where a part would be empty.
   */
  split(
    share: number,
    { seed = 0, classes }: { seed?: number; classes?: ArrayLike<number> } = {},
  ): [train: Dataset, validation: Dataset] {
    const { train, validation } = splitRows(this.length, share, seed, classes && Int32Array.from(classes));
    return [this.subset(train), this.subset(validation)];
  }

  /** For each of k folds all other samples, and those of the fold. With `classes`, each fold has its share of each class. */
  folds(
    k: number,
    { seed = 0, classes }: { seed?: number; classes?: ArrayLike<number> } = {},
  ): { train: Dataset; validation: Dataset }[] {
    const folds = foldRows(this.length, k, seed, classes && Int32Array.from(classes));
    return folds.map((rows, i) => {
      const others = folds.filter((_, j) => j !== i).flatMap(fold => Array.from(fold));
      return { train: this.subset(others.sort((a, b) => a - b)), validation: this.subset(rows) };
    });
  }

  /** What `change` makes of each batch before it is fed. */
  map(change: Mapping): Dataset {
    const { mapped } = this.options;
    const both: Mapping = async (batch, about) => change(await mapped!(batch, about), about);
    return new Dataset(this.columns, { ...this.options, mapped: mapped ? both : change });
  }

  /** With a seed, epochs draw samples with replacement, in proportion to these weights. Throws `bad-option`. */
  weighted(weights: Float64Array): Dataset {
    if (weights.length !== this.length)
      throw new AgdError('bad-option', `${weights.length} weights were given for ${this.length} samples.`);
    if (this.options.samples?.blocks)
      throw new AgdError(
        'bad-option',
        this.options.samples.isSequential
          ? 'The samples of a function are read in order and cannot be drawn by weight.'
          : 'Samples that are read in blocks cannot be drawn by weight: raise --shuffle-buffer to their number, if they fit in memory.',
      );
    return new Dataset(this.columns, { ...this.options, weights });
  }

  /**
   * What a rank of a distributed run takes: of each batch of training a part of its samples, `least` at least, none if there
   * are too few for all ranks; of an evaluation (`pad`) whole batches in turn. `batchSize` and the sizes of batches are those of
   * all ranks together, as are the order and the number of batches. A batch without samples of this rank has no inputs.
   * Throws `bad-option` for Poisson sampling.
   */
  sharded({ rank, size }: { rank: number; size: number }, least = 1): Dataset {
    if (this.isPoisson)
      throw new AgdError('bad-option', '--sampler poisson cannot be combined with --distributed.');
    return new Dataset(this.columns, { ...this.options, shard: { rank, size, least } });
  }

  /** Whether `sharded` was called. */
  get isSharded(): boolean {
    return this.options.shard !== undefined;
  }

  /** Whether `poisson` was called. */
  get isPoisson(): boolean {
    return this.options.poisson !== undefined;
  }

  /**
   * Batches of Poisson sampling, whose sizes differ: in each update of `perUpdate` batches, each sample is with the same
   * probability, whatever the others are. Throws `bad-option` where the model has a fixed batch, and for samples in blocks.
   */
  poisson(perUpdate = 1): Dataset {
    if (this.fixedBatch !== undefined)
      throw new AgdError(
        'bad-option',
        `--sampler poisson draws batches of different sizes, and the model takes exactly ${this.fixedBatch} samples: make its batch variable with --free-batch.`,
      );
    if (this.options.samples?.blocks)
      throw new AgdError(
        'bad-option',
        'Samples that are read in blocks cannot be drawn by --sampler poisson: raise --shuffle-buffer to their number, if they fit in memory.',
      );
    return new Dataset(this.columns, { ...this.options, poisson: perUpdate });
  }

  #order({ shuffle, epoch = 0 }: BatchOptions): Order {
    const { samples, weights, rows } = this.options;
    const starts = samples?.blocks;
    if (shuffle === undefined) return starts && !rows ? inBlocks(starts) : { rows: fileOrder };
    if (!Number.isSafeInteger(shuffle))
      throw new AgdError('bad-option', `The seed must be a whole number, not ${shuffle}.`);
    if (weights) return weighted(weights, shuffle, epoch);
    if (!samples?.blocks) return shuffled(this.length, shuffle, epoch);
    const blocks = rows ? countIn(samples.blocks, rows) : samples.blocks;
    const { isSequential } = samples;
    return blockwise(blocks, { buffer: this.#shuffleBuffer(), isSequential }, shuffle, epoch);
  }

  /** Samples that are shuffled at a time. */
  #shuffleBuffer(): number {
    const { shuffleBuffer, samples } = this.options;
    if (shuffleBuffer !== undefined) return shuffleBuffer;
    const row = [...samples!.arrays.values()].reduce((n, { dtype, dims }) => {
      return (
        n +
        byteLength(
          dtype,
          dims.reduce((size, d) => size * d, 1),
        )
      );
    }, 0);
    return Math.max(1, Math.floor(SHUFFLE_BYTES / Math.max(1, row)));
  }
}

/** `first` is the place in the pass of the first of the rows, `size` that of the whole batch, if these are a part of one. */
type Part = { rows: Uint32Array; first: number; lead: readonly number[]; padding: number; size?: number };

function chunksAhead({ inputs }: Chunk): number {
  const bytes = Object.values(inputs).reduce((n, t) => n + t.byteLength, 0);
  return Math.max(1, Math.min(AHEAD.chunks, Math.floor(AHEAD.bytes / Math.max(1, bytes))));
}

/** Allocates for an input: its array in `memory` again, where that is large enough. */
function room(memory: Memory, input: string): (size: number) => Uint8Array<ArrayBuffer> {
  return size => {
    const kept = memory.get(input);
    if (kept && kept.length >= size) return kept.subarray(0, size);
    const made = new Uint8Array(size);
    memory.set(input, made);
    return made;
  };
}

/** Fresh rows as the input takes them. */
function fromRows(rows: Tensor, dtype: DType, dims: readonly number[], scale: number): Tensor {
  if (rows.dtype === dtype && scale === 1) return new Tensor(dtype, dims, rows.bytes);
  return new Tensor(dtype, dims, convert(rows, dtype, scale).bytes);
}

/** How many of the rows, which ascend, each block has. */
function countIn(blocks: readonly number[], rows: Uint32Array): number[] {
  const starts = offsets(blocks);
  const counts = blocks.map(() => 0);
  for (const row of rows) counts[partOf(starts, row)]!++;
  return counts;
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
