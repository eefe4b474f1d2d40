/** Samples that a program gives one after the other: in parts of some of them, or spooled where they are too many. */
import { closeSync, mkdtempSync, openSync, read, rmdirSync, unlinkSync, write } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { byteLength, type DType } from '../../graph/dtype.js';
import { AgdError } from '../../graph/errors.js';
import { ioError } from '../../graph/files.js';
import { Tensor } from '../../graph/tensor.js';
import { blockSamples, bytesOf, takeFrom } from './block-samples.js';
import { convert } from './convert.js';
import { SHUFFLE_BYTES } from './dataset.js';
import { joinArrays, joinTensors } from './join.js';
import { offsets, partOf } from './order.js';
import type { Pass, Samples } from './samples.js';
import { type NestedArray, type TensorLike, toTensor } from './to-tensor.js';

/** A sample: a value, or an array of them, by the name of the input or array that it belongs to. */
export type Sample = Readonly<Record<string, NestedArray | Tensor | number | bigint | boolean | string>>;

/** Some samples together: arrays with a row for each, as a `Batch` has them. */
export type SampleBatch = { inputs: Readonly<Record<string, TensorLike>>; size?: number };

export type Sequence = Iterable<Sample | SampleBatch> | AsyncIterable<Sample | SampleBatch>;

/** Rows of arrays by name. */
type Part = { path: string; rows: number; arrays: Map<string, Tensor> };

/** Samples that become arrays together. */
const PART_ROWS = 256;
/** Sequences of no more than this are kept in memory. */
const MEMORY = 256 * 2 ** 20;

/** The arrays of a sequence, or samples that lie in a temporary file. Throws `bad-data`, `bad-shape`, `io`. */
export async function readSequence(
  sequence: Sequence,
  { memory = MEMORY, shuffleBuffer }: { memory?: number; shuffleBuffer?: number } = {},
): Promise<{ arrays: Map<string, Tensor> } | { samples: Samples; close(): Promise<void> }> {
  const kept: Part[] = [];
  let bytes = 0;
  let spool: Spool | undefined;
  try {
    for await (const part of partsOf(sequence)) {
      for (const array of part.arrays.values()) bytes += array.byteLength;
      if (!spool && bytes <= memory) {
        kept.push(part);
        continue;
      }
      spool ??= new Spool();
      for (const before of kept.splice(0)) await spool.add(before);
      await spool.add(part);
    }
  } catch (error) {
    await spool?.close();
    throw error;
  }
  if (spool) return { samples: spool.samples(shuffleBuffer), close: () => spool.close() };
  if (!kept.length) throw new AgdError('bad-data', 'The data has no samples.');
  const types = new Types();
  for (const part of kept) types.add(part);
  return { arrays: joinArrays(kept.map(part => ({ ...part, arrays: types.unify(part) }))) };
}

/**
 * Samples of a function that gives a fresh sequence for each pass. One pass is made now, to know their number and types;
 * later ones are read in order, and shuffled within a buffer. Throws `bad-data`, `bad-shape`.
 */
export async function passSamples(
  make: (epoch: number) => Sequence,
  { shuffleBuffer }: { shuffleBuffer?: number } = {},
): Promise<{ samples: Samples; close(): Promise<void> }> {
  const types = new Types();
  for await (const part of partsOf(sequenceOf(make, 0))) types.add(part);
  if (!types.rows) throw new AgdError('bad-data', 'The data has no samples.');
  const arrays = types.arrays();
  const size = shuffleBuffer ?? Math.max(1, Math.floor(SHUFFLE_BYTES / bytesOf({ arrays })));
  const passes = new Passes(make, types, size);
  return { samples: passes, close: () => passes.close() };
}

function sequenceOf(make: (epoch: number) => Sequence, epoch: number): Sequence {
  const sequence: unknown = make(epoch);
  if (typeof sequence === 'object' && sequence !== null)
    if (Symbol.iterator in sequence || Symbol.asyncIterator in sequence) return sequence as Sequence;
  throw new AgdError(
    'bad-data',
    `The function that gives the data returned ${String(sequence)}; expected a sequence of samples or batches, as a generator function does.`,
  );
}

/** What the parts of a sequence have in common: the element types that hold all of them, and the shape of a sample. */
class Types {
  rows = 0;
  readonly #types = new Map<string, DType>();
  #dims: ReadonlyMap<string, readonly number[]> | undefined;

  /** Throws `bad-data` for a part with other arrays than the first one. */
  add(part: Part): void {
    const { path, arrays, rows } = part;
    this.#dims ??= new Map([...arrays].map(([name, { dims }]) => [name, dims.slice(1)]));
    for (const name of new Set([...this.#dims.keys(), ...arrays.keys()])) {
      const array = arrays.get(name);
      const dims = this.#dims.get(name);
      const before = this.#types.get(name) ?? array?.dtype;
      const both = array && both64(before!, array.dtype);
      if (!both || String(dims) !== String(array.dims.slice(1)))
        throw unlike(name, path, array, dims && `${before} [${dims}]`);
      this.#types.set(name, both);
    }
    this.rows += rows;
  }

  arrays(): Samples['arrays'] {
    return new Map([...this.#dims!].map(([name, dims]) => [name, { dtype: this.#types.get(name)!, dims }]));
  }

  /** The arrays of a part, with these types. Throws `bad-data` where they are others. */
  unify({ path, arrays }: Part): Map<string, Tensor> {
    return new Map(
      [...this.arrays()].map(([name, { dtype, dims }]) => {
        const array = arrays.get(name);
        if (!array || both64(dtype, array.dtype) !== dtype || String(dims) !== String(array.dims.slice(1)))
          throw unlike(name, path, array, `${dtype} [${dims}]`);
        return [name, array.dtype === dtype ? array : convert(array, dtype)];
      }),
    );
  }
}

/** Whole numbers and others, which plain arrays tell apart by their values alone, are one type. Others do not mix. */
function both64(a: DType, b: DType): DType | undefined {
  if (a === b) return a;
  return [a, b].every(dtype => dtype === 'int64' || dtype === 'float64') ? 'float64' : undefined;
}

function unlike(name: string, path: string, array: Tensor | undefined, before: string | undefined): AgdError {
  const is = array ? `${array.dtype} [${array.dims.slice(1)}]` : 'missing';
  return new AgdError('bad-data', `${path}: array '${name}' is ${is}, but ${before ?? 'missing'} before.`);
}

/** Samples in order, some at a time; batches as they are. Throws `bad-data`, `bad-shape`. */
async function* partsOf(sequence: Sequence): AsyncGenerator<Part> {
  let columns = new Map<string, unknown[]>();
  let [rows, batches] = [0, 0];
  const mixed = () => new AgdError('bad-data', 'The data mixes samples with batches: give one or the other.');
  const waiting = () => columns.values().next().value?.length ?? 0;
  const part = () => {
    const count = waiting();
    const arrays = new Map([...columns].map(([name, column]) => [name, stacked(column, name)]));
    columns = new Map([...columns.keys()].map(name => [name, []]));
    return {
      path: count > 1 ? `samples ${rows - count} to ${rows - 1}` : `sample ${rows - 1}`,
      rows: count,
      arrays,
    };
  };
  for await (const sample of sequence) {
    if (isBatch(sample)) {
      if (rows) throw mixed();
      const path = `batch ${batches++}`;
      const arrays = new Map(
        Object.entries(sample.inputs).map(([name, array]) => [name, toTensor(array, name)]),
      );
      const [first] = arrays.values();
      const other = [...arrays].find(([, { dims }]) => dims[0] !== first!.dims[0]);
      if (!first || other)
        throw new AgdError(
          'bad-data',
          `${path} has ${first ? `arrays of different lengths: '${other![0]}' has ${other![1].dims[0] ?? 0} rows, and the first ${first.dims[0] ?? 0}` : 'no arrays'}.`,
        );
      yield { path, rows: first.dims[0]!, arrays };
      continue;
    }
    if (batches) throw mixed();
    if (typeof sample !== 'object' || sample === null || Array.isArray(sample))
      throw new AgdError(
        'bad-data',
        `Sample ${rows} is not an object of values by name, as { x: [1, 2], target: 0 }.`,
      );
    const count = waiting();
    for (const [name, value] of Object.entries(sample)) {
      if (rows && !columns.has(name)) throw missing(name, rows);
      const column = columns.get(name) ?? [];
      columns.set(name, column);
      column.push(value);
    }
    for (const [name, column] of columns) if (column.length !== count + 1) throw missing(name, rows);
    rows++;
    if (count + 1 === PART_ROWS) yield part();
  }
  if (waiting()) yield part();
}

/** The values of samples as the rows of an array. */
function stacked(column: readonly unknown[], name: string): Tensor {
  if (!column.every(value => value instanceof Tensor)) return toTensor(column as NestedArray, name);
  const rows = column.map(({ dtype, dims, bytes }) => new Tensor(dtype, [1, ...dims], bytes));
  const [first] = rows as [Tensor];
  const other = rows.find(({ dtype, dims }) => dtype !== first.dtype || String(dims) !== String(first.dims));
  if (!other) return joinTensors(rows);
  const shown = ({ dtype, dims }: Tensor) => `${dtype} [${dims.slice(1)}]`;
  throw new AgdError(
    'bad-shape',
    `Array '${name}' has rows of different shapes: ${shown(first)} and ${shown(other)}.`,
  );
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

const [readAt, writeAt] = [promisify(read), promisify(write)];

/** Files of datasets that nobody closes. */
const abandoned = new FinalizationRegistry<number>(closeSync);

/** A temporary file without a name, which is gone when it is closed. */
class Spool {
  readonly #types = new Types();
  /** Of each part the types that it is stored with, and where it begins. */
  readonly #parts: { rows: number; start: number; dtypes: Map<string, DType> }[] = [];
  #size = 0;

  readonly #file: number;

  constructor() {
    const folder = mkdtempSync(join(tmpdir(), 'agd-onnx-'));
    this.#file = openSync(join(folder, 'data'), 'wx+');
    abandoned.register(this, this.#file, this);
    unlinkSync(join(folder, 'data'));
    rmdirSync(folder);
  }

  async add(part: Part): Promise<void> {
    this.#types.add(part);
    const dtypes = new Map([...part.arrays].map(([name, { dtype }]) => [name, dtype]));
    this.#parts.push({ rows: part.rows, start: this.#size, dtypes });
    // In the order of the first part's arrays.
    for (const name of this.#types.arrays().keys()) {
      const { bytes } = part.arrays.get(name)!;
      try {
        for (let at = 0; at < bytes.length; )
          at += (await writeAt(this.#file, bytes, at, bytes.length - at, this.#size + at)).bytesWritten;
      } catch (error) {
        throw ioError('Cannot write the temporary file of samples that do not fit in memory', error);
      }
      this.#size += bytes.length;
    }
  }

  samples(shuffleBuffer?: number): Samples {
    const arrays = this.#types.arrays();
    const blocks = this.#parts.map(({ rows }) => rows);
    return blockSamples({ arrays, blocks, shuffleBuffer, read: block => this.#read(block, arrays) });
  }

  async #read(block: number, arrays: Samples['arrays']): Promise<Map<string, Tensor>> {
    const { rows, start, dtypes } = this.#parts[block]!;
    const found = new Map<string, Tensor>();
    let at = start;
    for (const [name, { dims }] of arrays) {
      const dtype = dtypes.get(name)!;
      const size = dims.reduce((n, d) => n * d, rows);
      const tensor = new Tensor(dtype, [rows, ...dims], new Uint8Array(byteLength(dtype, size)));
      await readAt(this.#file, tensor.bytes, 0, tensor.byteLength, at);
      at += tensor.byteLength;
      found.set(name, tensor);
    }
    return this.#types.unify({ path: 'the temporary file', rows, arrays: found });
  }

  async close(): Promise<void> {
    if (abandoned.unregister(this)) closeSync(this.#file);
  }
}

/** The samples of one pass after the other, of which those between two places are in memory. */
class Passes implements Samples {
  readonly isSequential = true;
  readonly length: number;
  readonly arrays: Samples['arrays'];
  readonly blocks: readonly number[];
  readonly #starts: readonly number[];
  #pass:
    | { epoch: number; iterator: AsyncGenerator<Part>; parts: Part[]; from: number; to: number }
    | undefined;
  #turn: Promise<unknown> = Promise.resolve();

  constructor(
    private readonly make: (epoch: number) => Sequence,
    private readonly types: Types,
    size: number,
  ) {
    this.length = types.rows;
    this.arrays = types.arrays();
    this.blocks = Array.from({ length: Math.ceil(this.length / size) }, (_, i) =>
      Math.min(size, this.length - i * size),
    );
    this.#starts = offsets(this.blocks);
  }

  /** Rows are taken in the order of a pass. */
  take(rows: Uint32Array, pass?: Pass): Promise<Map<string, Tensor>> {
    const turn = this.#turn.then(() => this.#take(rows, pass?.epoch ?? 0));
    // Whoever awaits it is told.
    this.#turn = turn.catch(() => {});
    return turn;
  }

  async #take(rows: Uint32Array, epoch: number): Promise<Map<string, Tensor>> {
    const least = rows.reduce((a, b) => Math.min(a, b), this.length);
    const most = rows.reduce((a, b) => Math.max(a, b), 0);
    const from = this.#starts[partOf(this.#starts, least)]!;
    if (this.#pass?.epoch !== epoch || from < this.#pass.from) {
      await this.close();
      const iterator = partsOf(sequenceOf(this.make, epoch));
      this.#pass = { epoch, iterator, parts: [], from: 0, to: 0 };
    }
    const pass = this.#pass!;
    const drop = () => {
      while (pass.parts.length && pass.from + pass.parts[0]!.rows <= from)
        pass.from += pass.parts.shift()!.rows;
    };
    while (pass.to <= most) {
      const { value, done } = await pass.iterator.next();
      if (done)
        throw new AgdError(
          'bad-data',
          `The data of epoch ${epoch + 1} end after ${pass.to} samples, and the first pass over them had ${this.length}: each has to give as many.`,
        );
      pass.parts.push({
        ...value,
        arrays: this.types.unify({ ...value, path: `epoch ${epoch + 1}, ${value.path}` }),
      });
      pass.to += value.rows;
      drop();
      if (pass.to >= this.length) await this.#demandEnd(pass);
    }
    drop();
    const starts = offsets(pass.parts.map(part => part.rows));
    const places = rows.map(row => row - pass.from);
    return takeFrom(starts, this.arrays, places, part => pass.parts[part]!.arrays);
  }

  /** Further samples would be left out without a word. */
  async #demandEnd({ epoch, iterator, to }: { epoch: number; iterator: AsyncGenerator<Part>; to: number }) {
    const { value, done } = to > this.length ? { value: undefined, done: false } : await iterator.next();
    if (done) return;
    throw new AgdError(
      'bad-data',
      `The data of epoch ${epoch + 1} have at least ${to + (value?.rows ?? 0)} samples, and the first pass over them had ${this.length}: each has to give as many.`,
    );
  }

  async close(): Promise<void> {
    const { iterator } = this.#pass ?? {};
    this.#pass = undefined;
    await iterator?.return(undefined);
  }
}
