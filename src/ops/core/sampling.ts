/** Interpolates [N, C, ...spatial] between its elements: weighted sums of neighbours. */
import type { Expr } from './expr.js';
import { range } from './rule.js';

/** Along one axis: the neighbours of each sampled position and their weights, both [N, neighbours, places]. */
export type Neighbours = { at: Expr; weights: Expr; count: number };

type Interpolation = { origin: (places: Expr) => Expr; offsets: number[]; weights: (t: Expr) => Expr };

const INTERPOLATIONS = {
  nearest: { origin: p => p.op('Round'), offsets: [0], weights: t => t.ones() },
  /**
   * Two neighbours suffice for the value. The third makes the slope correct at an element, where it jumps: the mean of
   * the slopes on both sides.
   */
  linear: {
    origin: p => p.op('Round'),
    offsets: [-1, 0, 1],
    weights: t =>
      t
        .neg()
        .concat([t.abs().rsub(1), t], 1)
        .maximum(0),
  },
  /** Only the two neighbours, to compare them: at an element, the weight is 1 and its slope 0. */
  corners: { origin: p => p.floor(), offsets: [0, 1], weights: t => t.abs().rsub(1).concat([t], 1) },
  cubic: {
    origin: p => p.floor(),
    offsets: [-1, 0, 1, 2],
    weights: t => cubicFar(t.add(1)).concat([cubicNear(t), cubicNear(t.rsub(1)), cubicFar(t.rsub(2))], 1),
  },
} satisfies Record<string, Interpolation>;

/**
 * The neighbours of `places` [N, places], in units of elements. Their positions are int64, so the gradient flows
 * through the weights alone.
 */
export function neighbours(kind: keyof typeof INTERPOLATIONS, places: Expr): Neighbours {
  const { origin, offsets, weights } = INTERPOLATIONS[kind];
  const first = origin(places).cast('int64');
  const t = places.sub(first.cast(places.dtype)).unsqueeze([1]);
  const at = first.unsqueeze([1]).add(places.g.ints(offsets).unsqueeze([1]));
  return { at, weights: weights(t), count: offsets.length };
}

/** Keys' cubic convolution kernel with a = -0.75, at a distance up to 1. */
function cubicNear(d: Expr): Expr {
  return d.mul(1.25).sub(2.25).mul(d).mul(d).add(1);
}

/** The same at a distance from 1 to 2. */
function cubicFar(d: Expr): Expr {
  return d.mul(-0.75).add(3.75).mul(d).sub(6).mul(d).add(3);
}

/** Neighbours outside the axis are zero. */
export function zeroOutside({ at, weights, count }: Neighbours, extent: Expr): Neighbours {
  const inside = at.greaterOrEqual(0).and(at.less(extent));
  return clampOutside({ at, weights: weights.mul(inside.indicator(weights)), count }, extent);
}

/** Neighbours outside the axis have the value at its border. */
export function clampOutside({ at, weights, count }: Neighbours, extent: Expr): Neighbours {
  return { at: at.maximum(0).minimum(extent.sub(1)), weights, count };
}

/** Neighbours outside the axis have the value at their reflection, about the last elements or their edges. */
export function reflectOutside(
  { at, weights, count }: Neighbours,
  extent: Expr,
  aboutElements: boolean,
): Neighbours {
  const last = aboutElements ? extent.mul(2).sub(2) : extent.mul(2).sub(1);
  const folded = at.op('Mod', [aboutElements ? last.maximum(1) : last.add(1)]);
  return { at: folded.minimum(last.sub(folded)), weights, count };
}

/** [N, C, places]: for each place, the sum over its neighbours along all axes. */
export function interpolate(x: Expr, axes: readonly Neighbours[]): Expr {
  const { g } = x;
  const apart = (e: Expr, i: number) => e.unsqueeze(range(1, axes.length + 1).filter(a => a !== i + 1));
  const flat = (e: Expr) => e.reshape([0, 1, -1]);
  const index = axes
    .map((a, i) => apart(a.at, i))
    .reduce((sum, at, i) => sum.mul(x.dims(2 + i, 3 + i)).add(at));
  const weights = axes.map((a, i) => apart(a.weights, i)).reduce((product, w) => product.mul(w));
  const everyChannel = flat(index).expand(g.vector([1, x.dims(1, 2), 1]));
  const weighted = x.reshape([0, 0, -1]).gatherElements(everyChannel, 2).mul(flat(weights));
  const count = axes.reduce((n, a) => n * a.count, 1);
  return weighted.reshape([0, 0, count, -1]).sum([2]);
}
