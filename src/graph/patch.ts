/** Replaces the values of tensors in a model file and leaves all other bytes unchanged. */
import { equalBytes } from './bytes.js';
import { AgdError } from './errors.js';
import { type Place, showPlace } from './places.js';
import { locateTensors, type Range, type StoredTensor } from './proto/locate.js';
import { readEntries, writeEntries } from './proto/message.js';
import { MESSAGES, parse, serialize } from './proto/schema.js';
import { concat, elementField, encodeVarints, FIELD } from './proto/tensor.js';
import type { ExternalData, Tensor } from './tensor.js';
import {
  BYTES,
  bytesField,
  type Edit,
  editMessage,
  VARINT,
  varint,
  type WireField,
  wireFields,
} from './wire.js';

/** A tensor's bytes that were cut out of a model file. `name` is that of its value. */
export type Hole = Range & { name: string };

/** The new location of external data; omitted fields stay as in the file. */
export type Move = Pick<ExternalData, 'location'> & Partial<Pick<ExternalData, 'offset' | 'length'>>;

export type Located = ReadonlyMap<Place, StoredTensor>;

/**
 * The model file with new values, of the same dtype and shape, for the tensors at some places, each in its stored form.
 * References to external tensors are changed as in `moved`; the caller writes their data. Returned in pieces. Throws
 * `no-such-value`, `bad-dtype`, `bad-shape`, and `external-data` for a value of an external tensor.
 */
export function patchModel(
  bytes: Uint8Array,
  values: ReadonlyMap<Place, Tensor>,
  moved: ReadonlyMap<Place, Move> = new Map(),
  located: Located = locateTensors(bytes),
): Uint8Array[] {
  const edits: Edit[] = [];
  for (const [place, tensor] of values) {
    const stored = findStored(located, place, tensor);
    if (stored.external)
      throw new AgdError(
        'external-data',
        `Tensor ${showPlace(place)} is not in the model file but in '${stored.external.location}'.`,
      );
    edits.push(
      ...(stored.ranges ? overwritten(bytes, stored.ranges, tensor) : [encoded(bytes, stored, tensor)]),
    );
  }
  for (const [place, data] of moved) {
    const { message } = located.get(place)!;
    const from = bytes.subarray(message!.offset, message!.offset + message!.length);
    const now = pointed(from, data);
    if (!equalBytes(from, now)) edits.push({ ...message!, bytes: now });
  }
  return editMessage(bytes, edits);
}

/** The elements at their ranges; several ranges become one edit, with the bytes between them. */
function overwritten(bytes: Uint8Array, ranges: readonly Range[], tensor: Tensor): Edit[] {
  const [first, last] = [ranges[0], ranges.at(-1)];
  if (!first || !last) return [];
  if (first === last) return [{ ...first, bytes: tensor.bytes }];
  const start = first.offset;
  const region = bytes.slice(start, last.offset + last.length);
  let done = 0;
  for (const { offset, length } of ranges) {
    region.set(tensor.bytes.subarray(done, done + length), offset - start);
    done += length;
  }
  return [{ offset: start, length: region.length, bytes: region }];
}

/** The message with other elements, packed if the old ones were. */
function encoded(bytes: Uint8Array, { dtype, message }: StoredTensor, tensor: Tensor): Edit {
  const id = FIELD[elementField(dtype)];
  const content = bytes.subarray(message!.offset, message!.offset + message!.length);
  const isElement = (field: WireField) => field.id === id && (field.type === BYTES || field.type === VARINT);
  const isPacked = wireFields(content).some(f => f.id === id && f.type === BYTES);
  const numbers = encodeVarints(tensor);
  const fields = isPacked
    ? bytesField(id, concat(numbers))
    : numbers.flatMap(n => [varint(id * 8 + VARINT), n]);
  return { ...message!, bytes: withFields(content, isElement, fields) };
}

const [, EXTERNAL] = MESSAGES.TensorProto!.externalData!;

/** A TensorProto with this external location. The checksum is dropped, as it was that of the old file. */
function pointed(content: Uint8Array, move: Move): Uint8Array {
  const isEntry = (field: WireField) => field.id === EXTERNAL;
  const before = wireFields(content)
    .filter(isEntry)
    .map(f => parse('StringStringEntryProto', content.subarray(f.from, f.end)));
  const entries = readEntries(before);
  const now = new Map([...entries].filter(([key]) => key !== 'checksum'));
  for (const [key, value] of Object.entries(move)) now.set(key, `${value}`);
  return withFields(
    content,
    isEntry,
    writeEntries(now, before).flatMap(e => bytesField(EXTERNAL, serialize('StringStringEntryProto', e))),
  );
}

/** A message in which these fields replace those of the same numbers. */
function withFields(
  content: Uint8Array,
  isOld: (field: WireField) => boolean,
  fields: readonly Uint8Array[],
): Uint8Array {
  const pieces: Uint8Array[] = [];
  let isDone = false;
  for (const field of wireFields(content)) {
    if (!isOld(field)) pieces.push(content.subarray(field.start, field.end));
    else if (!isDone) {
      pieces.push(...fields);
      isDone = true;
    }
  }
  return concat(isDone ? pieces : [...pieces, ...fields]);
}

/** The stored tensor that `tensor` can replace. Throws `no-such-value`, `bad-dtype`, `bad-shape` or `invalid-model`. */
export function findStored(located: Located, place: Place, tensor: Tensor): StoredTensor {
  const stored = located.get(place);
  if (!stored) throw new AgdError('no-such-value', `The model file has no tensor ${showPlace(place)}.`);
  if (stored.dtype !== tensor.dtype)
    throw new AgdError(
      'bad-dtype',
      `Tensor ${showPlace(place)} is ${stored.dtype} in the file, but its new value is ${tensor.dtype}.`,
    );
  if (`${stored.dims}` !== `${tensor.dims}`)
    throw new AgdError(
      'bad-shape',
      `Tensor ${showPlace(place)} has shape [${stored.dims}] in the file, but its new value has [${tensor.dims}].`,
    );
  if (!stored.external && stored.ranges && sum(stored.ranges) !== tensor.byteLength)
    throw new AgdError(
      'invalid-model',
      `The bytes stored for tensor ${showPlace(place)} do not fit its shape.`,
    );
  return stored;
}

const sum = (ranges: readonly Range[]) => ranges.reduce((n, { length }) => n + length, 0);

/**
 * The model file without the bytes of the named tensors, and their positions. A tensor that is not contiguous in the
 * file stays in it: `fillTensors` reverses the cut, and `patchModel` then sets such tensors.
 */
export function cutTensors(
  bytes: Uint8Array,
  names: ReadonlyMap<Place, string>,
  located: Located = locateTensors(bytes),
): { rest: Uint8Array; holes: Hole[] } {
  const holes = [...names]
    .flatMap(([place, name]) => {
      const ranges = located.get(place)?.ranges;
      return ranges?.length === 1 ? [{ name, ...ranges[0]! }] : [];
    })
    .sort((a, b) => a.offset - b.offset);
  const starts = [0, ...holes.map(hole => hole.offset + hole.length)];
  const pieces = starts.map((start, i) => bytes.subarray(start, holes[i]?.offset));
  return { rest: concat(pieces), holes };
}

/**
 * The model file from which `cutTensors` removed tensors, with these values inserted. With `leavesStored`, those that are
 * still in a model file are zeros, which take no memory. Throws `no-such-value` or `bad-shape`.
 */
export function fillTensors(
  rest: Uint8Array,
  holes: readonly Hole[],
  values: ReadonlyMap<string, Tensor>,
  leavesStored = false,
): Uint8Array {
  const filled = new Uint8Array(rest.length + sum(holes));
  let taken = 0;
  let end = 0;
  for (const { name, offset, length } of holes) {
    const tensor = values.get(name);
    if (!tensor) throw new AgdError('no-such-value', `No value given for tensor '${name}'.`);
    if (tensor.byteLength !== length)
      throw new AgdError(
        'bad-shape',
        `Tensor '${name}' takes ${length} bytes, but its value has ${tensor.byteLength}.`,
      );
    filled.set(rest.subarray(taken, taken + offset - end), end);
    if (!leavesStored || !tensor.stored) filled.set(tensor.bytes, offset);
    taken += offset - end;
    end = offset + length;
  }
  filled.set(rest.subarray(taken), end);
  return filled;
}
