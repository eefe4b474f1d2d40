/** Opens files of records by what they hold: by the name's ending, else by the first bytes. */
import { readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { characters } from '../../../graph/bytes.js';
import { AgdError } from '../../../graph/errors.js';
import { ioError } from '../../../graph/files.js';
import type { Progress } from '../progress.js';
import { someRows } from '../some-rows.js';
import type { FieldKind, Source } from '../source.js';
import { concatSources } from './concat.js';
import type { CsvIndex } from './csv.js';
import { type DataFile, openFile } from './file.js';
import type { JsonIndex } from './json.js';
import type { Kinds } from './kinds.js';
import type { TextIndex } from './text.js';

export type Format = 'arrays' | 'csv' | 'json' | 'parquet' | 'arrow' | 'text' | 'folder';

const ENDINGS: readonly [Format, RegExp][] = [
  ['arrays', /\.(npz|npy|safetensors)$/i],
  ['csv', /\.(csv|tsv)(\.gz)?$/i],
  ['json', /\.(jsonl|ndjson|json)(\.gz)?$/i],
  ['parquet', /\.(parquet|pq)$/i],
  ['arrow', /\.(arrow|arrows|feather|ipc)$/i],
  ['text', /\.(txt|text|md)(\.gz)?$/i],
];

/** Throws `io`, and `bad-data` where the file is of no format that can be read. */
export async function formatOf(path: string): Promise<Format> {
  const info = await stat(path).catch(error => {
    throw ioError(`Cannot read '${path}'`, error);
  });
  if (info.isDirectory()) return 'folder';
  const ending = ENDINGS.find(([, pattern]) => pattern.test(path))?.[0];
  if (ending) return ending;
  // A pipe is read once: what comes through it is arrays.
  if (!info.isFile()) return 'arrays';
  const file = await openFile(path);
  try {
    const head = await file.read(0, 16);
    const text = characters(head);
    if (text.startsWith('PAR1')) return 'parquet';
    if (text.startsWith('ARROW1') || (head.length >= 4 && head.subarray(0, 4).every(byte => byte === 0xff)))
      return 'arrow';
    if (/^PK|^.NUMPY/.test(text) || text[8] === '{') return 'arrays';
    if (/^(\xef\xbb\xbf)?\s*[{[]/.test(text)) return 'json';
  } finally {
    await file.close();
  }
  throw new AgdError(
    'bad-data',
    `${path} is not a .npz, .npy or .safetensors file, nor .csv, .tsv, .parquet, .arrow, .jsonl, .json or .txt.`,
  );
}

/** How a file is opened again, in another thread too: what one pass over it has found is not looked for twice. */
export type SourceSpec = { path: string; format: Format; index?: CsvIndex | JsonIndex | TextIndex }[];

/** A source and, where other threads can open it too, how: it is `rows` of what the spec opens, or all. */
export type OpenSource = { source: Source; spec?: SourceSpec; rows?: Uint32Array };

/** What is made of the records of one file; `first` is what was made of those of the first file. */
export type Wrap = (source: Source, path: string, first: Source | undefined) => Promise<Source>;

export type OpenOptions = {
  /** Kinds of columns that are known already. */
  kinds?: Kinds;
  wrap?: Wrap;
  progress?: Progress;
};

/** The records of files, one after the other. Throws `io` and `bad-data`. */
export async function openSource(
  paths: readonly string[],
  { kinds = new Map(), wrap = async source => source, progress }: OpenOptions = {},
): Promise<OpenSource> {
  const opened: { source: Source; spec?: SourceSpec[number] }[] = [];
  const share = (i: number) => (done: number) => progress?.('index', (i + done) / paths.length);
  try {
    for (const [i, path] of paths.entries())
      opened.push(await openOne(path, { kinds, wrap, first: opened[0]?.source, progress: share(i) }));
    const source = await concatSources(
      opened.map(({ source }) => source),
      async (i, wider: ReadonlyMap<string, FieldKind>) => {
        const first = i ? opened[0]!.source : undefined;
        opened[i] = await openOne(paths[i]!, { kinds: wider, wrap, first, progress: share(i) });
        return opened[i].source;
      },
    );
    const specs = opened.flatMap(({ spec }) => spec ?? []);
    return { source, ...(specs.length === opened.length ? { spec: specs } : {}) };
  } catch (error) {
    for (const { source } of opened) await source.close().catch(() => {});
    throw error;
  }
}

/** The source that a spec describes, or some rows of it. */
export async function reopenSource(spec: SourceSpec, rows?: Uint32Array): Promise<Source> {
  const sources = await Promise.all(spec.map(async one => sourceOf(await openFile(one.path), one)));
  const all = await concatSources(sources, async i => sourceOf(await openFile(spec[i]!.path), spec[i]!));
  return rows ? someRows(all, rows) : all;
}

type One = { kinds: Kinds; wrap: Wrap; first: Source | undefined; progress: (share: number) => void };

async function openOne(path: string, { kinds, wrap, first, progress }: One) {
  const format = await formatOf(path);
  if (format === 'arrays' || format === 'folder')
    throw new AgdError('bad-data', `${path} cannot be read together with files of records.`);
  const file = await openFile(path);
  try {
    // Files of text hold the paths of images; `wrap` tells that they are paths.
    const own = new Map([...kinds].map(([name, kind]) => [name, kind === 'image' ? 'text' : kind]));
    const index = await indexOf(withProgress(file, progress), format, own);
    const spec = { path, format, ...(index ? { index } : {}) };
    const plain = await sourceOf(file, spec);
    const source = await wrap(plain, path, first);
    // Other threads can open the file, and do not know what was made of it.
    return { source, ...(file.isTemporary || source !== plain ? {} : { spec }) };
  } catch (error) {
    await file.close();
    throw error;
  }
}

/** The same file; what is read of it beyond all that was read before is progress. */
function withProgress(file: DataFile, progress: (share: number) => void): DataFile {
  let most = 0;
  return {
    ...file,
    read(start, end) {
      most = Math.max(most, start);
      progress(most / file.size);
      return file.read(start, end);
    },
  };
}

async function indexOf(file: DataFile, format: Format, kinds: Kinds) {
  switch (format) {
    case 'csv':
      return (await import('./csv.js')).indexCsv(file, { kinds });
    case 'json':
      return (await import('./json.js')).indexJson(file, { kinds });
    case 'text':
      return (await import('./text.js')).indexText(file);
    default:
      return undefined;
  }
}

async function sourceOf(file: DataFile, { format, index }: SourceSpec[number]): Promise<Source> {
  switch (format) {
    case 'csv':
      return (await import('./csv.js')).csvSource(file, index as CsvIndex);
    case 'json':
      return (await import('./json.js')).jsonSource(file, index as JsonIndex);
    case 'text':
      return (await import('./text.js')).textSource(file, index as TextIndex);
    case 'parquet':
      return (await import('./parquet.js')).parquetSource(file);
    default:
      return (await import('./arrow.js')).arrowSource(file);
  }
}

/** The files that paths and globs name, those of a glob in order. Throws `io` where there are none. */
export async function expandPaths(paths: readonly string[]): Promise<string[]> {
  const found: string[] = [];
  for (const path of paths) found.push(...((await exists(path)) ? [path] : await expandGlob(path)));
  return found;
}

const exists = (path: string) =>
  stat(path).then(
    () => true,
    () => false,
  );

async function expandGlob(pattern: string): Promise<string[]> {
  const { default: picomatch } = await import('picomatch');
  const { base, glob, isGlob } = picomatch.scan(pattern);
  // What is no glob is left to whoever opens it, who says why that fails.
  if (!isGlob) return [pattern];
  const folder = base || '.';
  const names = await readdir(folder, { recursive: glob.includes('**') || glob.includes('/') }).catch(
    error => {
      throw ioError(`Cannot read '${folder}'`, error);
    },
  );
  const matches = picomatch(glob);
  const files = names.map(name => name.replaceAll('\\', '/')).filter(name => matches(name));
  if (!files.length) throw new AgdError('io', `No file matches '${pattern}'.`);
  return files.sort().map(name => (base ? join(base, name) : name));
}
