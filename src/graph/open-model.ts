/** Models that stay in their file: large tensors are read when they are needed, and not kept. */
import { closeSync, fstatSync, openSync, readSync, realpathSync, statSync } from 'node:fs';
import { dirname } from 'node:path';
import { AgdError } from './errors.js';
import { ioError, naming, readExternal, readModelBytes } from './files.js';
import type { Model } from './ir.js';
import { placeOf } from './places.js';
import { decodeModel, inherit } from './proto/codec.js';
import { locateTensors } from './proto/locate.js';
import { type Part, Tensor } from './tensor.js';
import { editMessage } from './wire.js';

/** Smaller tensors are kept in memory. */
const LARGE = 2 ** 16;

/**
 * The model in `path`, as `loadModel` reads it, but initializers of at least 64 KiB stay in the file, which is kept open:
 * replacing it by another does not change them. Reading one throws `io` if the file was overwritten in place. Throws as
 * `loadModel` does.
 */
export async function openModel(path: string): Promise<Model> {
  const bytes = await readModelBytes(path);
  const located = naming(path, () => locateTensors(bytes, dirname(path)));
  const large = [...located].flatMap(([place, { name, ranges }]) => {
    const [range, ...others] = ranges ?? [];
    const isInitializer = name !== undefined && place === placeOf(['', name]);
    return isInitializer && range && !others.length && range.length >= LARGE ? [{ name, ...range }] : [];
  });
  if (!large.length) return naming(path, () => decodeModel(bytes, dirname(path), readExternal));
  const file = new OpenFile(path, bytes.length);
  const without = editMessage(
    bytes,
    large.map(({ offset, length }) => ({ offset, length, bytes: new Uint8Array() })),
  );
  // What is decoded refers to its bytes, which must not be those of the whole file.
  const model = naming(path, () => decodeModel(Buffer.concat(without), dirname(path), readExternal));
  const offsets = new Map(large.map(({ name, offset }) => [name, offset]));
  for (const [value, tensor] of model.graph.initializers) {
    const offset = offsets.get(value.name);
    if (offset !== undefined) model.graph.initializers.set(value, file.tensor(value.name, tensor, offset));
  }
  return model;
}

const unused = new FinalizationRegistry<number>(fd => closeSync(fd));

/** A file that is open as long as one of its tensors is in use. */
class OpenFile {
  readonly #path: string;
  readonly #fd: number;
  readonly #state: string;

  constructor(path: string, length: number) {
    try {
      this.#path = realpathSync(path);
      this.#fd = openSync(path, 'r');
      unused.register(this, this.#fd);
      const info = fstatSync(this.#fd);
      this.#state = stateOf(info);
      if (info.size !== length) throw this.#changed();
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
    return info !== undefined && stateOf(info) === this.#state;
  }

  #read(name: string, offset: number, length: number): Uint8Array {
    const bytes = new Uint8Array(length);
    try {
      if (stateOf(fstatSync(this.#fd)) !== this.#state) throw this.#changed();
      for (let done = 0, read = 0; done < length; done += read) {
        read = readSync(this.#fd, bytes, done, Math.min(length - done, 2 ** 30), offset + done);
        if (read === 0) throw this.#changed();
      }
    } catch (error) {
      throw ioError(`Cannot read tensor '${name}' from '${this.#path}'`, error);
    }
    return bytes;
  }

  #changed(): AgdError {
    return new AgdError('io', `${this.#path} was overwritten while it was in use: start again.`);
  }
}

const stateOf = ({ dev, ino, size, mtimeMs }: { dev: number; ino: number; size: number; mtimeMs: number }) =>
  [dev, ino, size, mtimeMs].join();
