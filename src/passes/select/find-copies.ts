/** Finds parameters that an exporter copied for each sample of a fixed batch, such as class tokens and positions. */
import type { Graph, Value } from '../../graph/ir.js';
import type { Tensor } from '../../graph/tensor.js';
import { type Origins, sourcesOf } from './read-origins.js';

/**
 * Why each of the copies does not train: every one would learn from its own sample alone. `warnings` gets a line
 * that names them.
 */
export function findCopies(
  { inputs, initializers }: Graph,
  origins: Origins,
  warnings?: string[],
): ReadonlyMap<Value, string> {
  const data = inputs.filter(v => !initializers.has(v));
  const fixed = new Set(data.map(v => v.shape?.[0]).filter(d => typeof d === 'number' && d > 1));
  const why = 'copied for each sample of the fixed batch: export with optimize=False';
  const found = [...initializers].flatMap(([v, tensor]) =>
    origins.get(v)?.kind === 'parameter' && sourcesOf(v).length && repeatsAlong(tensor, fixed) ? [v] : [],
  );
  const names = found.map(v => `'${v.name}'`).join(', ');
  if (names) warnings?.push(`${names} ${found.length > 1 ? 'do' : 'does'} not train: ${why}`);
  return new Map(found.map(v => [v, why]));
}

/** Whether an axis with one of these extents has the same elements at each place, which are not all one number. */
function repeatsAlong(tensor: Tensor, extents: ReadonlySet<unknown>): boolean {
  const { dims } = tensor;
  if (dims.length < 2 || !dims.some(d => extents.has(d)) || tensor.isUniform) return false;
  const x = tensor.floats();
  return dims.some((extent, axis) => {
    const inner = dims.slice(axis + 1).reduce((n, d) => n * d, 1);
    const isFirst = (i: number) => Math.floor(i / inner) % extent === 0;
    return extents.has(extent) && x.every((v: number, i: number) => isFirst(i) || v === x[i - inner]);
  });
}
