import { type FileHandle, open } from 'node:fs/promises';
import { AgdError } from '../../graph/errors.js';
import { ioError } from '../../graph/files.js';

/** Most bytes one read call is asked for: the system takes fewer than 2 GiB at once. */
const CHUNK = 2 ** 30;

/** A whole file of any size, or what comes through a pipe. Throws `io` with the path. */
export async function readBytes(path: string): Promise<Uint8Array> {
  let file: FileHandle | undefined;
  try {
    file = await open(path);
    const info = await file.stat();
    if (info.isFIFO()) return await file.readFile();
    if (!info.isFile() && !info.isDirectory())
      throw new AgdError('io', `Cannot read '${path}': it is neither a file nor a pipe.`);
    const bytes = new Uint8Array(info.size);
    let at = 0;
    while (at < bytes.length) {
      const { bytesRead } = await file.read(bytes, at, Math.min(CHUNK, bytes.length - at));
      if (bytesRead === 0) break;
      at += bytesRead;
    }
    return bytes.subarray(0, at);
  } catch (error) {
    throw ioError(`Cannot read '${path}'`, error);
  } finally {
    await file?.close();
  }
}

/** The same bytes at an address that a typed array of elements this wide can start at: a copy where it must be. */
export function aligned(bytes: Uint8Array, width: number): Uint8Array {
  return bytes.byteOffset % width === 0 ? bytes : bytes.slice();
}
