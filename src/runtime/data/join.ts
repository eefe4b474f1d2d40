/** Blocks and arrays, one after the other. */
import { byteLength } from '../../graph/dtype.js';
import { AgdError } from '../../graph/errors.js';
import { Tensor } from '../../graph/tensor.js';
import { offsets } from './order.js';
import type { Block, Source, Values } from './source.js';

/** All rows of a source in one block, of these fields. */
export async function readAll(source: Source, fields: readonly string[]): Promise<Block> {
  const parts = new Map<string, Values[]>();
  for (const index of source.blocks.keys()) {
    const { values } = await source.read(index, fields);
    for (const [name, list] of values) parts.set(name, [...(parts.get(name) ?? []), list]);
  }
  const rows = source.blocks.reduce((n, count) => n + count, 0);
  return { rows, values: new Map([...parts].map(([name, lists]) => [name, joinValues(lists)])) };
}

function joinValues(parts: readonly Values[]): Values {
  const [first] = parts as [Values];
  if (parts.length === 1) return first;
  if (first instanceof Tensor) return joinTensors(parts as readonly Tensor[]);
  if (Array.isArray(first)) return (parts as readonly (readonly never[])[]).flat(1);
  const typed = sameType(parts as readonly Numbers[]) as readonly Float64Array[];
  const starts = offsets(typed.map(({ length }) => length));
  const out = new (typed[0]!.constructor as Float64ArrayConstructor)(starts.at(-1)!);
  for (const [i, part] of typed.entries()) out.set(part, starts[i]);
  return out;
}

type Numbers = Exclude<Values, Tensor | readonly unknown[]>;

/**
 * Blocks of one column can differ in type: of integers that no double holds, or without missing values. All become 64-bit
 * integers where each has such values, and doubles otherwise.
 */
function sameType(parts: readonly Numbers[]): readonly Numbers[] {
  if (parts.every(part => part.constructor === parts[0]!.constructor)) return parts;
  const isExact = (part: Numbers) =>
    part instanceof BigInt64Array || (part as Float64Array).every(Number.isSafeInteger);
  if (parts.some(part => part instanceof BigInt64Array) && parts.every(isExact))
    return parts.map(part => BigInt64Array.from(part as Float64Array, BigInt));
  return parts.map(part => Float64Array.from(part as Float64Array, Number));
}

/** Arrays one after the other along the first axis. All have the element type and row shape of the first. */
export function joinTensors(parts: readonly Tensor[]): Tensor {
  const [first] = parts as [Tensor];
  if (parts.length === 1) return first;
  const rows = parts.reduce((n, { dims }) => n + dims[0]!, 0);
  const dims = [rows, ...first.dims.slice(1)];
  const bytes = new Uint8Array(
    byteLength(
      first.dtype,
      dims.reduce((n, d) => n * d, 1),
    ),
  );
  let at = 0;
  for (const part of parts) {
    bytes.set(part.bytes, at);
    at += part.byteLength;
  }
  return new Tensor(first.dtype, dims, bytes);
}

/** The arrays of several files, one after the other. Throws `bad-data` with what differs. */
export function joinArrays(
  files: readonly { path: string; arrays: ReadonlyMap<string, Tensor> }[],
): Map<string, Tensor> {
  const [first, ...others] = files as [(typeof files)[number], ...typeof files];
  const shape = (t: Tensor | undefined) =>
    t &&
    `${t.dtype} [N${t.dims
      .slice(1)
      .map(d => `, ${d}`)
      .join('')}]`;
  const names = [...new Set(files.flatMap(({ arrays }) => [...arrays.keys()]))];
  for (const { path, arrays } of others)
    for (const name of names) {
      const [one, other] = [first.arrays, arrays].map(all => shape(all.get(name)));
      if (one !== other)
        throw new AgdError(
          'bad-data',
          `Array '${name}' is ${one ?? 'missing'} in ${first.path}, but ${other ?? 'missing'} in ${path}; files that are read together hold the same arrays.`,
        );
    }
  return new Map(names.map(name => [name, joinTensors(files.map(({ arrays }) => arrays.get(name)!))]));
}
