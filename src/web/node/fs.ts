/** Stands in for `node:fs`, as far as the library uses it. */

import { resolve } from 'pathe';
import { fromUtf8 } from '../../graph/bytes.js';
import {
  existing,
  existingFile,
  existingFolder,
  fileError,
  find,
  type MemoryFile,
  type MemoryFolder,
  makeFile,
  makeFolder,
  removeAt,
  viewOf,
  writeAt,
} from './memory-files.js';

export const constants = { R_OK: 4, W_OK: 2, F_OK: 0 };

export const statsOf = (entry: MemoryFile | MemoryFolder) => ({
  dev: 0,
  ino: entry.ino,
  mode: entry.mode,
  size: entry.kind === 'file' ? entry.size : 0,
  mtimeMs: entry.mtimeMs,
  isFile: () => entry.kind === 'file',
  isDirectory: () => entry.kind === 'folder',
  isFIFO: () => false,
  isSymbolicLink: () => false,
});

const open = new Map<number, MemoryFile>();
let descriptors = 3;

/** The file of a descriptor. Throws EBADF. */
function opened(fd: number): MemoryFile {
  const file = open.get(fd);
  if (!file) throw fileError('EBADF', 'read', String(fd));
  return file;
}

/** The file that flags like 'r', 'wx+' or 'a' open. */
export function openByFlags(path: string, flags: string | number = 'r'): MemoryFile {
  const text = String(flags);
  if (text.startsWith('r')) {
    const found = existing(path, 'open');
    // A folder can be opened, to be synced: it is an empty file.
    return found.kind === 'file' ? found : { ...found, kind: 'file', bytes: new Uint8Array(), size: 0 };
  }
  const found = find(path);
  if (found && text.includes('x')) throw fileError('EEXIST', 'open', path);
  if (found?.kind === 'file' && text.startsWith('a')) return found;
  return makeFile(path);
}

export function openSync(path: string, flags?: string | number): number {
  open.set(descriptors, openByFlags(path, flags));
  return descriptors++;
}

export const closeSync = (fd: number): void => void open.delete(fd);
export const fstatSync = (fd: number) => statsOf(opened(fd));

/** Copies from a file; the number of bytes that there were. */
export function copyFrom(
  file: MemoryFile,
  target: Uint8Array,
  offset: number,
  length: number,
  position: number,
): number {
  const part = file.bytes.subarray(position, Math.min(file.size, position + length));
  target.set(part, offset);
  return part.length;
}

export const readSync = (
  fd: number,
  target: Uint8Array,
  offset: number,
  length: number,
  position: number,
): number => copyFrom(opened(fd), target, offset, length, position);

type Done = (error: Error | null, count?: number) => void;

export function read(
  ...[fd, target, offset, length, position, done]: [number, Uint8Array, number, number, number, Done]
): void {
  done(null, readSync(fd, target, offset, length, position));
}

export function write(
  ...[fd, bytes, offset, length, position, done]: [number, Uint8Array, number, number, number, Done]
): void {
  writeAt(opened(fd), bytes.subarray(offset, offset + length), position);
  done(null, length);
}

export function statSync(path: string, { throwIfNoEntry = true } = {}) {
  const found = find(path);
  if (!found && throwIfNoEntry) throw fileError('ENOENT', 'stat', path);
  return found && statsOf(found);
}

export const existsSync = (path: string): boolean => find(path) !== undefined;

export function realpathSync(path: string): string {
  existing(path, 'realpath');
  return resolve('/', path);
}

export function readFileSync(path: string, encoding?: string): Uint8Array<ArrayBuffer> | string {
  const contents = viewOf(existingFile(path, 'open'));
  return encoding ? fromUtf8(contents) : contents;
}

export const unlinkSync = (path: string): void => {
  existingFile(path, 'unlink');
  removeAt(path, 'unlink');
};
export const rmdirSync = (path: string): void => removeAt(path, 'rmdir');

export const readdirSync = (path: string): string[] => [...existingFolder(path, 'scandir').children.keys()];

export function mkdtempSync(prefix: string): string {
  const path = `${prefix}${Math.random().toString(36).slice(2, 8)}`;
  makeFolder(path);
  return path;
}

/** The contents in parts, as a stream is iterated. */
export async function* streamOf(file: MemoryFile, start = 0, step = 2 ** 20): AsyncGenerator<Uint8Array> {
  for (let at = start; at < file.size; at += step) yield file.bytes.slice(at, Math.min(file.size, at + step));
}

export const createReadStream = (path: string, { start = 0, highWaterMark = 2 ** 16 } = {}) =>
  streamOf(existingFile(path, 'open'), start, highWaterMark);
