/** The checkpoint of ONNX Runtime's training: a flatbuffer of kind ODTC, and beside it a file of large tensors. */
import { characters } from '../../graph/bytes.js';
import { byteLength, dtypeCode, dtypeOf } from '../../graph/dtype.js';
import { AgdError } from '../../graph/errors.js';
import { writeFileAtomic } from '../../graph/files.js';
import { Tensor } from '../../graph/tensor.js';
import { aligned, readBytes } from '../data/bytes.js';
import { encodeFlatbuffer, type FlatField, FlatTable } from '../data/flatbuffer.js';

export type Property = { int: bigint } | { float: number } | { string: string };

/** An optimizer's state: for each parameter its tensors, `momentum0` and `momentum1` for AdamW. */
export type OptimizerGroup = {
  name: string;
  step: number;
  lr: number;
  momentums: Map<string, Map<string, Tensor>>;
};

export type OrtCheckpoint = {
  trainable: Map<string, Tensor>;
  frozen: Map<string, Tensor>;
  optimizers: OptimizerGroup[];
  properties: Map<string, Property>;
};

const IDENTIFIER = 'ODTC';
const VERSION = 2;

/** Above this, tensors go into the file beside the checkpoint: a flatbuffer ends at 2 GiB. */
const INLINE_LIMIT = 1e9;

export function isCheckpoint(bytes: Uint8Array): boolean {
  return characters(bytes.subarray(4, 8)) === IDENTIFIER;
}

/** Throws `io`, `bad-state` for a file that is damaged or no checkpoint, `unsupported-version`. */
export async function readOrtCheckpoint(path: string): Promise<OrtCheckpoint> {
  return decodeCheckpoint(await readBytes(path), path);
}

/** `readOrtCheckpoint` of bytes that were read from `path`. */
export async function decodeCheckpoint(bytes: Uint8Array, path: string): Promise<OrtCheckpoint> {
  const bad = (what: string) => new AgdError('bad-state', `${path}: ${what}.`);
  if (!isCheckpoint(bytes)) throw bad('it is not an ONNX Runtime training checkpoint (identifier ODTC)');
  const damaged = bad('the checkpoint is damaged or cut off');
  const guarded = <T>(read: () => T): T => {
    try {
      return read();
    } catch (error) {
      throw error instanceof RangeError ? damaged : error;
    }
  };
  const root = guarded(() => FlatTable.root(bytes));
  const version = guarded(() => root.int32(0));
  if (version !== VERSION)
    throw new AgdError(
      'unsupported-version',
      `${path}: a checkpoint of version ${version}; ${VERSION} can be read.`,
    );
  const state = guarded(() => root.table(1));
  if (!state) throw damaged;
  if (guarded(() => state.bool(2)))
    throw bad('it is a nominal checkpoint: it names parameters and has no values');
  const data = guarded(() => state.bool(3)) ? await readBytes(`${path}.data`) : undefined;
  return guarded(() => {
    const named = <T>(list: [string, T][]) => {
      const map = new Map(list);
      if (map.size < list.length || map.has('')) throw damaged;
      return map;
    };
    const tensors = (list: FlatTable[]) => named(list.map(t => readTensor(t, data, damaged)));
    const checkpoint: OrtCheckpoint = {
      trainable: tensors(state.tables(0)),
      frozen: tensors(state.tables(1)),
      optimizers: root.tables(2).map(group => ({
        name: group.string(0),
        step: Number(group.int64(1)),
        lr: group.float(2),
        momentums: named(group.tables(3).map(p => [p.string(0), tensors(p.tables(1))])),
      })),
      properties: named(readProperties(root.table(3))),
    };
    if (
      checkpoint.optimizers.some(
        group => !group.name || !(group.step >= 0 && Number.isSafeInteger(group.step)),
      )
    )
      throw damaged;
    if (!parametersOf(checkpoint).size) throw bad('the checkpoint has no parameters');
    return checkpoint;
  });
}

/** Fields: name, doc string, dims, element type, bytes, strings, offset in the external file. */
function readTensor(table: FlatTable, data: Uint8Array | undefined, damaged: AgdError): [string, Tensor] {
  const dtype = dtypeOf(table.int32(3));
  const dims = table.int64s(2);
  if (dtype === 'string' || !dims.every(d => Number.isSafeInteger(d) && d >= 0)) throw damaged;
  const size = byteLength(
    dtype,
    dims.reduce((n, d) => n * d, 1),
  );
  const offset = Number(table.int64(6, -1n));
  const bytes = offset < 0 ? table.bytes(4) : data?.subarray(offset, offset + size);
  if ((bytes?.length ?? 0) !== size) throw damaged;
  return [table.string(0), new Tensor(dtype, dims, aligned(bytes ?? new Uint8Array(), 8))];
}

function readProperties(bag: FlatTable | undefined): [string, Property][] {
  const all = (field: number, read: (t: FlatTable) => Property) =>
    (bag?.tables(field) ?? []).map((t): [string, Property] => [t.string(0), read(t)]);
  return [
    ...all(0, t => ({ int: t.int64(1) })),
    ...all(1, t => ({ float: t.float(1) })),
    ...all(2, t => ({ string: t.string(1) })),
  ];
}

export function parametersOf({ trainable, frozen }: OrtCheckpoint): Map<string, Tensor> {
  return new Map([...trainable, ...frozen]);
}

/** Writes the checkpoint, and `<path>.data` where it is over 1 GB or `external` says so. Throws `io`. */
export async function writeOrtCheckpoint(
  path: string,
  checkpoint: OrtCheckpoint,
  { external }: { external?: boolean } = {},
): Promise<void> {
  const total = [...parametersOf(checkpoint).values()].reduce((n, t) => n + t.byteLength, 0);
  const data = (external ?? total > INLINE_LIMIT) ? new ExternalTensors() : undefined;
  const bytes = encodeCheckpoint(checkpoint, data);
  if (data) await writeFileAtomic(`${path}.data`, data.chunks);
  await writeFileAtomic(path, [bytes]);
}

/** The bytes of a checkpoint; parameters go to `external` where that is given. */
export function encodeCheckpoint(
  { trainable, frozen, optimizers, properties }: OrtCheckpoint,
  external?: ExternalTensors,
): Uint8Array {
  const tensors = (map: ReadonlyMap<string, Tensor>, place?: ExternalTensors) => ({
    tables: sorted(map).map(([name, tensor]) => ({ table: tensorFields(name, tensor, place) })),
  });
  const state = [
    tensors(trainable, external),
    tensors(frozen, external),
    undefined,
    external && { bool: true },
  ];
  const groups = optimizers.map(({ name, step, lr, momentums }) => ({
    table: [
      { string: name },
      { int64: BigInt(step) },
      { float: lr },
      { tables: sorted(momentums).map(([param, map]) => ({ table: [{ string: param }, tensors(map)] })) },
    ],
  }));
  return encodeFlatbuffer(
    { table: [{ int32: VERSION }, { table: state }, { tables: groups }, propertyBag(properties)] },
    IDENTIFIER,
  );
}

/** Tensors that go into the file beside the checkpoint, one after the other at multiples of eight. */
export class ExternalTensors {
  readonly chunks: Uint8Array[] = [];
  #length = 0;

  /** Where the tensor begins. */
  add(tensor: Tensor): number {
    const at = this.#length;
    const padding = (8 - (tensor.byteLength % 8)) % 8;
    this.chunks.push(tensor.bytes, new Uint8Array(padding));
    this.#length += tensor.byteLength + padding;
    return at;
  }
}

function tensorFields(name: string, tensor: Tensor, external?: ExternalTensors): (FlatField | undefined)[] {
  const data = external ? undefined : { bytes: tensor.bytes };
  const offset = external && { int64: BigInt(external.add(tensor)) };
  const type = { int32: dtypeCode(tensor.dtype) };
  return [{ string: name }, undefined, { int64s: tensor.dims }, type, data, undefined, offset];
}

function propertyBag(properties: ReadonlyMap<string, Property>): FlatField | undefined {
  if (!properties.size) return undefined;
  const kinds: FlatField[][][] = [[], [], []];
  for (const [name, property] of sorted(properties)) {
    if ('int' in property) kinds[0]!.push([{ string: name }, { int64: property.int }]);
    else if ('float' in property) kinds[1]!.push([{ string: name }, { float: property.float }]);
    else kinds[2]!.push([{ string: name }, { string: property.string }]);
  }
  return { table: kinds.map(list => ({ tables: list.map(table => ({ table })) })) };
}

/** In the order that ONNX Runtime writes them. */
function sorted<T>(map: ReadonlyMap<string, T>): [string, T][] {
  return [...map].sort(([a], [b]) => (a < b ? -1 : 1));
}
