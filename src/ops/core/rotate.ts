import type { Expr } from './expr.js';

/** `MAX` as the end of a slice means the end of the axis. */
const MAX = Number.MAX_SAFE_INTEGER;

/**
 * Rotates the first `width` features of x [B, S, N, H] (all if 0) by the angles of their positions. `cos` and `sin` are
 * tables indexed by position, or [B, S, H / 2] without positions.
 */
export function rotate(
  x: Expr,
  [cos, sin, positions]: readonly [Expr, Expr, Expr?],
  { width, interleaved }: { width: number; interleaved: boolean },
): Expr {
  const angles = (table: Expr) => (positions ? table.gather(positions) : table).unsqueeze([2]);
  const turned = (part: Expr) => turn(part, angles(cos), angles(sin), interleaved);
  if (width === 0 || width === x.extent(-1)) return turned(x);
  return turned(x.slice([0], [width], [3])).concat([x.slice([width], [MAX], [3])], 3);
}

/** (x1, x2) to (x1 cos - x2 sin, x1 sin + x2 cos); x contains all x1 and then all x2, or is interleaved. */
function turn(x: Expr, cos: Expr, sin: Expr, interleaved: boolean): Expr {
  const [x1, x2] = interleaved ? alternate(x) : halves(x);
  const [y1, y2] = [x1.mul(cos).sub(x2.mul(sin)), x1.mul(sin).add(x2.mul(cos))];
  if (!interleaved) return y1.concat([y2], 3);
  return y1
    .unsqueeze([4])
    .concat([y2.unsqueeze([4])], 4)
    .reshapeLike(x);
}

function alternate(x: Expr): [Expr, Expr] {
  return [x.slice([0], [MAX], [3], [2]), x.slice([1], [MAX], [3], [2])];
}

function halves(x: Expr): [Expr, Expr] {
  const size = x.extent(-1);
  const half = typeof size === 'number' ? size / 2 : null;
  const shape = x.shape && [...x.shape.slice(0, -1), half];
  const type = { kind: 'tensor', dtype: x.dtype, shape } as const;
  const attrs = { axis: 3, num_outputs: 2 };
  return x.g.emit('Split', [x], attrs, { outputs: 2, types: [type, type] }) as [Expr, Expr];
}
