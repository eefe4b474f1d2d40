import type { Binding } from '../../graph/ir.js';
import type { Tensor } from '../../graph/tensor.js';
import type { RunTable } from '../../passes/run/merge-tables.js';
import type { Feeds } from '../session.js';

/** Puts the rows that a run looked up and changed into the tables of `state`. Returns these by name. */
export function putRows(
  tables: readonly RunTable[],
  updates: readonly Binding[],
  state: Feeds,
  results: Feeds,
): Feeds {
  const next = new Map(updates.map(u => [u.state, u.value]));
  const changed = tables.flatMap(({ states, rows }) => states.map(name => [name, rows] as const));
  for (const [name, rows] of changed)
    put(state[name]!, results[next.get(name)!]!, results[rows]!.data as Int32Array);
  return Object.fromEntries(changed.map(([name]) => [name, state[name]!]));
}

function put(table: Tensor, values: Tensor, rows: Int32Array): void {
  const size = values.bytes.length / rows.length;
  // Words are faster than bytes, and unlike floats are the same bits wherever they are put.
  const Words = size % 4 ? Uint8Array : Uint32Array;
  const width = size / Words.BYTES_PER_ELEMENT;
  const view = ({ bytes }: Tensor) =>
    new Words(bytes.buffer as ArrayBuffer, bytes.byteOffset, bytes.length / Words.BYTES_PER_ELEMENT);
  const [into, from] = [view(table), view(values)];
  for (let i = 0; i < rows.length; i++) {
    let to = rows[i]! * width;
    for (let j = i * width; j < (i + 1) * width; j++) into[to++] = from[j]!;
  }
}
