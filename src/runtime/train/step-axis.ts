/** Batches with a leading axis of steps, and states of other extents within a run. */
import { record } from '../../graph/record.js';
import { Tensor } from '../../graph/tensor.js';
import type { Feeds } from '../session.js';

/** The one batch without the axis of steps. */
export function unstacked(batches: Feeds): Feeds {
  const entries = Object.entries(batches).map(([name, t]) => [
    name,
    new Tensor(t.dtype, t.dims.slice(1), t.bytes),
  ]);
  return record(Object.fromEntries(entries));
}

/** Tensors with other extents, where `extents` has any for them. */
export function inExtents(tensors: Feeds, extents: ReadonlyMap<string, readonly number[]>): Feeds {
  const found = record(tensors);
  for (const [name, dims] of extents) {
    const { dtype, bytes } = found[name]!;
    found[name] = new Tensor(dtype, dims, bytes);
  }
  return found;
}

/** Steps `from` up to, not including, `to` of batches with a leading axis of steps. */
export function slice(batches: Feeds, from: number, to: number): Feeds {
  const cut = Object.entries(batches).map(([name, { dtype, dims, bytes }]) => {
    const size = bytes.length / dims[0]!;
    return [name, new Tensor(dtype, [to - from, ...dims.slice(1)], bytes.subarray(from * size, to * size))];
  });
  return record(Object.fromEntries(cut));
}
