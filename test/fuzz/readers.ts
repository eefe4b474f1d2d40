/** Other readers of the same files, written for this test alone, and ONNX Runtime's. Each is undefined for a file that it does not take. */
import { inflateRawSync } from 'node:zlib';
import * as ort from 'onnxruntime-node';
import type { Tensor } from '../../src/graph/tensor.js';

/** What another reader finds: element type, shape and bytes in little endian and C order. */
export type Arrays = ReadonlyMap<string, { dtype: string; dims: readonly number[]; bytes: Uint8Array }>;

/** How arrays differ from those that another reader finds, if it finds any. */
export function sameArrays(
  ours: ReadonlyMap<string, Tensor>,
  theirs: Arrays | undefined,
): string | undefined {
  if (!theirs) return undefined;
  // The runtime's interface makes 1 of every byte that is true.
  const hex = (dtype: string, bytes: Uint8Array) =>
    Buffer.from(dtype === 'bool' ? bytes.map(byte => Number(byte !== 0)) : bytes).toString('hex');
  for (const [name, { dtype, dims, bytes }] of theirs) {
    const tensor = ours.get(name);
    const found = tensor && `${tensor.dtype} [${tensor.dims}] ${hex(tensor.dtype, tensor.bytes)}`;
    const other = `${dtype} [${dims}] ${hex(dtype, bytes)}`;
    if (found !== other) return `${JSON.stringify(name)} is read as ${found}, by another reader as ${other}`;
  }
  return undefined;
}

/** The values of a model whose outputs are stored tensors, as ONNX Runtime reads them. */
export async function runtimeValues(model: Uint8Array): Promise<Arrays | undefined> {
  const options = { logSeverityLevel: 4, graphOptimizationLevel: 'disabled', intraOpNumThreads: 1 } as const;
  try {
    const session = await ort.InferenceSession.create(model, options);
    try {
      const results = Object.entries(await session.run({}));
      return new Map(
        results
          .filter(([, { type }]) => type !== 'string')
          .map(([name, { type, dims, data }]) => {
            const { buffer, byteOffset, byteLength } = data as Uint8Array;
            return [name, { dtype: type, dims, bytes: new Uint8Array(buffer, byteOffset, byteLength) }];
          }),
      );
    } finally {
      await session.release();
    }
  } catch {
    return undefined;
  }
}

const NUMPY: Record<string, readonly [dtype: string, width: number]> = {
  '<f4': ['float32', 4],
  '<f8': ['float64', 8],
  '<f2': ['float16', 2],
  '<i8': ['int64', 8],
  '<i4': ['int32', 4],
  '|i1': ['int8', 1],
  '|u1': ['uint8', 1],
  '|b1': ['bool', 1],
};

const product = (dims: readonly number[]) => dims.reduce((a, b) => a * b, 1);

/** A .npy file of format 1, in C order, as NumPy writes it. */
export function npyArrays(bytes: Uint8Array): Arrays | undefined {
  const file = Buffer.from(bytes);
  if (file.subarray(0, 8).toString('latin1') !== '\x93NUMPY\x01\x00' || file.length < 10) return undefined;
  const begin = 10 + file.readUInt16LE(8);
  const header = file.subarray(10, begin).toString('latin1');
  const parts =
    /^\{'descr': '([<|]\w\d)', 'fortran_order': False, 'shape': \(((?:\d+, ?)*\d*)\), \}\s*$/.exec(header);
  const type = parts && NUMPY[parts[1]!];
  if (!type || begin > file.length) return undefined;
  const dims = parts[2]!.split(',').flatMap(d => (d.trim() ? [Number(d)] : []));
  const size = product(dims) * type[1];
  if (file.length < begin + size) return undefined;
  return new Map([['', { dtype: type[0], dims, bytes: file.subarray(begin, begin + size) }]]);
}

/** An archive's entries by its central directory, stored or deflated, each a .npy file. */
export function npzArrays(bytes: Uint8Array): Arrays | undefined {
  const file = Buffer.from(bytes);
  const found = new Map<string, { dtype: string; dims: readonly number[]; bytes: Uint8Array }>();
  try {
    const end = file.lastIndexOf('PK\x05\x06', undefined, 'latin1');
    let at = file.readUInt32LE(end + 16);
    for (let entries = file.readUInt16LE(end + 10); entries > 0; entries--) {
      if (file.readUInt32LE(at) !== 0x02014b50) return undefined;
      const [method, length] = [file.readUInt16LE(at + 10), file.readUInt32LE(at + 20)];
      const [nameLength, extra, comment] = [28, 30, 32].map(field => file.readUInt16LE(at + field));
      const name = file.subarray(at + 46, at + 46 + nameLength!).toString('utf8');
      const local = file.readUInt32LE(at + 42);
      const begin = local + 30 + file.readUInt16LE(local + 26) + file.readUInt16LE(local + 28);
      const packed = file.subarray(begin, begin + length);
      const content = method === 0 ? packed : inflateRawSync(packed, { maxOutputLength: 2 ** 20 });
      const array = npyArrays(content)?.get('');
      if (!array || !name.endsWith('.npy') || found.has(name.slice(0, -4))) return undefined;
      found.set(name.slice(0, -4), array);
      at += 46 + nameLength! + extra! + comment!;
    }
  } catch {
    return undefined;
  }
  return found;
}

const SAFETENSORS: Record<string, string> = { F32: 'float32', F64: 'float64', I64: 'int64', I32: 'int32' };

/** A .safetensors file: a JSON header, which says where in the rest each tensor lies. */
export function safetensorsArrays(bytes: Uint8Array): Arrays | undefined {
  const file = Buffer.from(bytes);
  try {
    const begin = 8 + Number(file.readBigUInt64LE(0));
    const header: Record<string, { dtype: string; shape: number[]; data_offsets: [number, number] }> =
      JSON.parse(file.subarray(8, begin).toString('utf8'));
    return new Map(
      Object.entries(header)
        .filter(([name]) => name !== '__metadata__')
        .map(
          ([
            name,
            {
              dtype,
              shape,
              data_offsets: [from, to],
            },
          ]) => {
            const known = SAFETENSORS[dtype];
            if (!known || to > file.length - begin) throw new Error('unknown');
            return [name, { dtype: known, dims: shape, bytes: file.subarray(begin + from, begin + to) }];
          },
        ),
    );
  } catch {
    return undefined;
  }
}
