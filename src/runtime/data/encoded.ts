/** Samples made of records: all at once where they fit in memory, else block by block, or row by row as they are taken. */
import { byteLength } from '../../graph/dtype.js';
import { AgdError } from '../../graph/errors.js';
import { Tensor } from '../../graph/tensor.js';
import { SHUFFLE_BYTES } from './dataset.js';
import { type Encoding, type EncodingSpec, makeEncoding } from './encoding.js';
import { gatherBlock, joinTensors, readAll } from './gather.js';
import { offsets, partOf } from './order.js';
import { hasThreads, Pool, type Task, threadCount } from './pool.js';
import type { Progress } from './progress.js';
import type { Pass, Samples } from './samples.js';
import type { Block, Source } from './source.js';
import type { OpenSource } from './sources/open.js';

/** Encoded samples up to this size are kept in memory. */
const MEMORY = 256 * 2 ** 20;
/** Blocks that are kept, beside those that are shuffled together and the next of them. */
const SPARE_BYTES = 32 * 2 ** 20;
/** What a thread's start is worth: fewer tasks are done in this one. */
const FEW = { blocks: 3, rows: 64 };

export type EncodedOptions = {
  /** Most samples in memory at a time for shuffling: where there are more, they are read in blocks. */
  shuffleBuffer?: number;
  /** The bytes of samples up to which all are kept. */
  memory?: number;
  /** Is told how much of what is loaded now is done. */
  progress?: Progress;
};

/** Samples in memory as arrays, or those that are read when they are taken. */
export type Encoded = { arrays: Map<string, Tensor> } | { samples: Samples; close(): Promise<void> };

/** The samples of a source. Throws `bad-data` with row and column where they are encoded now, else when they are taken. */
export async function encodeSource(
  { source, spec }: OpenSource,
  encodingSpec: EncodingSpec,
  { shuffleBuffer, memory = MEMORY, progress }: EncodedOptions = {},
): Promise<Encoded> {
  const encoding = makeEncoding(encodingSpec);
  const rows = source.blocks.reduce((n, count) => n + count, 0);
  const bytes = bytesOf(encoding);
  const fits = rows * bytes <= memory && (shuffleBuffer === undefined || shuffleBuffer >= rows);
  const isLazy = encoding.isRandom || (encoding.isSlow && !fits);
  const loads = fits && !isLazy;
  const setup = { encoding: encodingSpec, name: source.name };
  const work = new Work(
    encoding,
    source,
    hasThreads() ? new Pool({ ...setup, source: spec }, threadCount(!loads)) : undefined,
    !!spec,
    progress,
  );
  try {
    if (isLazy) {
      const samples = await rowSamples(work);
      return { samples, close: () => work.close() };
    }
    if (encoding.isWindowed) {
      const parts = await countWindows(work, memory, bytes);
      if (parts.arrays) {
        await work.close();
        return { arrays: parts.arrays };
      }
      const samples = blockSamples(work, parts.counts, shuffleBuffer);
      return { samples, close: () => work.close() };
    }
    if (fits) {
      const arrays = await loadAll(work);
      await work.close();
      return { arrays };
    }
    return { samples: blockSamples(work, source.blocks, shuffleBuffer), close: () => work.close() };
  } catch (error) {
    await work.close();
    throw error;
  }
}

/** Bytes of a sample. */
export function bytesOf({ arrays }: Pick<Samples, 'arrays'>): number {
  let sum = 0;
  for (const { dtype, dims } of arrays.values())
    sum += byteLength(
      dtype,
      dims.reduce((n, d) => n * d, 1),
    );
  return Math.max(1, sum);
}

/** Encodes here or in the pool, whichever is there and worth it. */
class Work {
  readonly starts: number[];

  constructor(
    readonly encoding: Encoding,
    readonly source: Source,
    private readonly pool: Pool | undefined,
    private readonly opensSource: boolean,
    readonly progress: Progress = () => {},
  ) {
    this.starts = offsets(source.blocks);
  }

  get width(): number {
    return this.pool?.size ?? 1;
  }

  async block(block: number): Promise<Map<string, Tensor>> {
    const { encoding, source, starts } = this;
    const firstRow = starts[block]! + 1;
    if (this.pool && this.opensSource && source.blocks.length > FEW.blocks)
      return this.pool.run({ block, firstRow });
    return encoding.encode(await source.read(block, encoding.fields), { source: source.name, firstRow });
  }

  async rows(records: Block, rows: Uint32Array, pass?: Pass): Promise<Map<string, Tensor>> {
    const part = gatherBlock(records, rows);
    if (this.pool && records.rows > FEW.rows) {
      const task: Task = { records: part.values, rows, pass };
      return this.pool.run(task);
    }
    return this.encoding.encode(part, { source: this.source.name, firstRow: 1, rows, pass });
  }

  close = () => this.pool?.close() ?? Promise.resolve();
}

/** Every block, some at a time, in order. */
async function eachBlock(
  work: Work,
  visit: (arrays: Map<string, Tensor>, block: number) => void,
): Promise<void> {
  const blocks = work.source.blocks.length;
  const ahead: Promise<Map<string, Tensor>>[] = [];
  for (let next = 0, block = 0; block < blocks; block++) {
    while (next < blocks && ahead.length < work.width + 1) {
      const encoded = work.block(next++);
      encoded.catch(() => {});
      ahead.push(encoded);
    }
    visit(await ahead.shift()!, block);
    work.progress('encode', (block + 1) / blocks);
  }
}

async function loadAll(work: Work): Promise<Map<string, Tensor>> {
  const { encoding, source, starts } = work;
  const rows = starts.at(-1)!;
  const arrays = new Map<string, Tensor>();
  for (const [name, { dtype, dims }] of encoding.arrays) {
    const size = dims.reduce((n, d) => n * d, 1);
    arrays.set(name, new Tensor(dtype, [rows, ...dims], new Uint8Array(byteLength(dtype, rows * size))));
  }
  await eachBlock(work, (part, block) => {
    for (const [name, { bytes }] of part) {
      const array = arrays.get(name)!;
      array.bytes.set(bytes, (array.byteLength / rows) * starts[block]!);
    }
  });
  if (source.blocks.length === 0) throw new AgdError('bad-data', `${source.name} has no rows.`);
  return arrays;
}

/** The windows of each block of text, and all of them where they fit in memory. */
async function countWindows(work: Work, memory: number, bytes: number) {
  const counts: number[] = [];
  let parts: Map<string, Tensor[]> | undefined = new Map();
  let total = 0;
  await eachBlock(work, block => {
    const [first] = block.values();
    const count = first!.dims[0]!;
    counts.push(count);
    total += count;
    if (total * bytes > memory) parts = undefined;
    for (const [name, array] of block) parts?.set(name, [...(parts.get(name) ?? []), array]);
  });
  if (total === 0)
    throw new AgdError(
      'bad-data',
      `${work.source.name} is shorter than one window: make the windows shorter.`,
    );
  const arrays = parts && new Map([...parts].map(([name, list]) => [name, joinTensors(list)]));
  return { counts, arrays };
}

/** Samples in blocks, of which those in use and the next are kept. */
function blockSamples(work: Work, blocks: readonly number[], shuffleBuffer?: number): Samples {
  const { encoding } = work;
  const starts = offsets(blocks);
  const row = bytesOf(encoding);
  const largest = blocks.reduce((n, rows) => Math.max(n, rows), 0);
  const window = Math.max(largest * row, shuffleBuffer === undefined ? SHUFFLE_BYTES : shuffleBuffer * row);
  const capacity = 2 * window + SPARE_BYTES;
  const kept = new Map<number, Promise<Map<string, Tensor>>>();
  let held = 0;
  const load = (block: number) => {
    let arrays = kept.get(block);
    kept.delete(block);
    if (!arrays) {
      arrays = work.block(block);
      // Whoever awaits it is told; the next one who asks tries again.
      arrays.catch(() => {
        if (kept.delete(block)) held -= blocks[block]! * row;
      });
      held += blocks[block]! * row;
    }
    kept.set(block, arrays);
    for (const [oldest] of kept) {
      if (held <= capacity || oldest === block) break;
      kept.delete(oldest);
      held -= blocks[oldest]! * row;
    }
    return arrays;
  };
  return {
    length: starts.at(-1)!,
    arrays: encoding.arrays,
    blocks,
    prepare(wanted) {
      for (const block of wanted) if (!kept.has(block)) load(block);
    },
    async take(rows) {
      const byBlock = new Map<number, { from: number[]; to: number[] }>();
      for (const [i, taken] of rows.entries()) {
        const block = partOf(starts, taken);
        const places = byBlock.get(block) ?? { from: [], to: [] };
        places.from.push(taken - starts[block]!);
        places.to.push(i);
        byBlock.set(block, places);
      }
      const out = new Map<string, Tensor>();
      for (const [name, { dtype, dims }] of encoding.arrays) {
        const size = byteLength(
          dtype,
          dims.reduce((n, d) => n * d, 1),
        );
        out.set(name, new Tensor(dtype, [rows.length, ...dims], new Uint8Array(rows.length * size)));
      }
      const loading = [...byBlock].map(async ([block, places]) => [await load(block), places] as const);
      for (const [arrays, { from, to }] of await Promise.all(loading))
        for (const [name, array] of arrays) copyRows(array, from, out.get(name)!, to);
      return out;
    },
  };
}

function copyRows(from: Tensor, rows: readonly number[], out: Tensor, places: readonly number[]): void {
  const width = out.dims[0] ? out.byteLength / out.dims[0] : 0;
  const { bytes } = from;
  for (const [i, row] of rows.entries())
    out.bytes.set(bytes.subarray(row * width, (row + 1) * width), places[i]! * width);
}

/** Samples whose records are in memory, as paths of images are, and which are made as they are taken. */
async function rowSamples(work: Work): Promise<Samples> {
  const { encoding, source } = work;
  const records = await readAll(source, encoding.fields);
  return {
    length: records.rows,
    arrays: encoding.arrays,
    async take(rows, pass) {
      const count = Math.min(work.width, rows.length) || 1;
      const bounds = Array.from({ length: count + 1 }, (_, i) => Math.round((i * rows.length) / count));
      const parts = await Promise.all(
        bounds.slice(1).map((end, i) => {
          const places = pass?.places?.slice(bounds[i], end);
          return work.rows(records, rows.slice(bounds[i], end), places ? { ...pass!, places } : pass);
        }),
      );
      return new Map(
        [...encoding.arrays.keys()].map(name => [name, joinTensors(parts.map(part => part.get(name)!))]),
      );
    },
  };
}
