import { concatBytes } from '../../graph/bytes.js';
import { byteLength, type DType } from '../../graph/dtype.js';
import { AgdError } from '../../graph/errors.js';
import { writeFileAtomic } from '../../graph/files.js';
import { Tensor } from '../../graph/tensor.js';
import { aligned, readBytes } from './bytes.js';

export type SafeTensors = { tensors: Map<string, Tensor>; metadata: Record<string, string> };

/** The format's type names. F8_E4M3 is the kind without infinities. */
const DTYPES = new Map<string, DType>(
  Object.entries({
    BOOL: 'bool',
    U8: 'uint8',
    I8: 'int8',
    U16: 'uint16',
    I16: 'int16',
    U32: 'uint32',
    I32: 'int32',
    U64: 'uint64',
    I64: 'int64',
    F16: 'float16',
    BF16: 'bfloat16',
    F32: 'float32',
    F64: 'float64',
    C64: 'complex64',
    F8_E4M3: 'float8e4m3fn',
    F8_E5M2: 'float8e5m2',
    F8_E4M3FNUZ: 'float8e4m3fnuz',
    F8_E5M2FNUZ: 'float8e5m2fnuz',
    F8_E8M0: 'float8e8m0',
    F4: 'float4e2m1',
    F6_E2M3: 'float6e2m3',
    F6_E3M2: 'float6e3m2',
  }),
);
const NAMES = new Map([...DTYPES].map(([name, dtype]) => [dtype, name]));

/** The longest header the format allows. */
const MAX_HEADER = 100_000_000;
const METADATA = '__metadata__';

/** The tensors and the metadata of a .safetensors file. Throws `bad-data`, `io`. */
export async function readSafetensors(path: string): Promise<SafeTensors> {
  return decodeSafetensors(await readBytes(path), path);
}

/** Writes tensors, in their order, and metadata as a .safetensors file. Throws `unsupported-type`, `bad-data`, `io`. */
export async function writeSafetensors(
  path: string,
  tensors: ReadonlyMap<string, Tensor>,
  metadata?: Record<string, string>,
): Promise<void> {
  await writeFileAtomic(path, safetensorsChunks(tensors, metadata));
}

/** `writeSafetensors` to bytes. */
export function encodeSafetensors(
  tensors: ReadonlyMap<string, Tensor>,
  metadata?: Record<string, string>,
): Uint8Array {
  return concatBytes([...safetensorsChunks(tensors, metadata)]);
}

/** `readSafetensors` of bytes, of which the tensors are views where alignment allows; `file` is for messages. */
export function decodeSafetensors(bytes: Uint8Array, file = 'safetensors'): SafeTensors {
  const [header, start] = parseHeader(bytes, file);
  const { [METADATA]: metadata = {}, ...entries } = header;
  if (!isRecord(metadata) || !Object.values(metadata).every(v => typeof v === 'string'))
    throw new AgdError('bad-data', `${file}: ${METADATA} is not a map of strings.`);
  const tensors = new Map<string, Tensor>();
  const spans: Span[] = [];
  for (const [name, entry] of Object.entries(entries)) {
    const { dtype, dims, span } = parseEntry(entry, `${file}: tensor '${name}'`);
    spans.push(span);
    const elements = bytes.subarray(start + span[0], start + span[1]);
    tensors.set(name, new Tensor(dtype, dims, aligned(elements, byteLength(dtype, 1))));
  }
  checkSpans(spans, bytes.length - start, file);
  return { tensors, metadata: metadata as Record<string, string> };
}

type Span = [begin: number, end: number];

/**
 * The JSON header and where the elements start.
 * Format: huggingface/safetensors, README: header length (u64), JSON header, elements without gaps.
 */
function parseHeader(bytes: Uint8Array, file: string): [Record<string, unknown>, number] {
  const fail = (what: string, cause?: unknown) =>
    new AgdError('bad-data', `${file} is not a complete .safetensors file: ${what}.`, { cause });
  if (bytes.length < 8) throw fail(`${bytes.length} bytes hold no header`);
  const length = Number(new DataView(bytes.buffer, bytes.byteOffset).getBigUint64(0, true));
  if (length > MAX_HEADER || 8 + length > bytes.length)
    throw fail(`it has ${bytes.length} bytes, but claims a header of ${length}`);
  if (bytes[8] !== 0x7b) throw fail('its header is not a JSON object');
  try {
    const header: unknown = JSON.parse(
      new TextDecoder('utf-8', { fatal: true }).decode(bytes.subarray(8, 8 + length)),
    );
    if (isRecord(header)) return [header, 8 + length];
  } catch (cause) {
    throw fail('its header is not JSON', cause);
  }
  throw fail('its header is not a JSON object');
}

function parseEntry(entry: unknown, where: string): { dtype: DType; dims: number[]; span: Span } {
  const fail = (what: string) => new AgdError('bad-data', `${where}: ${what}.`);
  if (!isRecord(entry)) throw fail('its header entry is not an object');
  const dtype = typeof entry.dtype === 'string' ? DTYPES.get(entry.dtype) : undefined;
  if (!dtype) throw fail(`element type ${JSON.stringify(entry.dtype)?.replaceAll('"', "'")} is unknown`);
  const { shape: dims, data_offsets: span } = entry;
  if (!isCounts(dims) || !isCounts(span) || span.length !== 2)
    throw fail('its shape or offsets are not lists of non-negative integers');
  const need = byteLength(
    dtype,
    dims.reduce((n, d) => n * d, 1),
  );
  if (span[1]! - span[0]! !== need)
    throw fail(
      `${dtype} of shape [${dims}] takes ${need} bytes, but its offsets [${span}] span ${span[1]! - span[0]!}`,
    );
  return { dtype, dims, span: [span[0]!, span[1]!] };
}

/** The elements must fill the file: nothing hidden between, behind or under the tensors. */
function checkSpans(spans: Span[], length: number, file: string): void {
  let at = 0;
  for (const [begin, end] of spans.sort((a, b) => a[0] - b[0] || a[1] - b[1])) {
    if (begin !== at)
      throw new AgdError(
        'bad-data',
        `${file}: its tensors leave a gap or overlap at offset ${Math.min(begin, at)}.`,
      );
    at = end;
  }
  if (at !== length)
    throw new AgdError('bad-data', `${file}: its tensors take ${at} bytes, but ${length} follow the header.`);
}

/** Wide types first, as every reader wants them aligned; the header keeps the caller's order. */
function* safetensorsChunks(
  tensors: ReadonlyMap<string, Tensor>,
  metadata?: Record<string, string>,
): Generator<Uint8Array> {
  const offsets = new Map<string, number>();
  const width = (tensor: Tensor) => byteLength(tensor.dtype, 8);
  const placed = [...tensors].sort(([, a], [, b]) => width(b) - width(a));
  let end = 0;
  for (const [name, tensor] of placed) {
    offsets.set(name, end);
    end += tensor.byteLength;
  }
  const entries = [...tensors].map(([name, tensor]) => {
    const dtype = NAMES.get(tensor.dtype);
    if (!dtype)
      throw new AgdError(
        'unsupported-type',
        `.safetensors has no type for ${tensor.dtype} (tensor '${name}').`,
      );
    if (name === METADATA)
      throw new AgdError('bad-data', `A tensor cannot be named ${METADATA} in .safetensors.`);
    const begin = offsets.get(name)!;
    return [name, { dtype, shape: tensor.dims, data_offsets: [begin, begin + tensor.byteLength] }] as const;
  });
  const header = Object.fromEntries([...(metadata ? [[METADATA, metadata] as const] : []), ...entries]);
  const json = new TextEncoder().encode(JSON.stringify(header));
  const padded = new Uint8Array(8 + Math.ceil(json.length / 8) * 8).fill(0x20);
  padded.set(json, 8);
  new DataView(padded.buffer).setBigUint64(0, BigInt(padded.length - 8), true);
  yield padded;
  for (const [, tensor] of placed) yield tensor.bytes;
}

function isRecord(x: unknown): x is Record<string, unknown> {
  return typeof x === 'object' && x !== null && !Array.isArray(x);
}

function isCounts(x: unknown): x is number[] {
  return Array.isArray(x) && x.every(n => Number.isSafeInteger(n) && n >= 0);
}
