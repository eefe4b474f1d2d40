/** The dynamic loss scale of float16 training. */
import type { Value } from '../../graph/ir.js';
import { Tensor } from '../../graph/tensor.js';
import type { Builder } from '../../ops/core/builder.js';
import type { Expr } from '../../ops/core/expr.js';
import { stateInput, type Updates } from '../update/transition.js';

/**
 * The factor on the loss, a float32 scalar, and the number of updates since it last changed (int64). After `window`
 * updates it is doubled.
 */
export type LossScale = { scale: Value; good: Value; window: number };

/** The defaults of PyTorch's GradScaler, whose rules are followed: `init_scale` and `growth_interval`. */
const DEFAULTS = { lossScale: 2 ** 16, lossScaleWindow: 2000 };
/** The largest power of two in float32. */
const LARGEST = 2 ** 127;

/** Adds the states of a dynamic loss scale. */
export function addLossScale(
  g: Builder,
  { lossScale = DEFAULTS.lossScale, lossScaleWindow: window = DEFAULTS.lossScaleWindow } = {},
): LossScale {
  const scale = stateInput(g, 'loss_scale', Tensor.filled('float32', [], lossScale));
  const good = stateInput(g, 'loss_scale_steps', Tensor.filled('int64', [], 0));
  return { scale, good, window };
}

/** The cotangent of a gradient of the scaled loss, in float32, without the scale. */
export const unscaled = (gradient: Expr, { scale }: LossScale): Expr =>
  gradient.wide().mul(gradient.g.of(scale).reciprocal().cast(gradient.wide().dtype));

/** After gradients that were finite: doubled at the end of the window. */
export function keepScale(g: Builder, { scale, good, window }: LossScale): Updates {
  const steps = g.of(good).add(1);
  const isDue = steps.equal(window);
  const grown = g.of(scale).mul(2).minimum(LARGEST);
  return new Map([
    [scale, isDue.where(grown, g.of(scale))],
    [good, isDue.where(0, steps)],
  ]);
}

/** After gradients that were not: halved. */
export const lowerScale = (g: Builder, { scale, good }: LossScale): Updates =>
  new Map([
    [scale, g.of(scale).mul(0.5)],
    [good, g.of(good).zeros()],
  ]);
