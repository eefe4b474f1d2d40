/** Fourier transforms: linear maps, whose adjoints are Fourier transforms again. */
import type { Expr } from './core/expr.js';
import { expansion, type NodeView, normalizeAxis, type Rule, range } from './core/rule.js';

type Transform = readonly [Expr, Expr?, Expr?];

/**
 * y = F x along an axis, F the matrix exp(-2 pi i k n / N), and inverted y = conj(F) x / N; x is truncated or padded to
 * N. With the adjoint conj(F) of F (it is symmetric):
 * - y = F x, one half of it with `onesided`  =>  dx = conj(F) dy, of dy padded with zeros to N;
 * - y = conj(F) x / N  =>  dx = F dy / N;
 * - y = conj(F) x / N of the half spectrum x of a real signal  =>  dx = w F dy / N, where w is 2 for all frequencies
 * that   also represent their conjugates, and 1 for the first and that of N / 2. For a real x, only the real part of dx
 *   remains.
 */
export const DFT: Rule<Transform, readonly [Expr]> = ([dy], node) => {
  const { inputs, attrs, g } = node;
  const [x, length] = inputs;
  const axis = axisOf(node);
  const at = axis.reshape([1]);
  const inverse = attrs.int('inverse', 0) === 1;
  const halved = attrs.int('onesided', 0) === 1;
  const signal = inverse ? dy : x;
  const n = length ?? signal.dims().gather(axis);
  const scale = n.cast(x.dtype);
  return [
    () => {
      const onesided = inverse && halved;
      const spectrum = transform(node, dy, { n, axis, inverse: !inverse, onesided });
      const scaled = inverse ? spectrum.div(scale) : spectrum.mul(scale);
      const weighted = onesided ? scaled.mul(conjugates(scaled, n, axis)) : scaled;
      const real =
        x.extent(-1) === 2 ? weighted : weighted.op('Slice', [g.ints([0]), x.dims(-1), g.ints([-1])]);
      return (length ? resized(real, x, at) : real).typed(x.type);
    },
    null,
    null,
  ];
};

type DftOptions = { n?: Expr; axis: Expr; inverse?: boolean; onesided?: boolean };

/** The axis became an input in version 20. */
function transform(
  node: NodeView<readonly (Expr | undefined)[]>,
  x: Expr,
  { n, axis, inverse, onesided }: DftOptions,
): Expr {
  const isInput = node.opset >= 20;
  return x.op('DFT', [n, isInput ? axis : undefined], {
    axis: isInput ? undefined : axis.constant![0],
    inverse: inverse ? 1 : 0,
    onesided: onesided ? 1 : 0,
  });
}

/** The nonnegative axis, as an int64 scalar. */
function axisOf({ inputs: [x, , axis], attrs, opset, g }: NodeView<Transform>): Expr {
  const known = axis ? axis.constant?.[0] : attrs.int('axis', opset >= 20 ? -2 : 1);
  if (known === undefined) return axis!.reshape([]).op('Mod', [g.scalar(x.rank, 'int64')]);
  return g.scalar(normalizeAxis(known, x), 'int64');
}

/**
 * 2 for the frequencies between 0 and N / 2, else 1: how often each element of the half spectrum occurs in the whole.
 */
function conjugates(spectrum: Expr, n: Expr, axis: Expr): Expr {
  const { g, rank } = spectrum;
  const isOwn = spectrum.dims().gather(axis).iota().mul(2).op('Mod', [n]).equal(0);
  const along = g.ints(range(0, rank)).equal(axis).where(g.scalar(-1, 'int64'), 1);
  return isOwn.where(g.scalar(1, spectrum.dtype), 2).reshape(along);
}

/** Truncated or padded with zeros at the end of an axis, to the extent of `x`. */
function resized(e: Expr, x: Expr, at: Expr): Expr {
  const { g } = x;
  const extent = (v: Expr) => v.dims().gather(at);
  const cut = e.op('Slice', [g.ints([0]), extent(x), at]);
  const missing = extent(x).sub(extent(cut));
  return cut.pad(g.vector([0, missing]), at);
}

/**
 * The frames of the signal, `frame_step` apart, times the window, each transformed. (ONNX Runtime's own kernel reads
 * past the end of the window where the signal is complex.)
 */
export const STFT = expansion<readonly [Expr, Expr, Expr?, Expr?]>(node => {
  const [signal, step, window, given] = node.inputs;
  const { g } = node;
  const whole = signal.dims(1, 2).squeeze([0]);
  const length = (window?.dims(0, 1).squeeze([0]) ?? given?.reshape([]) ?? whole).cast('int64');
  const stride = step.reshape([]).cast('int64');
  const count = whole.sub(length).div(stride).add(1);
  const places = count.iota().mul(stride).unsqueeze([1]).add(length.iota());
  const frames = signal.gather(places, 1);
  const windowed = window ? frames.mul(window.unsqueeze([1])) : frames;
  const onesided = node.attrs.int('onesided', 1) === 1;
  return [transform(node, windowed, { axis: g.scalar(2, 'int64'), onesided })];
});
