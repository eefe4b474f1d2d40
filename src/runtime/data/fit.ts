import type { Shape } from '../../graph/ir.js';

/** Extents of symbolic axes, as far as the arrays bound so far tell. */
export type Symbols = ReadonlyMap<string, number>;

/**
 * The shape that an array's samples take in an axis-by-axis match with `wanted`, and the symbols it settles;
 * undefined where they differ in more than axes of length 1. A symbol is the same extent everywhere.
 */
export function fitShape(
  sample: readonly number[],
  wanted: Shape,
  symbols: Symbols,
): { dims: readonly number[]; symbols: Symbols } | undefined {
  const settled = settle(sample, wanted, symbols);
  if (settled) return { dims: sample, symbols: settled };
  const extents = sample.filter(d => d !== 1);
  if (extents.length !== wanted.filter(d => d !== 1).length) return undefined;
  let next = 0;
  const dims = wanted.map(d => (d === 1 ? 1 : extents[next++]!));
  const adapted = settle(dims, wanted, symbols);
  return adapted && { dims, symbols: adapted };
}

/** `symbols` with those of `wanted` added; undefined where `dims` does not match. */
export function settle(dims: readonly number[], wanted: Shape, symbols: Symbols): Symbols | undefined {
  if (dims.length !== wanted.length) return undefined;
  const settled = new Map(symbols);
  for (const [i, dim] of wanted.entries()) {
    const extent = typeof dim === 'string' ? (settled.get(dim) ?? dims[i]!) : (dim ?? dims[i]!);
    if (extent !== dims[i]) return undefined;
    if (typeof dim === 'string') settled.set(dim, extent);
  }
  return settled;
}
