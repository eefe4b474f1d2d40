/** Stands in for `node:fs/promises`, as far as the library uses it. */

import { join, relative, resolve } from 'pathe';
import { toUtf8 } from '../../graph/bytes.js';
import { changed } from '../mounts.js';
import * as fs from './fs.js';
import {
  existing,
  existingFolder,
  type MemoryFile,
  makeFolder,
  move,
  removeAt,
  resizeTo,
  writeAt,
} from './memory-files.js';

const bytesOf = (contents: Uint8Array | string) =>
  typeof contents === 'string' ? toUtf8(contents) : contents;

class Handle {
  #position = 0;
  constructor(
    private readonly file: MemoryFile,
    private readonly path: string,
    isAppending: boolean,
  ) {
    if (isAppending) this.#position = file.size;
  }

  async stat() {
    return fs.statsOf(this.file);
  }
  async read(target: Uint8Array, offset = 0, length = target.length - offset, position = this.#position) {
    return { bytesRead: fs.copyFrom(this.file, target, offset, length, position), buffer: target };
  }
  async write(bytes: Uint8Array, offset = 0, length = bytes.length - offset, position = this.#position) {
    writeAt(this.file, bytes.subarray(offset, offset + length), position);
    return { bytesWritten: length, buffer: bytes };
  }
  async writeFile(contents: Uint8Array | string) {
    const bytes = bytesOf(contents);
    writeAt(this.file, bytes, this.#position);
    this.#position += bytes.length;
  }
  appendFile(contents: Uint8Array | string) {
    return this.writeFile(contents);
  }
  async readFile() {
    const rest = this.file.bytes.slice(this.#position, this.file.size);
    this.#position += rest.length;
    return rest;
  }
  async truncate(size: number) {
    resizeTo(this.file, size);
  }
  async chmod(mode: number) {
    this.file.mode = (this.file.mode & 0o170000) | mode;
  }
  async sync() {}
  createReadStream({ start = 0 } = {}) {
    return fs.streamOf(this.file, start);
  }
  async close() {
    await changed(this.path);
  }
}
export type FileHandle = Handle;

export const open = async (path: string, flags = 'r') =>
  new Handle(fs.openByFlags(path, flags), path, flags.startsWith('a'));

export const stat = async (path: string) => fs.statSync(path)!;
export const access = async (path: string) => void existing(path, 'access');
export const realpath = async (path: string) => fs.realpathSync(path);
export const readFile = async (path: string, encoding?: string) => fs.readFileSync(path, encoding);
export const readlink = async (path: string): Promise<string> => {
  existing(path, 'readlink');
  throw Object.assign(new Error('EINVAL'), { code: 'EINVAL', syscall: 'readlink' });
};

export async function writeFile(path: string, contents: Uint8Array | string): Promise<void> {
  const file = await open(path, 'w');
  await file.writeFile(contents);
  await file.close();
}

type Entry = ReturnType<typeof fs.statsOf> & { name: string; parentPath: string };

function entriesOf(path: string, recursive: boolean): Entry[] {
  return [...existingFolder(path, 'scandir').children].flatMap(([name, entry]) => [
    { name, parentPath: path, ...fs.statsOf(entry) },
    ...(recursive && entry.kind === 'folder' ? entriesOf(join(path, name), true) : []),
  ]);
}

export async function readdir(path: string, { withFileTypes = false, recursive = false } = {}) {
  const entries = entriesOf(path, recursive);
  return withFileTypes
    ? entries
    : entries.map(({ name, parentPath }) => relative(path, join(parentPath, name)));
}

export async function rename(from: string, to: string): Promise<void> {
  move(from, to);
  await changed(to);
  await changed(from);
}

export async function unlink(path: string): Promise<void> {
  fs.unlinkSync(path);
  await changed(path);
}

export async function rm(path: string, { recursive = false, force = false } = {}): Promise<void> {
  if (force && !fs.existsSync(path)) return;
  removeAt(path, 'rm', recursive);
  await changed(path);
}

export const mkdir = async (path: string, { recursive = false } = {}) => makeFolder(path, recursive);
export const mkdtemp = async (prefix: string) => fs.mkdtempSync(prefix);
export async function rmdir(path: string): Promise<void> {
  fs.rmdirSync(path);
  await changed(path);
}

/** Nobody can tell: there is room. */
export const statfs = async (path: string) => {
  existing(resolve('/', path), 'statfs');
  return { bavail: Number.MAX_SAFE_INTEGER, bsize: 1 };
};
