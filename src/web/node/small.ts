/** Stands in for the modules of Node of which the library uses a function or two. */
import { sha256 } from '@noble/hashes/sha2.js';
import { bytesToHex } from '@noble/hashes/utils.js';
import { buf as crc } from 'crc-32';
import { toUtf8 } from '../../graph/bytes.js';

// node:crypto
export function createHash(_: 'sha256') {
  const hash = sha256.create();
  const steps = {
    update(bytes: Uint8Array | string) {
      hash.update(typeof bytes === 'string' ? toUtf8(bytes) : bytes);
      return steps;
    },
    digest: (_: 'hex'): string => bytesToHex(hash.digest()),
  };
  return steps;
}

// node:zlib
export const crc32 = (bytes: Uint8Array, before = 0): number => crc(bytes, before | 0) >>> 0;
export { unzlibSync as inflateSync } from 'fflate';

type Chunks = AsyncIterable<Uint8Array>;

export const createGunzip = () =>
  async function* (chunks: Chunks): Chunks {
    const stream = new DecompressionStream('gzip');
    const writer = stream.writable.getWriter();
    const written = (async () => {
      for await (const chunk of chunks) await writer.write(new Uint8Array(chunk));
      await writer.close();
    })().catch(() => {});
    const reader = stream.readable.getReader();
    try {
      for (;;) {
        const { done, value } = await reader.read();
        if (done) break;
        yield value as Uint8Array;
      }
    } catch (error) {
      throw Object.assign(new Error((error as Error).message), { code: 'Z_DATA_ERROR' });
    }
    await written;
  };

// node:stream/promises
export async function pipeline(source: Chunks, ...steps: ((chunks: Chunks) => unknown)[]): Promise<void> {
  await steps.reduce<unknown>((chunks, step) => step(chunks as Chunks), source);
}

// node:os
export const availableParallelism = (): number =>
  (globalThis as { navigator?: { hardwareConcurrency?: number } }).navigator?.hardwareConcurrency ?? 1;
export const tmpdir = (): string => '/tmp';

// node:url
export const fileURLToPath = (url: URL): string => url.pathname;
export const pathToFileURL = (path: string): URL => new URL(`file://${path}`);

// node:buffer
export function isUtf8(bytes: Uint8Array): boolean {
  try {
    new TextDecoder('utf-8', { fatal: true }).decode(bytes);
    return true;
  } catch {
    return false;
  }
}

// node:os, of devices that browsers do not have
export const constants = { errno: {}, signals: {} };
export const hostname = (): string => 'page';

// node:module
export function createRequire(): never {
  throw new Error('A page has no packages to look for.');
}

// node:worker_threads and node:child_process: neither is started, as `hasThreads` finds no script of theirs.
export class Worker {}
export const parentPort = null;
export const workerData = undefined;
export function fork(): never {
  throw new Error('A page has no processes: train in a Web Worker.');
}
export const execFile = fork;
export const spawn = fork;

// koffi and node:v8, for distributed runs: `openCollective` finds no launcher, and says so.
export const serialize = fork;
export const deserialize = fork;

// jiti
export function createJiti(): never {
  throw new Error("A page imports its extensions itself, and registers them with 'agd-onnx/extend'.");
}
