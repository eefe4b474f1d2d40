import { byteLength, type DType } from '../../graph/dtype.js';
import { AgdError } from '../../graph/errors.js';
import { Tensor } from '../../graph/tensor.js';
import { aligned } from './bytes.js';

/** numpy's type strings without the byte order. */
const DTYPES = new Map<string, DType>(
  Object.entries({
    b1: 'bool',
    i1: 'int8',
    i2: 'int16',
    i4: 'int32',
    i8: 'int64',
    u1: 'uint8',
    u2: 'uint16',
    u4: 'uint32',
    u8: 'uint64',
    f2: 'float16',
    f4: 'float32',
    f8: 'float64',
  } as const),
);
const TYPE_STRINGS = new Map([...DTYPES].map(([string, dtype]) => [dtype, string]));

/** numpy's own bounds: of a header that it reads without being told to trust it, and of a number of axes. */
const MAX_HEADER = 10_000;
const MAX_AXES = 64;

const MAGIC = '\x93NUMPY';

export function isNpy(bytes: Uint8Array): boolean {
  return bytes.length >= 6 && String.fromCharCode(...bytes.subarray(0, 6)) === MAGIC;
}

/**
 * One array of numpy's .npy format, versions 1 to 3, either byte order, C or Fortran order (made C order);
 * integers, floats and booleans; of text only the shape. `where` is for messages. Throws `bad-data`.
 * Format: numpy.lib.format.
 */
export function decodeNpy(bytes: Uint8Array, where: string): Tensor {
  const fail = (what: string) => new AgdError('bad-data', `${where}: ${what}.`);
  if (!isNpy(bytes)) throw fail('not a .npy array');
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const version = bytes[6] ?? 0;
  if (version < 1 || version > 3)
    throw fail(`.npy version ${version} is unknown; versions 1 to 3 can be read`);
  const start = version === 1 ? 10 : 12;
  if (bytes.length < start) throw fail('the .npy header is truncated');
  const end = start + (version === 1 ? view.getUint16(8, true) : view.getUint32(8, true));
  if (bytes.length < end) throw fail('the .npy header is truncated');
  if (end - start > MAX_HEADER)
    throw fail(`the .npy header takes ${end - start} bytes; at most ${MAX_HEADER} can be read`);

  const decoder = new TextDecoder(version === 3 ? 'utf-8' : 'latin1');
  const header = parseHeader(decoder.decode(bytes.subarray(start, end)));
  if (!header) throw fail('the .npy header cannot be read');
  const { descr, fortranOrder, shape: dims } = header;
  const [, byteOrder, code] = /^'([<>|=])(\w\d+)'$/.exec(descr) ?? [];
  const dtype = DTYPES.get(code ?? '');
  const isText = /^[US]\d+$/.test(code ?? '');
  if (!dtype && !isText)
    throw fail(
      `elements of type ${descr[0] === '[' ? 'struct' : descr} cannot be read; use integers, floats or booleans`,
    );

  const size = dims.reduce((n, d) => n * d, 1);
  if (dims.length > MAX_AXES || !dims.every(Number.isSafeInteger) || !Number.isSafeInteger(8 * size))
    throw fail(`[${dims.slice(0, MAX_AXES)}] is not a possible shape`);
  // A file may hold names of its classes beside what is trained on; only asking for them fails.
  if (!dtype)
    return new Tensor('string', dims, () => {
      throw fail('text cannot be read as numbers');
    });
  if (bytes.length - end !== byteLength(dtype, size))
    throw fail(
      `${dtype} of shape [${dims}] takes ${byteLength(dtype, size)} bytes, but ${bytes.length - end} are there`,
    );
  const width = byteLength(dtype, 1);
  let elements = aligned(bytes.subarray(end), width);
  if (byteOrder === '>') elements = reverseEach(elements, width);
  return new Tensor(dtype, dims, fortranOrder && size ? fromFortran(elements, dims, width) : elements);
}

type Header = { descr: string; fortranOrder: boolean; shape: number[] };

/** What a header's text is made of; the list of a struct's fields is one piece, to its last bracket. */
const PIECE = /\s*('[^'\\]*'|\[.*\]|\d+|L|True|False|[{}():,]|$)/sy;

/** The header: a Python dictionary of exactly the three keys; undefined where it is something else. */
function parseHeader(text: string): Header | undefined {
  PIECE.lastIndex = 0;
  const pieces: string[] = [];
  for (let piece = PIECE.exec(text); piece?.[1]; piece = PIECE.exec(text)) pieces.push(piece[1]);
  let at = 0;
  const take = (piece: string) => pieces[at] === piece && ++at > 0;
  const found = new Map<string, string | boolean | number[]>();
  const value = (key: string) => {
    const next = pieces[at++];
    if (key === "'descr'") return /^['[]/.test(next ?? '') ? next : undefined;
    if (key === "'fortran_order'") return next === 'True' || (next === 'False' ? false : undefined);
    if (key !== "'shape'" || next !== '(') return undefined;
    const dims: number[] = [];
    for (let more = true; more && /^(0|[1-9]\d*)$/.test(pieces[at] ?? ''); ) {
      dims.push(Number(pieces[at++]));
      // Python 2 marked long integers.
      take('L');
      more = take(',');
      // What has no comma is a number in brackets, not a tuple.
      if (!more && dims.length === 1) return undefined;
    }
    return take(')') ? dims : undefined;
  };
  if (!take('{')) return undefined;
  while (!take('}')) {
    const key = pieces[at++] ?? '';
    const content = take(':') && !found.has(key) ? value(key) : undefined;
    if (content === undefined) return undefined;
    found.set(key, content);
    if (!take(',') && pieces[at] !== '}') return undefined;
  }
  if (at < pieces.length || PIECE.lastIndex < text.length || found.size < 3) return undefined;
  return {
    descr: found.get("'descr'") as string,
    fortranOrder: found.get("'fortran_order'") as boolean,
    shape: found.get("'shape'") as number[],
  };
}

/** A tensor as a .npy array, version 1, C order, little-endian. Throws `unsupported-type` for types numpy lacks. */
export function encodeNpy(tensor: Tensor): Uint8Array {
  const code = TYPE_STRINGS.get(tensor.dtype);
  if (!code)
    throw new AgdError(
      'unsupported-type',
      `numpy has no type for ${tensor.dtype}; write .safetensors instead.`,
    );
  const shape = tensor.dims.length === 1 ? `${tensor.dims},` : tensor.dims.join(', ');
  const descr = `${byteLength(tensor.dtype, 1) === 1 ? '|' : '<'}${code}`;
  const dict = `{'descr': '${descr}', 'fortran_order': False, 'shape': (${shape}), }`;
  const header = `${dict.padEnd(Math.ceil((dict.length + 11) / 64) * 64 - 11)}\n`;
  const bytes = new Uint8Array(10 + header.length + tensor.byteLength);
  bytes.set(ascii(`${MAGIC}\x01\x00`));
  new DataView(bytes.buffer).setUint16(8, header.length, true);
  bytes.set(ascii(header), 10);
  bytes.set(tensor.bytes, 10 + header.length);
  return bytes;
}

function ascii(text: string): Uint8Array {
  return Uint8Array.from(text, c => c.charCodeAt(0));
}

function reverseEach(bytes: Uint8Array, width: number): Uint8Array {
  const out = bytes.slice();
  for (let at = 0; at < out.length; at += width) out.subarray(at, at + width).reverse();
  return out;
}

/** The elements of an array whose first axis varies fastest, in the order where the last one does. */
function fromFortran(bytes: Uint8Array, dims: readonly number[], width: number): Uint8Array {
  const out = new Uint8Array(bytes.length);
  const strides: number[] = [];
  dims.reduce((stride, d) => strides.push(stride) && stride * d, width);
  let to = 0;
  const copy = (axis: number, from: number): void => {
    if (axis === dims.length) for (let b = 0; b < width; b++) out[to++] = bytes[from + b]!;
    else for (let i = 0; i < dims[axis]!; i++) copy(axis + 1, from + i * strides[axis]!);
  };
  copy(0, 0);
  return out;
}
