/** What a program has as arrays: as tensors. */
import { AgdError } from '../../graph/errors.js';
import { Tensor, type TypedArray } from '../../graph/tensor.js';
import { asFeeds } from '../session.js';

/** Numbers, bigints, booleans or strings, in arrays of any depth whose rows are of one length; rows may be typed arrays. */
export type NestedArray = ArrayLike<number | bigint | boolean | string> | readonly NestedArray[];

/**
 * A tensor; one of onnxruntime; a typed array, which has one axis unless it comes with `dims`; or nested arrays. Whole numbers
 * in plain arrays become int64, others float64, booleans bool: what an input takes is converted when the data are bound.
 */
export type TensorLike =
  | Tensor
  | TypedArray
  | NestedArray
  | { type: string; dims: readonly number[]; data: unknown }
  | { data: TypedArray; dims: readonly number[] };

const DTYPES = {
  Float32Array: 'float32',
  Float64Array: 'float64',
  Int8Array: 'int8',
  Uint8Array: 'uint8',
  Uint8ClampedArray: 'uint8',
  Int16Array: 'int16',
  Uint16Array: 'uint16',
  Int32Array: 'int32',
  Uint32Array: 'uint32',
  BigInt64Array: 'int64',
  BigUint64Array: 'uint64',
} as const;

/** The array as a tensor; `name` is for messages. Throws `bad-data` for what is not an array, `bad-shape` where rows differ in length. */
export function toTensor(given: TensorLike, name = 'the array'): Tensor {
  if (given instanceof Tensor) return given;
  const fail = (code: 'bad-data' | 'bad-shape', text: string) =>
    new AgdError(code, `Array '${name}' ${text}`);
  if (isTyped(given)) return fromTyped(given, [given.length], name);
  if (!Array.isArray(given)) {
    const { data, dims } = (given ?? {}) as { data?: TypedArray; dims?: readonly number[] };
    if (data && dims && isTyped(data) && !('type' in given)) return fromTyped(data, dims, name);
    if (data && dims) return asFeeds({ [name]: given })[name]!;
    throw fail('bad-data', `is ${describe(given)}; expected nested arrays, a typed array or a Tensor.`);
  }
  const dims: number[] = [];
  let first: unknown = given;
  for (; Array.isArray(first) || isTyped(first); [first] = first as unknown[]) {
    dims.push(first.length);
    if (first.length === 0) throw fail('bad-data', 'is empty.');
  }
  const values: unknown[] = [];
  const typed = new Set<string>();
  const visit = (part: unknown, depth: number): void => {
    if (depth === dims.length) {
      values.push(part);
      return;
    }
    const isRow = Array.isArray(part) || isTyped(part);
    if (!isRow || part.length !== dims[depth])
      throw fail(
        'bad-shape',
        `has rows of different shapes: ${isRow ? `one has ${part.length} elements` : `one is ${describe(part)}`} where the first has ${dims[depth]}.`,
      );
    if (isTyped(part)) typed.add(nameOf(part));
    for (const one of part as readonly unknown[]) visit(one, depth + 1);
  };
  visit(given, 0);
  const [kind] = typed;
  if (typed.size === 1 && kind) {
    const make = (globalThis as unknown as Record<string, { from(values: unknown): TypedArray }>)[kind]!;
    return fromTyped(make.from(values), dims, name);
  }
  return fromValues(values, dims, fail);
}

type Fail = (code: 'bad-data', text: string) => AgdError;

function fromValues(values: readonly unknown[], dims: readonly number[], fail: Fail): Tensor {
  const are = (type: string) => values.every(value => typeof value === type);
  if (are('number')) {
    const numbers = values as number[];
    return numbers.every(Number.isSafeInteger)
      ? Tensor.from('int64', dims, BigInt64Array.from(numbers, BigInt))
      : Tensor.from('float64', dims, Float64Array.from(numbers));
  }
  if (are('bigint')) return Tensor.from('int64', dims, BigInt64Array.from(values as bigint[]));
  if (are('boolean')) return Tensor.from('bool', dims, Uint8Array.from(values as boolean[], Number));
  if (are('string')) {
    const tensor = new Tensor('string', dims, new Uint8Array());
    tensor.strings = (values as string[]).map(text => new TextEncoder().encode(text));
    return tensor;
  }
  const odd = values.findIndex(value => typeof value !== typeof values[0]);
  const other = values[Math.max(odd, 0)];
  throw fail(
    'bad-data',
    `has ${describe(other)} among its elements; expected numbers, bigints, booleans or strings of one kind.`,
  );
}

function fromTyped(data: TypedArray | Uint8ClampedArray, dims: readonly number[], name: string): Tensor {
  const dtype = DTYPES[nameOf(data) as keyof typeof DTYPES];
  if (!dtype) throw new AgdError('bad-data', `Array '${name}' is ${describe(data)}, which is not supported.`);
  const size = dims.reduce((n, d) => n * d, 1);
  if (size !== data.length)
    throw new AgdError(
      'bad-shape',
      `Array '${name}' has ${data.length} elements, but its dims [${dims}] are of ${size}.`,
    );
  return Tensor.from(dtype, dims, data as TypedArray);
}

const nameOf = (data: object) => (data as { [Symbol.toStringTag]?: string })[Symbol.toStringTag] ?? '';

/** By name, as arrays may come from another realm. */
function isTyped(value: unknown): value is TypedArray {
  return ArrayBuffer.isView(value) && nameOf(value).endsWith('Array');
}

function describe(value: unknown): string {
  if (value === null || typeof value !== 'object')
    return typeof value === 'string' ? `'${value}'` : String(value);
  const name = nameOf(value) || value.constructor?.name || 'object';
  return `${/^[AEIOU]/.test(name) ? 'an' : 'a'} ${name}`;
}
