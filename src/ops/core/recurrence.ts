/** Shared by the recurrent operators: directions, layouts, lengths, and activations with their derivatives. */
import { float } from './builder.js';
import type { Expr } from './expr.js';
import type { NodeView, Operands, Pullback } from './rule.js';

/** One direction of a recurrent layer, in its own order of time. Weights are matrices, biases vectors. */
export type Direction = {
  /** [T, B, I]: the input. */
  x: Expr;
  /** [4H, I] and the like. */
  w: Expr;
  r: Expr;
  /** Both biases, concatenated. */
  bias?: Expr;
  peepholes?: Expr;
  /** [B, H]: the states before the first step. */
  h0: Expr;
  c0?: Expr;
  /** [T, B, H]: the hidden states, and those before each step. */
  y: Expr;
  before: Expr;
  /** [T, B, 1]: 1 within a sequence, 0 after its end; undefined if all have full length. */
  mask?: Expr;
  /** [T, B, H] and [B, H]: cotangents of the hidden states and of the last states. */
  dy: Expr;
  dh: Expr;
  dc?: Expr;
  activations: readonly Activation[];
};

/** Cotangents of a direction's operands, of the shapes in `Direction`. */
export type Cotangents = {
  x: () => Expr;
  w: () => Expr;
  r: () => Expr;
  bias: () => Expr;
  peepholes?: () => Expr;
  h0: () => Expr;
  c0?: () => Expr;
};

/** Positions of the operands of LSTM, GRU and RNN; only LSTM has peepholes and a cell. */
const [X, W, R, B, LENGTHS, H0, C0, P] = [0, 1, 2, 3, 4, 5, 6, 7];

type Recurrent = NodeView<Operands>;

/**
 * The pullbacks of a recurrent operator, from those of one direction. `gates` is the number of matrices stacked in W.
 */
export function recurrentRule(
  [dY, dYh, dYc]: readonly (Expr | undefined)[],
  node: Recurrent,
  defaults: readonly string[],
  one: (d: Direction) => Cotangents,
): Pullback[] {
  const batchFirst = node.attrs.int('layout', 0) === 1;
  const turn = (e: Expr, axes: readonly number[]) => (batchFirst ? e.transpose(axes) : e);
  const { g } = node;
  const x = turn(node.inputs[X]!, [1, 0, 2]);
  const hidden = node.inputs[R]!.extent(-1);
  const [steps, batch] = [x.extent(0), x.extent(1)];
  const count = node.attrs.string('direction', 'forward') === 'bidirectional' ? 2 : 1;
  const dtype = x.dtype;
  const shape = batchFirst ? [batch, steps, count, hidden] : [steps, count, batch, hidden];
  const Y = turn(node.output(0, { kind: 'tensor', dtype, shape }), [1, 2, 0, 3]);
  const part = (e: Expr, d: number, axis = 0) => e.gather(g.scalar(d, 'int64'), axis);
  const lengths = node.inputs[LENGTHS];
  const zeros = (d: number) => part(Y, d, 1).slice([0], [1], [0]).squeeze([0]).zeros();

  const directions = Array.from({ length: count }, (_, d) => {
    const backwards = d === 1 || node.attrs.string('direction', 'forward') === 'reverse';
    const flip = (e: Expr) => (backwards ? reversed(e, lengths) : e);
    const state = (e: Expr | undefined) => (e ? part(turn(e, [1, 0, 2]), d) : zeros(d));
    const y = flip(part(Y, d, 1));
    const h0 = state(node.inputs[H0]);
    const result = one({
      x: flip(x),
      w: part(node.inputs[W]!, d),
      r: part(node.inputs[R]!, d),
      bias: node.inputs[B] && part(node.inputs[B], d),
      peepholes: node.inputs[P] && part(node.inputs[P], d),
      h0,
      c0: state(node.inputs[C0]),
      y,
      before: h0
        .unsqueeze([0])
        .concat([y.slice([0], [-1], [0])], 0)
        .typed(y.type),
      mask: lengths && runningMask(x, lengths),
      dy: dY ? flip(part(turn(dY, [1, 2, 0, 3]), d, 1)) : y.zeros(),
      dh: state(dYh),
      dc: state(dYc),
      activations: activationsOf(node, defaults, d),
    });
    return { ...result, x: () => flip(result.x()) };
  });

  const stacked = (key: 'w' | 'r' | 'bias' | 'peepholes') => () => stack(directions.map(d => d[key]!()));
  const states = (key: 'h0' | 'c0') => () => turn(stack(directions.map(d => d[key]!())), [1, 0, 2]);
  return [
    () =>
      turn(
        directions.map(d => d.x()).reduce((a, b) => a.add(b)),
        [1, 0, 2],
      ),
    stacked('w'),
    stacked('r'),
    node.inputs[B] ? stacked('bias') : null,
    null,
    node.inputs[H0] ? states('h0') : null,
    node.inputs[C0] ? states('c0') : null,
    node.inputs[P] ? stacked('peepholes') : null,
  ];
}

function stack(parts: readonly Expr[]): Expr {
  const [first, ...rest] = parts.map(e => e.unsqueeze([0]));
  return first!.concat(rest, 0);
}

/** Reverses each sequence in time, within its length. */
function reversed(e: Expr, lengths: Expr | undefined): Expr {
  if (lengths) return e.op('ReverseSequence', [lengths.cast('int64')], { time_axis: 0, batch_axis: 1 });
  return e.slice([-1], [Number.MIN_SAFE_INTEGER], [0], [-1]).typed(e.type);
}

function runningMask(x: Expr, lengths: Expr): Expr {
  const { g } = x;
  const [zero, one] = [g.scalar(0, 'int64'), g.scalar(1, 'int64')];
  const time = zero.op('Range', [x.dims(0, 1).squeeze([0]), one]);
  return time
    .unsqueeze([1])
    .less(lengths.cast('int64').unsqueeze([0]))
    .indicator(x)
    .unsqueeze([2]);
}

// ---- products over all steps at once ----

/** a b^T for every step: [T, B, I] and [M, I] to [T, B, M]. */
export const project = (a: Expr, b: Expr): Expr => a.matmul(b.transpose([1, 0]));

/** The sum over all steps and samples of outer products: [T, B, M] and [T, B, I] to [M, I]. */
export function outer(a: Expr, b: Expr): Expr {
  const rows = (e: Expr) => e.reshape(e.g.ints([-1]).concat([e.dims(-1)], 0));
  return rows(a).transpose([1, 0]).matmul(rows(b));
}

/** The i-th of `count` equal parts of the last axis. */
export function gate(e: Expr, i: number, count: number): Expr {
  const size = e.extent(-1);
  const axis = e.rank - 1;
  if (typeof size === 'number') return e.slice([(size / count) * i], [(size / count) * (i + 1)], [axis]);
  const width = e.dims(-1).div(count);
  return e.slice(width.mul(i), width.mul(i + 1), [axis]);
}

// ---- activations ----

/** A function and its derivative, which is computed from argument and value. */
export type Activation = { apply(z: Expr): Expr; slope(z: Expr, y: Expr): Expr };

function activation(
  name: string,
  alpha: number | undefined,
  beta: number | undefined,
): Activation | undefined {
  const step = (z: Expr) => z.greater(0).indicator(z);
  switch (name.toLowerCase()) {
    case 'sigmoid':
      return { apply: z => z.sigmoid(), slope: (_, y) => y.mul(y.rsub(1)) };
    case 'tanh':
      return { apply: z => z.tanh(), slope: (_, y) => y.square().rsub(1) };
    case 'relu':
      return { apply: z => z.relu(), slope: step };
    case 'affine':
      return { apply: z => z.mul(alpha ?? 1).add(beta ?? 0), slope: z => z.full(alpha ?? 1) };
    case 'leakyrelu':
      return {
        apply: z => z.op('LeakyRelu', [], { alpha: float(alpha ?? 0.01) }),
        slope: z =>
          step(z)
            .mul(1 - (alpha ?? 0.01))
            .add(alpha ?? 0.01),
      };
    case 'thresholdedrelu': {
      const above = (z: Expr) => z.greater(alpha ?? 1).indicator(z);
      return { apply: z => z.mul(above(z)), slope: above };
    }
    case 'scaledtanh': {
      const [a, b] = [alpha ?? 1, beta ?? 1];
      return {
        apply: z => z.mul(b).tanh().mul(a),
        slope: (_, y) =>
          y
            .div(a)
            .square()
            .rsub(1)
            .mul(a * b),
      };
    }
    case 'hardsigmoid': {
      const a = alpha ?? 0.2;
      const inside = (y: Expr) => y.greater(0).and(y.less(1)).indicator(y);
      return {
        apply: z => z.op('HardSigmoid', [], { alpha: float(a), beta: float(beta ?? 0.5) }),
        slope: (_, y) => inside(y).mul(a),
      };
    }
    case 'elu': {
      const a = alpha ?? 1;
      return {
        apply: z => z.op('Elu', [], { alpha: float(a) }),
        slope: (z, y) => z.greater(0).where(1, y.add(a)),
      };
    }
    case 'softsign':
      return { apply: z => z.op('Softsign'), slope: z => z.abs().add(1).square().reciprocal() };
    case 'softplus':
      return { apply: z => z.op('Softplus'), slope: z => z.sigmoid() };
    default:
      return undefined;
  }
}

const TAKES_ALPHA = /^(affine|leakyrelu|thresholdedrelu|scaledtanh|hardsigmoid|elu)$/i;
const TAKES_BETA = /^(affine|scaledtanh|hardsigmoid)$/i;

/**
 * The activations of one direction. The lists of alpha and beta contain values for the activations that have them, in
 * order.
 */
function activationsOf(node: Recurrent, defaults: readonly string[], direction: number): Activation[] {
  const from = direction * defaults.length;
  const names =
    node.attrs.strings('activations') ??
    Array<readonly string[]>(direction + 1)
      .fill(defaults)
      .flat();
  const nth = (list: number[] | undefined, takes: RegExp, i: number) =>
    takes.test(names[i]!) ? list?.[names.slice(0, i).filter(n => takes.test(n)).length] : undefined;
  const [alphas, betas] = [node.attrs.floats('activation_alpha'), node.attrs.floats('activation_beta')];
  return defaults.map((_, k) => {
    const i = from + k;
    const made = activation(names[i]!, nth(alphas, TAKES_ALPHA, i), nth(betas, TAKES_BETA, i));
    return made ?? node.unsupported(`activation '${names[i]}'`);
  });
}

/** Whether a value is within the clipping range, so that the gradient passes. */
export function unclipped(z: Expr, clip: number): Expr {
  return z.abs().less(clip).indicator(z);
}
