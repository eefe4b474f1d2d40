/** Tensor <-> TensorProto. An unchanged tensor is written back as the message that it was read from. */
import protobuf from 'protobufjs/minimal.js';
import { concatBytes } from '../bytes.js';
import { byteLength, type DType, dtypeCode, dtypeOf } from '../dtype.js';
import { AgdError } from '../errors.js';
import { type ExternalData, type ExternalReader, type Placement, Tensor } from '../tensor.js';
import { amend, readEntries, readInt, writeEntries } from './message.js';
import { DATA_LOCATION, type TensorProto } from './schema.js';

/** For models that are read without their data files. */
export const noFiles: ExternalReader = ({ location }, name) => {
  throw new AgdError(
    'external-data',
    `Tensor '${name}' lies in the file '${location}', which this model was read without.`,
  );
};

/** The folder of the file, and the reader of data files in it. */
export type Surroundings = { folder: string; read: ExternalReader };

/** Gives `tensor` the documentation and metadata that `before`, which it replaces, had in its file. */
export function inherit(tensor: Tensor, before: Tensor): Tensor {
  const origin = before.extra as Origin | undefined;
  tensor.extra = origin && ({ ...origin, external: null } satisfies Origin);
  return tensor;
}

/** Each tensor keeps its location. */
export const inPlace: Placement = tensor => tensor.external;

/** All tensors are stored in the model file. */
export const inline: Placement = () => undefined;

/** The message that a tensor was read from. It contains the tensor's data as long as `external` is the tensor's own. */
type Origin = { proto: TensorProto; external: ExternalData | undefined | null };

/** The description of a tensor in messages. */
const label = (name: string | null | undefined) => (name ? `Tensor '${name}'` : 'An unnamed tensor');

export function readTensor(proto: TensorProto, surroundings: Surroundings): Tensor {
  const dtype = readDtype(proto);
  const dims = readDims(proto);
  const inFile = new Tensor(dtype, dims, () => storedBytes(proto, dtype, inFile.byteLength));
  const tensor =
    proto.dataLocation === DATA_LOCATION.external ? outside(proto, inFile, surroundings) : inFile;
  if (dtype === 'string') tensor.strings = proto.stringData ?? [];
  tensor.extra = { proto, external: tensor.external } satisfies Origin;
  return tensor;
}

function outside(
  proto: TensorProto,
  { dtype, dims, byteLength }: Tensor,
  { folder, read }: Surroundings,
): Tensor {
  const tensor: Tensor = new Tensor(dtype, dims, part => {
    const data = tensor.external!;
    const range = part && { offset: data.offset + part.offset, length: part.length };
    return read({ ...data, ...range }, proto.name ?? '');
  });
  tensor.external = readExternal(proto, byteLength, folder);
  return tensor;
}

/** For states that start with few zeros. */
const ZEROS = new Uint8Array(4096);

/** A TensorProto. If `name` is undefined, the decoded name stays, as in attributes. */
export function writeTensor(tensor: Tensor, place: Placement, name?: string): TensorProto {
  const origin = tensor.extra as Origin | undefined;
  const external = place(tensor);
  const named = name === undefined ? {} : { name };
  if (origin && origin.external === external)
    return name === undefined || origin.proto.name === name ? origin.proto : amend(origin.proto, named);
  // Most of a step's tensors: spreading makes an object slowly.
  if (!origin && !external && !tensor.strings)
    return {
      name,
      dims: [...tensor.dims],
      dataType: dtypeCode(tensor.dtype),
      rawData:
        tensor.isZero && tensor.byteLength < 4096 ? ZEROS.subarray(0, tensor.byteLength) : tensor.bytes,
    };
  if (!origin)
    return {
      ...named,
      dims: [...tensor.dims],
      dataType: dtypeCode(tensor.dtype),
      ...contents(tensor, external),
    };
  const { segment, floatData, int32Data, int64Data, doubleData, uint64Data, stringData, rawData, ...kept } =
    amend(origin.proto, {
      $unknowns: origin.proto.$unknowns?.filter(field => !ELEMENT_FIELDS.has(fieldNumber(field))),
    });
  return {
    ...kept,
    ...named,
    dims: [...tensor.dims],
    dataType: dtypeCode(tensor.dtype),
    ...contents(tensor, external, origin.proto),
  };
}

function contents(tensor: Tensor, external: ExternalData | undefined, before?: TensorProto): TensorProto {
  const inFile = { externalData: [], dataLocation: undefined };
  if (tensor.strings) return { ...inFile, stringData: tensor.strings };
  if (!external) return { ...inFile, rawData: tensor.bytes };
  const entries = readEntries(before?.externalData)
    .set('location', external.location)
    .set('offset', `${external.offset}`)
    .set('length', `${external.length}`);
  return {
    dataLocation: DATA_LOCATION.external,
    externalData: writeEntries(entries, before?.externalData),
  };
}

export function readDtype(proto: TensorProto): DType {
  try {
    return dtypeOf(proto.dataType ?? 0);
  } catch (error) {
    throw new AgdError('unsupported-type', `${label(proto.name)}: ${(error as Error).message}`);
  }
}

export function readDims(proto: TensorProto): number[] {
  const dims = (proto.dims ?? []).map(readInt);
  if (dims.some(d => d < 0) || !Number.isSafeInteger(16 * dims.reduce<number>((n, d) => n * Number(d), 1)))
    throw new AgdError('invalid-model', `${label(proto.name)} has the impossible shape [${dims}].`);
  return dims.map(Number);
}

/** The location of the bytes. Throws `external-data` if that is not a range of a file in the model's folder. */
export function readExternal(proto: TensorProto, byteLength: number, folder: string): ExternalData {
  const entries = readEntries(proto.externalData);
  const location = entries.get('location') ?? '';
  const offset = Number(entries.get('offset') ?? 0);
  // Some writers store 0 for an unknown length; ONNX Runtime then uses the shape.
  const length = Number(entries.get('length') || 0) || byteLength;
  const refuse = (what: string) => new AgdError('external-data', `${label(proto.name)} ${what}`);
  if (leavesFolder(location))
    throw refuse(`refers to the file '${location}', which is not in the model's folder; move it there.`);
  if (!Number.isSafeInteger(offset) || offset < 0 || length !== byteLength)
    throw refuse(
      `takes ${byteLength} bytes, but offset ${offset} and length ${length} of '${location}' are given.`,
    );
  return { location, offset, length, folder };
}

function leavesFolder(location: string): boolean {
  const parts = location.split(/[/\\]/);
  return parts[0] === '' || /^[a-z]:/i.test(location) || parts.includes('..') || location.includes('\0');
}

/** Numbers of the typed fields for a tensor's elements. */
export const FIELD = { floatData: 4, int32Data: 5, int64Data: 7, doubleData: 10, uint64Data: 11 } as const;

const ELEMENT_FIELDS: ReadonlySet<number> = new Set(Object.values(FIELD));

/** The typed field for elements of this type, the alternative to `raw_data`. */
export function elementField(dtype: DType): keyof typeof FIELD {
  if (dtype === 'float32' || dtype === 'complex64') return 'floatData';
  if (dtype === 'float64' || dtype === 'complex128') return 'doubleData';
  if (dtype === 'int64') return 'int64Data';
  return dtype === 'uint64' || dtype === 'uint32' ? 'uint64Data' : 'int32Data';
}

/** Whether that field contains the elements' own bytes, not variable-length numbers. */
export const isPlain = (dtype: DType) => /^(float|double)Data$/.test(elementField(dtype));

/** The number of an unknown field, whose bytes start with a one-byte tag. */
const fieldNumber = (field: Uint8Array) => field[0]! >>> 3;

/** Elements in a typed field: packed, or unpacked as one unknown field each, with the same bytes. */
function storedElements(proto: TensorProto, field: keyof typeof FIELD): Uint8Array {
  const packed = proto[field] ?? [];
  const loose = proto.$unknowns?.filter(f => fieldNumber(f) === FIELD[field]).map(f => f.subarray(1)) ?? [];
  // A decoded message no longer shows which came first.
  if (packed.length && loose.length)
    throw new AgdError('invalid-model', `${label(proto.name)} has elements both packed and one by one.`);
  return concat([...packed, ...loose]);
}

function storedBytes(proto: TensorProto, dtype: DType, expected: number): Uint8Array {
  const { rawData } = proto;
  const bytes = rawData?.length
    ? rawData
    : isPlain(dtype)
      ? storedElements(proto, elementField(dtype))
      : decodedElements(proto, dtype);
  if (bytes.length !== expected)
    throw new AgdError(
      'invalid-model',
      `${label(proto.name)} takes ${expected} bytes (${dtype}, shape [${readDims(proto)}]), but ${bytes.length} are stored.`,
    );
  return bytes;
}

function decodedElements(proto: TensorProto, dtype: DType): Uint8Array {
  try {
    return decodeVarints(storedElements(proto, elementField(dtype)), byteLength(dtype, 1));
  } catch (error) {
    if (error instanceof AgdError) throw error;
    throw new AgdError(
      'invalid-model',
      `${label(proto.name)} has malformed data: ${(error as Error).message}.`,
    );
  }
}

/** Varints as little-endian integers of `width` bytes. */
function decodeVarints(bytes: Uint8Array, width: number): Uint8Array {
  const count = bytes.reduce((n, byte) => n + (byte < 0x80 ? 1 : 0), 0);
  const decoded = new DataView(new ArrayBuffer(count * width));
  const reader = new protobuf.Reader(bytes);
  for (let at = 0; reader.pos < reader.len; at += width) {
    if (width === 8) {
      const { low, high } = reader.int64() as { low: number; high: number };
      decoded.setInt32(at, low, true);
      decoded.setInt32(at + 4, high, true);
    } else if (width === 4) decoded.setInt32(at, reader.int32(), true);
    else if (width === 2) decoded.setInt16(at, reader.int32(), true);
    else decoded.setInt8(at, reader.int32());
  }
  return new Uint8Array(decoded.buffer);
}

/** The tensor's elements as varints; the inverse of reading them. */
export function encodeVarints({ dtype, bytes }: Tensor): Uint8Array[] {
  const width = byteLength(dtype, 1);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const isSigned = /^int/.test(dtype);
  return Array.from({ length: bytes.length / width }, (_, i) => {
    const writer = new protobuf.Writer();
    const at = i * width;
    if (width === 8)
      writer.uint64({ low: view.getInt32(at, true), high: view.getInt32(at + 4, true) } as never);
    else if (width === 4 && elementField(dtype) === 'uint64Data') writer.uint32(view.getUint32(at, true));
    else if (width === 4) writer.int32(view.getInt32(at, true));
    else if (width === 2) writer.int32(isSigned ? view.getInt16(at, true) : view.getUint16(at, true));
    else writer.int32(isSigned ? view.getInt8(at) : view.getUint8(at));
    return writer.finish();
  });
}

/** Concatenates arrays; a single one is returned unchanged. */
export function concat(chunks: readonly Uint8Array[]): Uint8Array {
  return chunks.length === 1 ? chunks[0]! : concatBytes(chunks);
}
