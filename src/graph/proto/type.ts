/** ValueType <-> TypeProto, and the declarations of a graph's values (ValueInfoProto). */
import { dtypeCode, dtypeOf } from '../dtype.js';
import type { Dim, TensorType, Value, ValueType } from '../ir.js';
import { amend, readInt, writeInt } from './message.js';
import {
  type Dimension,
  serialize,
  type TensorTypeProto,
  type TypeProto,
  type ValueInfoProto,
} from './schema.js';

/** The three lists in which a graph declares values. */
export type Place = 'input' | 'output' | 'inner';

/** The declarations of a value in the file, by list. They are valid as long as the value's type is still `type`. */
type Declarations = { type: ValueType | undefined } & { [P in Place]?: ValueInfoProto };

/** Sets the type of `value` from `info`, and keeps `info` to be written back. */
export function declare(value: Value, place: Place, info: ValueInfoProto): void {
  value.extra ??= { type: undefined } satisfies Declarations;
  (value.extra as Declarations)[place] ??= info;
  settleType(value, info.type ? readType(info.type) : undefined);
}

/** Sets the type of `value` if it has none. */
export function settleType(value: Value, type: ValueType | undefined): void {
  value.type ??= type;
  if (value.extra) (value.extra as Declarations).type = value.type;
}

export function isDeclared(value: Value, place: Place): boolean {
  return Boolean((value.extra as Declarations | undefined)?.[place]);
}

/** The declarations of a value in the file. */
export function declarationsOf(value: Value): ValueInfoProto[] {
  if (!value.extra) return [];
  const { input, inner, output } = value.extra as Declarations;
  return [input, inner, output].flatMap(info => info ?? []);
}

/** Types as encoded, by element type and extents: thousands of values have the same. */
export type EncodedTypes = Map<string, TypeProto>;

export function writeInfo(value: Value, place: Place, encoded: EncodedTypes): ValueInfoProto {
  const known = value.extra as Declarations | undefined;
  const info = known?.[place];
  const isDeclared = known?.type === value.type;
  if (info && isDeclared && info.name === value.name) return info;
  if (!info)
    return value.type ? { name: value.name, type: encode(value.type, encoded) } : { name: value.name };
  const type = isDeclared ? info.type : value.type && writeType(value.type, info.type);
  return amend(info, { name: value.name, type });
}

/** A new TypeProto, of a tensor with known extents as bytes, which are written as they are. */
function encode(type: ValueType, encoded: EncodedTypes): TypeProto {
  if (type.kind !== 'tensor' || !type.shape?.every(d => typeof d === 'number'))
    return writeType(type, undefined);
  const key = `${type.dtype} ${type.shape}`;
  let proto = encoded.get(key);
  if (!proto) {
    proto = serialize('TypeProto', writeType(type, undefined)) as TypeProto;
    encoded.set(key, proto);
  }
  return proto;
}

function readType(proto: TypeProto): ValueType {
  if (proto.sequenceType?.elemType) return { kind: 'sequence', elem: readType(proto.sequenceType.elemType) };
  if (proto.optionalType?.elemType) return { kind: 'optional', elem: readType(proto.optionalType.elemType) };
  return (proto.tensorType && readTensorType(proto.tensorType)) || { kind: 'other', extra: proto };
}

/** Undefined if the file does not declare the element type, as for an entry that only has a name. */
function readTensorType({ elemType, shape }: TensorTypeProto): TensorType | undefined {
  if (!elemType) return undefined;
  const dtype = dtypeOf(elemType);
  return { kind: 'tensor', dtype, ...(shape && { shape: (shape.dim ?? []).map(readDim) }) };
}

function readDim(proto: Dimension): Dim {
  if (proto.dimParam) return proto.dimParam;
  const extent = Object.hasOwn(proto, 'dimValue') ? Number(readInt(proto.dimValue)) : -1;
  return extent >= 0 ? extent : null;
}

/** A TypeProto with the denotations of `old`. */
function writeType(type: ValueType, old: TypeProto | undefined): TypeProto {
  if (type.kind === 'other') return type.extra as TypeProto;
  const before = old ?? {};
  const { tensorType, sequenceType, optionalType, ...kept } = amend(before, {});
  if (type.kind === 'tensor') return { ...kept, tensorType: writeTensorType(type, tensorType) };
  const field = type.kind === 'sequence' ? 'sequenceType' : 'optionalType';
  return {
    ...kept,
    [field]: amend(before[field], { elemType: writeType(type.elem, before[field]?.elemType) }),
  };
}

function writeTensorType({ dtype, shape }: TensorType, before?: TensorTypeProto): TensorTypeProto {
  const dims = before?.shape?.dim ?? [];
  const dim = shape?.map((d, i) => writeDim(d, dims.length === shape.length ? dims[i] : undefined));
  return amend(before, {
    elemType: dtypeCode(dtype),
    shape: dim && amend(before?.shape, { dim }),
  });
}

function writeDim(dim: Dim, before?: Dimension): Dimension {
  const { dimValue, dimParam, ...kept } = amend(before, {});
  if (dim === null) return kept;
  return typeof dim === 'string' ? { ...kept, dimParam: dim } : { ...kept, dimValue: writeInt(dim) };
}
