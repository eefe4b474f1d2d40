/** Model files without the numbers of their large tensors. */
import { closeSync, fstatSync, openSync, readFileSync, readSync } from 'node:fs';
import { AgdError } from './errors.js';
import { MESSAGES } from './proto/schema.js';
import type { Part } from './tensor.js';
import { BYTES, type WireField, wireFields } from './wire.js';

/** The fields that lead to the numbers of an initializer. */
const PATH = [
  MESSAGES.ModelProto!.graph![1],
  MESSAGES.GraphProto!.initializer![1],
  MESSAGES.TensorProto!.rawData![1],
];

/** Bytes read at a time: most fields are shorter, and the header of each is. */
const STEP = 4096;

/**
 * The bytes of a model file with zeros, which take no memory, in place of an initializer's numbers where these are at least
 * `least` bytes; `skipped` says where. Of another file, all bytes. Throws as reading a file does.
 */
export function readOutline(path: string, least: number): { bytes: Uint8Array; skipped: Part[] } {
  const file = openSync(path, 'r');
  try {
    const bytes = new Uint8Array(fstatSync(file).size);
    const skipped: Part[] = [];
    const read = (from: number, end: number) => {
      for (let at = from, count = 0; at < end; at += count) {
        count = readSync(file, bytes, at, end - at, at);
        if (count === 0) throw new AgdError('io', 'The file became shorter while it was read.');
      }
    };
    const message = (from: number, end: number, depth: number) => {
      for (let at = from; at < end; ) {
        const known = Math.min(end, at + STEP);
        read(at, known);
        const field = wireFields(bytes, at, end).next().value as WireField;
        const { id, type, from: start, end: next } = field;
        const isOnPath = type === BYTES && id === PATH[depth];
        if (isOnPath && depth < PATH.length - 1) message(start, next, depth + 1);
        else if (isOnPath && next - start >= least) skipped.push({ offset: start, length: next - start });
        else if (next > known) read(known, next);
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
