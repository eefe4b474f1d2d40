/** Model files without the numbers of their large tensors. */
import { closeSync, fstatSync, openSync, readFileSync, readSync } from 'node:fs';
import { AgdError } from './errors.js';
import { MESSAGES } from './proto/schema.js';
import type { Part } from './tensor.js';
import { BYTES, wireField } from './wire.js';

/** The fields that lead to the numbers of an initializer. */
const PATH = [
  MESSAGES.ModelProto!.graph![1],
  MESSAGES.GraphProto!.initializer![1],
  MESSAGES.TensorProto!.rawData![1],
];

/** Bytes read at a time, at first and at most. */
const STEP = 4096;
const MOST = 2 ** 20;

/** No header of a field is longer. */
const HEADER = 20;

/**
 * The bytes of a model file with zeros, which take no memory, in place of an initializer's numbers where these are at least
 * `least` bytes; `skipped` says where. Of another file, all bytes. Throws as reading a file does.
 */
export function readOutline(path: string, least: number): { bytes: Uint8Array; skipped: Part[] } {
  const file = openSync(path, 'r');
  try {
    const bytes = new Uint8Array(fstatSync(file).size);
    const skipped: Part[] = [];
    // Up to where the file has been read, and how much is read next: more, the longer nothing is skipped.
    let [ready, step] = [0, STEP];
    const read = (from: number, end: number) => {
      if (from > ready) [ready, step] = [from, STEP];
      while (ready < end) {
        const count = readSync(
          file,
          bytes,
          ready,
          Math.min(bytes.length, Math.max(end, ready + step)) - ready,
          ready,
        );
        if (count === 0) throw new AgdError('io', 'The file became shorter while it was read.');
        ready += count;
        step = Math.min(2 * step, MOST);
      }
    };
    const message = (from: number, end: number, depth: number) => {
      for (let at = from; at < end; ) {
        read(at, Math.min(end, at + HEADER));
        const { id, type, from: start, end: next } = wireField(bytes, at, end);
        const isOnPath = type === BYTES && id === PATH[depth];
        if (isOnPath && depth < PATH.length - 1) message(start, next, depth + 1);
        else if (isOnPath && next - start >= least) skipped.push({ offset: start, length: next - start });
        else read(at, next);
        at = next;
      }
    };
    message(0, bytes.length, 0);
    return { bytes, skipped };
  } catch {
    return { bytes: readFileSync(path), skipped: [] };
  } finally {
    closeSync(file);
  }
}
