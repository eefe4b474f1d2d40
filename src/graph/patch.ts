/** New values for tensors of a model file, every other byte of which stays as it is. */
import { AgdError } from './errors.js';
import { locateTensors, type Range, type StoredTensor } from './proto-locate.js';
import { concat } from './proto-tensor.js';
import type { Tensor } from './tensor.js';

/** A tensor's bytes that were cut out of a model file. */
export type Hole = Range & { name: string };

/**
 * A copy of the model file in which the named tensors (initializers, or Constants by their output's name)
 * have new values, of the same dtype and shape. Throws `no-such-value`, `bad-dtype`, `bad-shape`,
 * `external-data` for one outside the file, and `invalid-model` for one not stored as plain bytes.
 */
export function patchModel(bytes: Uint8Array, values: ReadonlyMap<string, Tensor>): Uint8Array {
  const located = locateTensors(bytes);
  const patched = new Uint8Array(bytes);
  for (const [name, tensor] of values) {
    const stored = findStored(located, name, tensor);
    if (stored.external)
      throw new AgdError(
        'external-data',
        `Tensor '${name}' is not in the model file but in '${stored.external.location}'.`,
      );
    let done = 0;
    for (const { offset, length } of stored.ranges!) {
      patched.set(tensor.bytes.subarray(done, done + length), offset);
      done += length;
    }
  }
  return patched;
}

/** The stored tensor that `tensor` can replace byte by byte. */
export function findStored(
  located: ReadonlyMap<string, StoredTensor>,
  name: string,
  tensor: Tensor,
): StoredTensor {
  const stored = located.get(name);
  if (!stored) throw new AgdError('no-such-value', `The model file has no tensor '${name}'.`);
  if (stored.dtype !== tensor.dtype)
    throw new AgdError(
      'bad-dtype',
      `Tensor '${name}' is ${stored.dtype} in the file, but its new value is ${tensor.dtype}.`,
    );
  if (`${stored.dims}` !== `${tensor.dims}`)
    throw new AgdError(
      'bad-shape',
      `Tensor '${name}' has shape [${stored.dims}] in the file, but its new value has [${tensor.dims}].`,
    );
  if (!stored.external && sum(stored.ranges) !== tensor.byteLength)
    throw new AgdError(
      'invalid-model',
      `Tensor '${name}' is not stored as plain bytes, so it cannot be replaced in place; save the model anew instead.`,
    );
  return stored;
}

const sum = (ranges: readonly Range[] | undefined) => ranges?.reduce((n, { length }) => n + length, 0);

/**
 * The model file without the bytes of the named tensors, and where these were. A tensor that is not in one
 * piece in the file stays in it: `fillTensors` undoes the cut, `patchModel` then sets such a one.
 */
export function cutTensors(bytes: Uint8Array, names: Iterable<string>): { rest: Uint8Array; holes: Hole[] } {
  const located = locateTensors(bytes);
  const holes = [...new Set(names)]
    .flatMap(name => {
      const ranges = located.get(name)?.ranges;
      return ranges?.length === 1 ? [{ name, ...ranges[0]! }] : [];
    })
    .sort((a, b) => a.offset - b.offset);
  const starts = [0, ...holes.map(hole => hole.offset + hole.length)];
  const pieces = starts.map((start, i) => bytes.subarray(start, holes[i]?.offset));
  return { rest: concat(pieces), holes };
}

/** The model file that `cutTensors` cut, with these values in the holes. Throws `no-such-value` or `bad-shape`. */
export function fillTensors(
  rest: Uint8Array,
  holes: readonly Hole[],
  values: ReadonlyMap<string, Tensor>,
): Uint8Array {
  const pieces: Uint8Array[] = [];
  let taken = 0;
  let end = 0;
  for (const { name, offset, length } of holes) {
    const tensor = values.get(name);
    if (!tensor) throw new AgdError('no-such-value', `There is no value for tensor '${name}'.`);
    if (tensor.byteLength !== length)
      throw new AgdError(
        'bad-shape',
        `Tensor '${name}' takes ${length} bytes, but its value has ${tensor.byteLength}.`,
      );
    pieces.push(rest.subarray(taken, taken + offset - end), tensor.bytes);
    taken += offset - end;
    end = offset + length;
  }
  return concat([...pieces, rest.subarray(taken)]);
}
