/**
 * Schedule-Free learning. Defazio, Yang, Khaled, Mishchenko, Mehta, Cutkosky: «The Road Less Scheduled», NeurIPS 2024; of any
 * optimizer as in the authors' wrapper, whose names and defaults the options have.
 */
import type { Expr } from '../../core/expr.js';
import {
  type Averaging,
  asKept,
  ensure,
  type KeptState,
  type Optimizer,
  type OptimizerOptions,
  rateOf,
  type Scalars,
  statesOf,
  towards,
} from '../optimizer.js';

const KEPT: readonly KeptState[] = [
  { name: 'z', value: 'parameter' },
  { name: 'weight_sum', scalar: true },
  { name: 'lr_max', scalar: true },
];

/** Keeps a rate of 0 from a division by 0. */
const TINY = 1e-30;

/**
 * Moves z by gradients at y; the weights are x, the average of all z. With u the optimizer's step at z, and γ its rate:
 *
 *     y = (1 - momentum) z + momentum x
 *     z -= γ weight_decay_at_y y + u
 *     x += c (z - x)            c_t = w_t / (w_1 + ... + w_t),  w_t = t^r max(γ_1, ..., γ_t)^weight_lr_power
 */
export function scheduleFree<O extends OptimizerOptions>(
  optimizer: Optimizer<O>,
  averagingOf: (options: O) => Averaging,
): Optimizer<O> {
  const settings = (options: O) => {
    const defaults = { momentum: 0.9, weightDecayAtY: 0, r: 0, weightLrPower: 2, warmupSteps: 0 };
    return { ...defaults, ...averagingOf(options) };
  };
  const point = (x: Expr, z: Expr, options: O) => towards(x, z, 1 - settings(options).momentum);
  /** The share of the new z in x, and the next values of what it follows from. */
  const average = (scalars: Scalars, options: O): Scalars => {
    const { r, weightLrPower } = settings(options);
    const { average_step: step, lr_max: before, weight_sum: total } = scalars;
    const largest = before!.maximum(rateOf(optimizer, scalars, scalars.average_lr!));
    const power = largest.pow(weightLrPower);
    const weight = r ? step!.pow(r).mul(power) : power;
    const sum = total!.add(weight);
    return { average_share: weight.div(sum.maximum(TINY)), lr_max: largest, weight_sum: sum };
  };
  const { totals, checkpoint, uncounted: _, ...others } = optimizer;
  return {
    ...others,
    inner: { optimizer, averagingOf },
    states: (options, shape) => [...optimizer.states(options, shape), ...KEPT],
    point: (x, { z }, options) => point(x, z!, options),

    scalars(step, lr, options, kept) {
      const { warmupSteps, weightDecayAtY } = settings(options);
      const warm = warmupSteps ? lr.mul(step.div(warmupSteps).minimum(1)) : lr;
      const { lr_max, weight_sum, ...own } = kept;
      const inner = optimizer.scalars(step, warm, options, own);
      const known = {
        ...inner,
        average_step: step,
        average_lr: warm,
        lr_max: lr_max!,
        weight_sum: weight_sum!,
      };
      return {
        ...known,
        ...(weightDecayAtY ? { average_decay: rateOf(optimizer, inner, warm).mul(weightDecayAtY) } : {}),
        ...(totals ? {} : average(known, options)),
      };
    },

    ...(totals && {
      totals: {
        terms: (x, grad, { z, ...own }, scalars, options) =>
          totals.terms(decayed(x, z!, scalars, options), grad, own, scalars, options),
        scalars(sums, scalars, options) {
          const inner = totals.scalars(sums, scalars, options);
          return { ...inner, ...average({ ...scalars, ...inner }, options) };
        },
      },
    }),

    update(x, grad, { z: before, ...own }, scalars, options, second) {
      const from = decayed(x, before!, scalars, options);
      const { step, decay, state } = optimizer.update(from, grad, own, scalars, options, second);
      const z = from.sub(decay ? step.add(decay) : step);
      return { step: x.sub(z).mul(scalars.average_share!), state: { ...state, z } };
    },

    ...(checkpoint && {
      checkpoint: (options, step, shape) => ({ ...checkpoint(options, step, shape), ...asKept(KEPT) }),
    }),

    validate(options) {
      optimizer.validate?.(options);
      ensure(
        !optimizer.point,
        `The weights of ${optimizer.name} are already an average: leave out scheduleFree.`,
      );
      const taken = statesOf(optimizer, options, []).find(({ name }) =>
        KEPT.some(kept => kept.name === name),
      );
      ensure(!taken, 'win averages weights, as Schedule-Free does: leave out one of the two.');
    },
  };

  function decayed(x: Expr, z: Expr, { average_decay: decay }: Scalars, options: O): Expr {
    return decay ? z.sub(point(x, z, options).mul(decay)) : z;
  }
}
