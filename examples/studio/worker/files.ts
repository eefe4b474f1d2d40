/** Sorts dropped files into model and data. */
import { files } from 'agd-onnx/web';
import { unzipSync } from 'fflate';
import type { Dropped } from '../protocol.js';
import { DATA, dataChanged, isFolder, list, MODEL } from './storage.js';

const TABLES = /\.(csv|tsv|json|jsonl|ndjson|parquet|arrow|feather|npz|npy|safetensors)(\.gz)?$/i;
const IMAGES = /\.(jpe?g|png|webp|gif|avif)$/i;
/** External data of a model has no ending of its own. */
const WEIGHTS = /\.(onnx[._]data|data|bin|pb)$/i;

/** The folders of model and data. */
export type Folders = { model: string; data: string };

/** Files that came in, in memory only, until it is known that they can be read. */
const INCOMING = { model: '/incoming/model', data: '/incoming/data' };

type Incoming = {
  /** Where model and data are, the new ones in place of the old. */
  folders: Folders;
  /** Names of files that are neither. */
  ignored: string[];
  /** Replaces what the studio has. */
  keep(): Promise<void>;
};

/** Throws for files of neither kind. */
export async function receive(dropped: readonly Dropped[]): Promise<Incoming> {
  const all = (await Promise.all(dropped.map(unpacked))).flat().filter(({ path }) => isVisible(path));
  const models = all.filter(({ path }) => /\.onnx$/i.test(path));
  const weights = all.filter(({ path }) => WEIGHTS.test(path));
  const data = all.filter(({ path }) => TABLES.test(path) || IMAGES.test(path));
  if (models.length > 1) throw new Error(`${models.map(m => m.path).join(', ')}: drop one model at a time.`);
  const known = models.length + weights.length + data.length;
  if (!known)
    throw new Error(
      `${all[0]?.path ?? 'An empty folder'} is not a model (.onnx) or data (CSV, JSON, Parquet, Arrow, .npz, .safetensors, images).`,
    );
  const ignored = all.filter(file => ![models, weights, data].some(kind => kind.includes(file)));
  // Weights that come alone belong to the model that is there.
  const before = models.length || !weights.length ? [] : await storedModel();
  const incoming = {
    model: [...before, ...models, ...weights].map(({ path, file }) => ({ path: baseName(path), file })),
    data,
  };
  const kinds = (['model', 'data'] as const).filter(kind => incoming[kind].length);
  const folders = { model: MODEL, data: DATA };
  await files.remove('/incoming');
  for (const kind of kinds) {
    folders[kind] = INCOMING[kind];
    await Promise.all(incoming[kind].map(({ path, file }) => files.write(`${INCOMING[kind]}/${path}`, file)));
  }
  const keep = async () => {
    for (const kind of kinds) {
      const folder = kind === 'model' ? MODEL : DATA;
      await files.remove(folder);
      const move = ({ path, file }: Dropped) => {
        const source = `${INCOMING[kind]}/${path}`;
        // Small files take long to read once more, and large ones memory to copy.
        return files.write(`${folder}/${path}`, file.size < 2 ** 20 ? files.read(source) : file);
      };
      await Promise.all(incoming[kind].map(move));
      if (kind === 'data') await dataChanged();
    }
    await files.remove('/incoming');
  };
  return { folders, ignored: ignored.map(({ path }) => path), keep };
}

const storedModel = async (): Promise<Dropped[]> =>
  (await list(MODEL)).map(path => ({ path, file: new File([files.read(`${MODEL}/${path}`)], path) }));

const baseName = (path: string) => path.slice(path.lastIndexOf('/') + 1);
const isVisible = (path: string) =>
  path.split('/').every(part => !part.startsWith('.') && part !== '__MACOSX');

async function unpacked({ path, file }: Dropped): Promise<Dropped[]> {
  if (!/\.zip$/i.test(path)) return [{ path, file }];
  const bytes = new Uint8Array(await file.arrayBuffer());
  const entries = Object.entries(unzip(path, bytes)).filter(([name]) => !name.endsWith('/'));
  return entries.map(([name, content]) => ({
    path: name,
    file: new File([content.slice()], baseName(name)),
  }));
}

function unzip(path: string, bytes: Uint8Array) {
  try {
    return unzipSync(bytes);
  } catch {
    throw new Error(`${path} is not a complete zip archive.`);
  }
}

/** The model file, where there is one. */
export async function modelPath(folder = MODEL): Promise<string | undefined> {
  const name = (await list(folder)).find(file => /\.onnx$/i.test(file));
  return name && `${folder}/${name}`;
}

/** What the library is to open: the tables, or the folder with the folders of the classes. */
export async function dataPaths(folder = DATA): Promise<string[]> {
  const names = await list(folder);
  const tables = names.filter(name => TABLES.test(name));
  if (tables.length) return tables.map(name => `${folder}/${name}`);
  const [only] = names;
  if (names.length !== 1 || !(await isFolder(`${folder}/${only}`))) return names.length ? [folder] : [];
  const inner = await list(`${folder}/${only}`);
  // A folder of images alone is the data itself.
  if (inner.every(name => IMAGES.test(name))) return [`${folder}/${only}`];
  return dataPaths(`${folder}/${only}`);
}
