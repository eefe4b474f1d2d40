/** The files of a page: a tree in memory, with paths from '/'. What is mounted is written through to a directory of the browser. */
import { basename, dirname, resolve } from 'pathe';

/** A file; open handles keep it after its name is gone. */
export type MemoryFile = {
  kind: 'file';
  ino: number;
  mtimeMs: number;
  mode: number;
  /** With room to grow; the first `size` bytes are the contents. */
  bytes: Uint8Array<ArrayBuffer>;
  size: number;
  /** Whether a reader has a view of the bytes: they are copied before they change. A model's weights are in memory once. */
  isShared?: boolean;
};
export type MemoryFolder = {
  kind: 'folder';
  ino: number;
  mtimeMs: number;
  mode: number;
  children: Map<string, MemoryFile | MemoryFolder>;
};

let inodes = 1;
const newFolder = (): MemoryFolder => ({
  ...{ kind: 'folder', ino: inodes++, mtimeMs: Date.now(), mode: 0o40755 },
  children: new Map(),
});
const root = newFolder();
root.children.set('tmp', newFolder());

/** An error as Node's file system throws it. */
export function fileError(code: string, syscall: string, path: string): Error {
  return Object.assign(new Error(`${code}: ${syscall} '${path}'`), { code, syscall, path });
}

/** Undefined where there is nothing. */
export function find(path: string): MemoryFile | MemoryFolder | undefined {
  let at: MemoryFile | MemoryFolder | undefined = root;
  for (const part of resolve('/', path).split('/').filter(Boolean))
    at = at?.kind === 'folder' ? at.children.get(part) : undefined;
  return at;
}

export function existing(path: string, syscall: string): MemoryFile | MemoryFolder {
  const found = find(path);
  if (!found) throw fileError('ENOENT', syscall, path);
  return found;
}

export function existingFile(path: string, syscall: string): MemoryFile {
  const found = existing(path, syscall);
  if (found.kind === 'folder') throw fileError('EISDIR', syscall, path);
  return found;
}

export function existingFolder(path: string, syscall: string): MemoryFolder {
  const found = existing(path, syscall);
  if (found.kind === 'file') throw fileError('ENOTDIR', syscall, path);
  return found;
}

const parentOf = (path: string, syscall: string) => existingFolder(dirname(resolve('/', path)), syscall);

/** Throws ENOENT where the folder above is missing, EEXIST for a path that there is, unless `recursive`. */
export function makeFolder(path: string, recursive = false): void {
  const full = resolve('/', path);
  const found = find(full);
  if (found && !(recursive && found.kind === 'folder')) throw fileError('EEXIST', 'mkdir', path);
  if (found) return;
  if (recursive && !find(dirname(full))) makeFolder(dirname(full), true);
  parentOf(full, 'mkdir').children.set(basename(full), newFolder());
}

/** An empty file in place of what is there. */
export function makeFile(path: string): MemoryFile {
  const full = resolve('/', path);
  const found = find(full);
  if (found?.kind === 'folder') throw fileError('EISDIR', 'open', path);
  const file: MemoryFile = found ?? {
    ...{ kind: 'file', ino: inodes++, mtimeMs: Date.now(), mode: 0o100644 },
    ...{ bytes: new Uint8Array(), size: 0 },
  };
  file.size = 0;
  parentOf(full, 'open').children.set(basename(full), file);
  return file;
}

/** The contents, without a copy: the file takes bytes of its own when it is changed. */
export function viewOf(file: MemoryFile): Uint8Array<ArrayBuffer> {
  file.isShared = true;
  return file.bytes.subarray(0, file.size);
}

/** The bytes become the contents of a file, without a copy. */
export function adopt(file: MemoryFile, bytes: Uint8Array<ArrayBuffer>): void {
  Object.assign(file, { bytes, size: bytes.length, isShared: false, mtimeMs: Date.now() });
}

/** Copies into a file, which grows where it must, with zeros before `position`. */
export function writeAt(file: MemoryFile, given: Uint8Array, position: number): void {
  const end = position + given.length;
  resizeTo(file, Math.max(file.size, end));
  file.bytes.set(given, position);
  file.mtimeMs = Date.now();
}

export function resizeTo(file: MemoryFile, size: number): void {
  if (file.isShared) adopt(file, file.bytes.slice(0, file.size));
  if (size > file.bytes.length) {
    const grown = new Uint8Array(file.size ? Math.max(size, 2 * file.bytes.length) : size);
    grown.set(file.bytes.subarray(0, file.size));
    file.bytes = grown;
  } else if (size < file.size) file.bytes.fill(0, size, file.size);
  file.size = size;
  file.mtimeMs = Date.now();
}

export function move(from: string, to: string): void {
  const moved = existing(from, 'rename');
  parentOf(to, 'rename').children.set(basename(resolve('/', to)), moved);
  parentOf(from, 'rename').children.delete(basename(resolve('/', from)));
}

export function removeAt(path: string, syscall: string, recursive = false): void {
  const found = existing(path, syscall);
  if (found.kind === 'folder' && found.children.size && !recursive)
    throw fileError('ENOTEMPTY', syscall, path);
  parentOf(path, syscall).children.delete(basename(resolve('/', path)));
}
