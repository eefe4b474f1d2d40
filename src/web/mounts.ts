/** Folders of the page's files that are kept in a directory of the browser, such as OPFS: they outlive the page. */
import { basename, dirname, relative, resolve } from 'pathe';
import { adopt, find, makeFile, makeFolder } from './node/memory-files.js';

/** The part of the browser's FileSystemDirectoryHandle that is used. */
export type Directory = {
  entries(): AsyncIterable<[string, DirectoryEntry]>;
  getFileHandle(name: string, options?: { create?: boolean }): Promise<FileEntry>;
  getDirectoryHandle(name: string, options?: { create?: boolean }): Promise<Directory>;
  removeEntry(name: string, options?: { recursive?: boolean }): Promise<void>;
};
type FileEntry = {
  readonly kind: 'file';
  getFile(): Promise<{ arrayBuffer(): Promise<ArrayBuffer> }>;
  createWritable(): Promise<{
    write(bytes: Uint8Array<ArrayBuffer>): Promise<void>;
    close(): Promise<void>;
  }>;
};
type DirectoryEntry = FileEntry | (Directory & { readonly kind: 'directory' });

const mounts = new Map<string, Directory>();

/**
 * Makes `folder` the directory: its files are read into memory, and what is written to the folder later is written to the
 * directory too, before the call that wrote it is done. A file that is being written has another name until it is
 * complete, so that a page may be closed at any time.
 */
export async function mount(folder: string, directory: Directory): Promise<void> {
  const path = resolve('/', folder);
  makeFolder(path, true);
  await load(path, directory);
  mounts.set(path, directory);
}

async function load(path: string, directory: Directory): Promise<void> {
  for await (const [name, entry] of directory.entries()) {
    const own = `${path}/${name}`;
    if (entry.kind === 'directory') {
      makeFolder(own, true);
      await load(own, entry);
    } else adopt(makeFile(own), new Uint8Array(await (await entry.getFile()).arrayBuffer()));
  }
}

/** Unfinished files have such names, and are not worth keeping. */
const isTemporary = (name: string) => /\.tmp$/.test(name);

/** The most files that are written at a time. */
const LANES = 16;
const lanes: Promise<void>[] = [];
let next = 0;
/** Changes that are not done, by path. */
const pending = new Map<string, Promise<void>>();

/** Brings what is kept of `path` up to date, after the changes before it to the same file, and to folders around it. */
export function changed(path: string): Promise<void> {
  const full = resolve('/', path);
  const found = [...mounts].find(([folder]) => full.startsWith(`${folder}/`));
  if (!found || isTemporary(full)) return Promise.resolve();
  const lane = next++ % LANES;
  const earlier = [...pending].filter(([other]) => isWithin(full, other) || isWithin(other, full));
  const before = Promise.all([lanes[lane], ...earlier.map(([, change]) => change)]);
  const done = before.then(() => keep(full, relative(found[0], full), found[1]));
  const settled = done
    .catch(() => {})
    .then(() => {
      if (pending.get(full) === settled) pending.delete(full);
    });
  lanes[lane] = settled;
  pending.set(full, settled);
  return done;
}

const isWithin = (path: string, folder: string) => path === folder || path.startsWith(`${folder}/`);

async function keep(full: string, inner: string, directory: Directory): Promise<void> {
  const entry = find(full);
  if (!entry) return forget(inner, directory).catch(() => {});
  if (entry.kind === 'folder') return;
  const folder = await folderOf(inner, directory, true);
  const writable = await (await folder.getFileHandle(basename(inner), { create: true })).createWritable();
  await writable.write(entry.bytes.slice(0, entry.size));
  await writable.close();
}

/** Rejects where there is nothing to remove. */
async function forget(inner: string, directory: Directory): Promise<void> {
  const folder = await folderOf(inner, directory, false);
  await folder.removeEntry(basename(inner), { recursive: true });
}

async function folderOf(inner: string, directory: Directory, create: boolean): Promise<Directory> {
  let folder = directory;
  for (const part of dirname(inner).split('/'))
    if (part !== '.') folder = await folder.getDirectoryHandle(part, { create });
  return folder;
}
