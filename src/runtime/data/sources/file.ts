import { unlinkSync } from 'node:fs';
import { type FileHandle, mkdtemp, open, rmdir } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { createGunzip } from 'node:zlib';
import { AgdError } from '../../../graph/errors.js';
import { ioError } from '../../../graph/files.js';

/** A file of which parts are read. */
export type DataFile = {
  /** For messages. */
  path: string;
  size: number;
  /** Whether it was written for this process alone. */
  isTemporary: boolean;
  /** The bytes from `start` up to, not including, `end`, as far as there are any. Throws `io`. */
  read(start: number, end: number): Promise<Uint8Array<ArrayBuffer>>;
  close(): Promise<void>;
};

/** Most bytes of one read call. */
const CHUNK = 2 ** 30;

/**
 * Opens a file for reading in parts. What is compressed with gzip, or comes through a pipe, is first written to a temporary
 * file without a name, which is gone when it is closed. Throws `io`, `bad-data`.
 */
export async function openFile(path: string): Promise<DataFile> {
  let handle: FileHandle | undefined;
  try {
    handle = await open(path);
    const info = await handle.stat();
    if (info.isDirectory()) throw new AgdError('io', `Cannot read '${path}': it is a folder.`);
    if (!info.isFile() && !info.isFIFO())
      throw new AgdError('io', `Cannot read '${path}': it is neither a file nor a pipe.`);
    if (info.isFIFO()) handle = await spool(handle, path);
    const compressed = await isGzip(handle);
    if (compressed) handle = await spool(handle, path, true);
    return fileOf(handle, path, (await handle.stat()).size, compressed || info.isFIFO());
  } catch (error) {
    await handle?.close().catch(() => {});
    throw error instanceof AgdError ? error : ioError(`Cannot read '${path}'`, error);
  }
}

function fileOf(handle: FileHandle, path: string, size: number, isTemporary: boolean): DataFile {
  return {
    ...{ path, size, isTemporary },
    async read(start, end) {
      const bytes = new Uint8Array(Math.max(0, Math.min(end, size) - start));
      let at = 0;
      try {
        while (at < bytes.length) {
          const length = Math.min(CHUNK, bytes.length - at);
          const { bytesRead } = await handle.read(bytes, at, length, start + at);
          if (bytesRead === 0) break;
          at += bytesRead;
        }
      } catch (error) {
        throw ioError(`Cannot read '${path}'`, error);
      }
      return bytes.subarray(0, at);
    },
    close: () => handle.close(),
  };
}

async function isGzip(handle: FileHandle): Promise<boolean> {
  const bytes = new Uint8Array(2);
  await handle.read(bytes, 0, 2, 0);
  return bytes[0] === 0x1f && bytes[1] === 0x8b;
}

async function spool(from: FileHandle, path: string, compressed = false): Promise<FileHandle> {
  const folder = await mkdtemp(join(tmpdir(), 'agd-onnx-'));
  const to = await open(join(folder, 'data'), 'wx+');
  try {
    unlinkSync(join(folder, 'data'));
    await rmdir(folder);
    const source = from.createReadStream({ autoClose: false, ...(compressed ? { start: 0 } : {}) });
    const sink = async (chunks: AsyncIterable<Uint8Array>) => {
      for await (const chunk of chunks) await to.writeFile(chunk);
    };
    await (compressed ? pipeline(source, createGunzip(), sink) : pipeline(source, sink));
    await from.close();
    return to;
  } catch (error) {
    await to.close();
    if ((error as { code?: string }).code?.startsWith('Z_'))
      throw new AgdError('bad-data', `${path} is not a sound gzip file: ${(error as Error).message}.`);
    throw error;
  }
}
