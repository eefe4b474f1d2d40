/** Models that stay in their file: large tensors are read when they are needed, and not kept. */
import { closeSync, fstatSync, openSync, readFileSync, readSync, realpathSync, statSync } from 'node:fs';
import { dirname } from 'node:path';
import { crc32 } from 'node:zlib';
import { concatBytes } from './bytes.js';
import {
  changedFile,
  ioError,
  naming,
  readExternal,
  readModelBytes,
  stampOf,
  stampOfExternal,
  storedTensors,
} from './files.js';
import type { Model } from './ir.js';
import { readOutline } from './outline.js';
import { placeOf } from './places.js';
import { decodeModel, inherit } from './proto/codec.js';
import { locateTensors } from './proto/locate.js';
import { type Part, Tensor } from './tensor.js';
import { editMessage } from './wire.js';

/** Smaller tensors are kept in memory. */
const LARGE = 2 ** 16;

/** Smaller files are read whole: to find what can be left out takes longer. */
const SMALL = 2 ** 21;

/**
 * The model in `path`, as `loadModel` reads it, but initializers of at least 64 KiB stay in the file, which is kept open:
 * replacing it by another does not change them. Reading one throws `io` if the file was overwritten in place with other
 * contents, or if the file of an external tensor was changed or replaced. Throws as `loadModel` does.
 */
export async function openModel(path: string): Promise<Model> {
  let skipped: readonly Part[] = [];
  const outline = await readModelBytes(path, file => {
    if (statSync(file).size < SMALL) return readFileSync(file);
    const read = readOutline(file, LARGE);
    skipped = read.skipped;
    return read.bytes;
  });
  return opened(path, outline, skipped) ?? opened(path, await readModelBytes(path), [])!;
}

/** From the bytes of the file without those that were skipped; undefined where one of these is needed. */
function opened(path: string, bytes: Uint8Array, skipped: readonly Part[]): Model | undefined {
  const located = naming(path, () => locateTensors(bytes, dirname(path), LARGE));
  const large = [...located].flatMap(([place, { name, ranges }]) => {
    const [range, ...others] = ranges ?? [];
    const isInitializer = name !== undefined && place === placeOf(['', name]);
    return isInitializer && range && !others.length && range.length >= LARGE ? [{ name, ...range }] : [];
  });
  const left = new Set(large.map(({ offset }) => offset));
  if (skipped.some(({ offset }) => !left.has(offset))) return undefined;
  if (!large.length) return stamped(naming(path, () => decodeModel(bytes, dirname(path), readExternal)));
  const file = new OpenFile(path, bytes.length, large);
  const without = editMessage(
    bytes,
    large.map(({ offset, length }) => ({ offset, length, bytes: new Uint8Array() })),
  );
  // What is decoded refers to its bytes, which must not be those of the whole file.
  const model = naming(path, () => decodeModel(concatBytes(without), dirname(path), readExternal));
  const offsets = new Map(large.map(({ name, offset }) => [name, offset]));
  for (const [value, tensor] of model.graph.initializers) {
    const offset = offsets.get(value.name);
    if (offset !== undefined) model.graph.initializers.set(value, file.tensor(value.name, tensor, offset));
  }
  return stamped(model);
}

function stamped(model: Model): Model {
  for (const { external } of storedTensors(model).keys())
    if (external) external.stamp = stampOfExternal(external);
  return model;
}

/** Bytes of which a checksum is computed at a time. */
const BLOCK = 4 * 2 ** 20;

const unused = new FinalizationRegistry<number>(fd => closeSync(fd));

/** A file that is open as long as one of its tensors is in use. */
class OpenFile {
  readonly #path: string;
  readonly #fd: number;
  readonly #size: number;
  readonly #checksums: readonly (Part & { sum: number })[];
  #state: string;

  /** `ranges` are those of its tensors. */
  constructor(path: string, size: number, ranges: readonly Part[]) {
    try {
      this.#path = realpathSync(path);
      this.#fd = openSync(path, 'r');
      unused.register(this, this.#fd);
      const info = fstatSync(this.#fd);
      this.#state = stampOf(info);
      this.#size = size;
      if (info.size !== this.#size) throw changedFile(this.#path);
      this.#checksums = ranges.map(({ offset, length }) => ({
        offset,
        length,
        sum: this.#sum({ offset, length }),
      }));
    } catch (error) {
      throw ioError(`Cannot read '${path}'`, error);
    }
  }

  tensor(name: string, before: Tensor, offset: number): Tensor {
    const { dtype, dims, byteLength } = before;
    const read = ({ offset: from, length }: Part = { offset: 0, length: byteLength }) =>
      this.#read(name, offset + from, length);
    const tensor = inherit(new Tensor(dtype, dims, read), before);
    tensor.stored = { path: this.#path, offset, isCurrent: () => this.#isCurrent() };
    return tensor;
  }

  #isCurrent(): boolean {
    const info = statSync(this.#path, { throwIfNoEntry: false });
    return info !== undefined && stampOf(info) === this.#state;
  }

  #read(name: string, offset: number, length: number): Uint8Array {
    try {
      this.#check();
      return this.#bytes(offset, length);
    } catch (error) {
      throw ioError(`Cannot read tensor '${name}' from '${this.#path}'`, error);
    }
  }

  /** Another time alone, as `touch` sets, or the same contents written again, do no harm. */
  #check(): void {
    const info = fstatSync(this.#fd);
    const state = stampOf(info);
    if (state === this.#state) return;
    const isSame = info.size === this.#size && this.#checksums.every(range => this.#sum(range) === range.sum);
    if (!isSame) throw changedFile(this.#path);
    this.#state = state;
  }

  #sum({ offset, length }: Part): number {
    const block = new Uint8Array(Math.min(BLOCK, length));
    let sum = 0;
    for (let done = 0; done < length; done += block.length) {
      const part = block.subarray(0, length - done);
      this.#fill(part, offset + done);
      sum = crc32(part, sum);
    }
    return sum;
  }

  #bytes(offset: number, length: number): Uint8Array {
    const bytes = new Uint8Array(length);
    this.#fill(bytes, offset);
    return bytes;
  }

  #fill(bytes: Uint8Array, offset: number): void {
    const { length } = bytes;
    for (let done = 0, read = 0; done < length; done += read) {
      read = readSync(this.#fd, bytes, done, Math.min(length - done, 2 ** 30), offset + done);
      if (read === 0) throw changedFile(this.#path);
    }
  }
}
