/** Sorts dropped files into model and data. */
import { files } from 'agd-onnx/web';
import { unzipSync } from 'fflate';
import type { Dropped } from '../protocol.js';
import { DATA, isFolder, list, MODEL } from './storage.js';

const TABLES = /\.(csv|tsv|json|jsonl|ndjson|parquet|arrow|feather|npz|npy|safetensors)(\.gz)?$/i;
const IMAGES = /\.(jpe?g|png|webp|gif|avif)$/i;
/** External data of a model has no ending of its own. */
const WEIGHTS = /\.(onnx[._]data|data|bin|pb)$/i;

/** Returns which of both were replaced. Throws for files of neither kind. */
export async function addFiles(dropped: readonly Dropped[]): Promise<{ model: boolean; data: boolean }> {
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
  if (models.length) await files.remove(MODEL);
  for (const { path, file } of [...models, ...weights]) await files.write(`${MODEL}/${baseName(path)}`, file);
  if (data.length) await files.remove(DATA);
  for (const { path, file } of data) await files.write(`${DATA}/${path}`, file);
  return { model: models.length + weights.length > 0, data: data.length > 0 };
}

const baseName = (path: string) => path.slice(path.lastIndexOf('/') + 1);
const isVisible = (path: string) =>
  path.split('/').every(part => !part.startsWith('.') && part !== '__MACOSX');

async function unpacked({ path, file }: Dropped): Promise<Dropped[]> {
  if (!/\.zip$/i.test(path)) return [{ path, file }];
  const bytes = new Uint8Array(await file.arrayBuffer());
  const entries = Object.entries(unzipSync(bytes)).filter(([name]) => !name.endsWith('/'));
  return entries.map(([name, content]) => ({
    path: name,
    file: new File([content.slice()], baseName(name)),
  }));
}

/** The model file, where there is one. */
export async function modelPath(): Promise<string | undefined> {
  const name = (await list(MODEL)).find(file => /\.onnx$/i.test(file));
  return name && `${MODEL}/${name}`;
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
