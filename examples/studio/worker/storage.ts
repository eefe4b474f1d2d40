/** The studio's files: model, data and run in one folder, which the browser keeps after the page is closed. */
import { type Directory, files } from 'agd-onnx/web';
import { keepData, pathsIn, restoreData } from './data-file.js';

export const MODEL = '/studio/model';
/** In memory, and kept as one file. */
export const DATA = '/kept/data';
export const RUN = '/studio/run';
/** Where versions before kept each file of the data on its own. */
const SEPARATE = '/studio/data';
const SESSION = '/studio/session.json';

export type Session = {
  kind: 'digits' | 'own';
  /** Drawings: 28 x 28 pixels of 8 bits. */
  taught: { label: number; pixels: number[] }[];
};

let dataFile: FileSystemFileHandle | undefined;

/** After the data have changed. */
export const dataChanged = async (): Promise<void> => {
  if (dataFile) await keepData(DATA, dataFile);
};

/** Returns whether the browser keeps files; where it does not, as in some private windows, they last as long as the page. */
export async function openStorage(): Promise<boolean> {
  try {
    const root = await navigator.storage.getDirectory();
    const folder = await root.getDirectoryHandle('studio', { create: true });
    await files.mount('/studio', folder as unknown as Directory);
    dataFile = await root.getFileHandle('studio-data', { create: true });
    await restoreData(dataFile);
    if (await exists(SEPARATE)) await moveData();
    return true;
  } catch {
    return false;
  }
}

/** Into the one file, where that has no data yet. */
async function moveData(): Promise<void> {
  if (!(await list(DATA)).length) {
    for (const path of await pathsIn(SEPARATE))
      await files.write(path.replace(SEPARATE, DATA), files.read(path));
    await dataChanged();
  }
  await files.remove(SEPARATE);
}

export const exists = async (path: string): Promise<boolean> => {
  const at = path.lastIndexOf('/');
  return (await list(path.slice(0, at) || '/')).includes(path.slice(at + 1));
};

/** Names in a folder; none where there is no such folder. */
export const list = (folder: string): Promise<string[]> => files.list(folder).catch(() => []);

export const isFolder = (path: string): Promise<boolean> =>
  files.list(path).then(
    () => true,
    () => false,
  );

export async function readJson<T>(path: string): Promise<T | undefined> {
  if (!(await exists(path))) return undefined;
  try {
    return JSON.parse(await files.text(path)) as T;
  } catch {
    // The page was closed while it was written: it is as if there were none.
    return undefined;
  }
}

export const writeJson = (path: string, value: unknown): Promise<void> =>
  files.write(path, JSON.stringify(value));

export const readSession = async (): Promise<Session> =>
  (await readJson<Session>(SESSION)) ?? { kind: 'digits', taught: [] };

export const writeSession = (session: Session): Promise<void> => writeJson(SESSION, session);
