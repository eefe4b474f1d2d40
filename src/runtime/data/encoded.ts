/** Samples made of records: all at once where they fit in memory, else block by block, or row by row as they are taken. */
import { byteLength } from '../../graph/dtype.js';
import { AgdError } from '../../graph/errors.js';
import { Tensor } from '../../graph/tensor.js';
import { blockSamples, bytesOf } from './block-samples.js';
import { type Encoding, type EncodingSpec, makeEncoding } from './encoding.js';
import { gatherBlock } from './gather.js';
import { joinTensors, readAll } from './join.js';
import { offsets } from './order.js';
import { hasThreads, Pool, type Task, threadCount } from './pool.js';
import type { Progress } from './progress.js';
import type { Pass, Samples } from './samples.js';
import type { Block, Source } from './source.js';
import type { OpenSource } from './sources/open.js';

/** Encoded samples up to this size are kept in memory. */
const MEMORY = 256 * 2 ** 20;
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
export type Encoded = ({ arrays: Map<string, Tensor> } | { samples: Samples; close(): Promise<void> }) & {
  /** Lines for the user on how samples were made. */
  notes?: readonly string[];
};

/** The samples of a source. Throws `bad-data` with row and column where they are encoded now, else when they are taken. */
export async function encodeSource(
  { source, spec, rows: kept }: OpenSource,
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
    hasThreads() ? new Pool({ ...setup, source: spec, rows: kept }, threadCount(!loads)) : undefined,
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
        return { arrays: parts.arrays, notes: parts.notes };
      }
      return { ...inBlocks(work, parts.counts, shuffleBuffer), notes: parts.notes };
    }
    if (fits) {
      const arrays = await loadAll(work);
      await work.close();
      return { arrays };
    }
    return inBlocks(work, source.blocks, shuffleBuffer);
  } catch (error) {
    await work.close();
    throw error;
  }
}

function inBlocks(work: Work, blocks: readonly number[], shuffleBuffer?: number): Encoded {
  const { arrays } = work.encoding;
  const samples = blockSamples({ arrays, blocks, shuffleBuffer, read: block => work.block(block) });
  return { samples, close: () => work.close() };
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
  const packing = { pieces: 0, tokens: 0, length: 0 };
  await eachBlock(work, block => {
    const segments = block.get(work.encoding.segments ?? '');
    if (segments) addPacking(packing, segments);
    const [first] = block.values();
    const count = first!.dims[0]!;
    counts.push(count);
    total += count;
    if (total * bytes > memory) parts = undefined;
    for (const [name, array] of block) parts?.set(name, [...(parts.get(name) ?? []), array]);
  });
  if (total === 0 && work.encoding.hasDocuments)
    throw new AgdError('bad-data', `No document of ${work.source.name} has two tokens or more.`);
  if (total === 0)
    throw new AgdError(
      'bad-data',
      `${work.source.name} is shorter than one window: make the windows shorter.`,
    );
  const arrays = parts && new Map([...parts].map(([name, list]) => [name, joinTensors(list)]));
  return { counts, arrays, notes: packing.length ? [describePacking(packing, total)] : [] };
}

type Packing = { pieces: number; tokens: number; length: number };

/** Counts the windows of documents in these rows, and their tokens. */
function addPacking(packing: Packing, segments: Tensor): void {
  const [rows, length] = segments.dims as [number, number];
  const numbers = segments.numbers();
  packing.length = length;
  for (let row = 0; row < rows; row++) {
    let last = 0;
    for (let i = row * length; i < (row + 1) * length && numbers[i]; i++) {
      last = numbers[i]!;
      packing.tokens++;
    }
    packing.pieces += last;
  }
}

function describePacking({ pieces, tokens, length }: Packing, rows: number): string {
  const [before, after] = [pieces, rows].map(n => n * length - tokens);
  const count = (n: number) => n.toLocaleString('en-US');
  return `Packed ${count(pieces)} documents into ${count(rows)} rows of ${length} tokens: ${count(after!)} tokens of padding instead of ${count(before!)}.`;
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
