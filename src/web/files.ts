import { basename, resolve } from 'pathe';
import { changed, type Directory, mount } from './mounts.js';
import { mkdir, readdir, readFile, rm, writeFile } from './node/fs-promises.js';
import { adopt, existingFile, makeFile, makeFolder } from './node/memory-files.js';

/** A File or Blob of the browser. */
type BlobLike = { arrayBuffer(): Promise<ArrayBuffer> };
/** A File, with its place in a folder that was dropped or chosen. */
type FileLike = BlobLike & { readonly name: string; readonly webkitRelativePath?: string };

/**
 * The files of the page, in memory: wherever the library takes a path, it means one of these. Paths begin at '/'.
 */
export const files = {
  /** Puts a file there, and the folders above it. */
  async write(path: string, contents: Uint8Array | string | BlobLike): Promise<void> {
    makeFolder(resolve('/', path, '..'), true);
    if (typeof contents === 'string' || !('arrayBuffer' in contents)) return writeFile(path, contents);
    const bytes = new Uint8Array(await contents.arrayBuffer());
    adopt(makeFile(path), bytes);
    await changed(path);
  },

  /** Files that were dropped or chosen, each under its name, or its place in the folder that was. Returns their paths. */
  async add(list: Iterable<FileLike>, folder = '/'): Promise<string[]> {
    const added = [...list].map(file => ({
      path: resolve('/', folder, file.webkitRelativePath || basename(file.name)),
      file,
    }));
    await Promise.all(added.map(({ path, file }) => files.write(path, file)));
    return added.map(({ path }) => path);
  },

  /** The bytes of a file. Throws where it is missing. */
  read(path: string): Uint8Array<ArrayBuffer> {
    const { bytes, size } = existingFile(path, 'open');
    return bytes.slice(0, size);
  },

  /** A text file. */
  text: async (path: string): Promise<string> => (await readFile(path, 'utf8')) as string,

  /** The names in a folder. */
  list: async (folder = '/'): Promise<string[]> => (await readdir(folder)) as string[],

  /** Makes a folder, and those above it, where they are missing. */
  mkdir: async (path: string): Promise<void> => {
    await mkdir(path, { recursive: true });
  },

  /** Removes a file, or a folder with what is in it; nothing where there is none. */
  remove: (path: string): Promise<void> => rm(path, { recursive: true, force: true }),

  /**
   * Keeps a folder in a directory of the browser, as `await navigator.storage.getDirectory()` is one: what it holds is there
   * after the page was closed.
   */
  mount: (folder: string, directory: Directory): Promise<void> => mount(folder, directory),
};
