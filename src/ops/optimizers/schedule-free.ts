/**
 * The common part of the Schedule-Free optimizers. Defazio, Yang, Khaled, Mishchenko, Mehta, Cutkosky: «The Road Less
 * Scheduled», NeurIPS 2024. The options and their names are those of the authors' implementation.
 */
import type { Expr } from '../core/expr.js';
import { countFromZero, nonNegative } from '../core/option-type.js';
import { type KeptState, option, type State, towards, weightDecayOption } from './optimizer.js';

export const scheduleFreeOptions = {
  weightDecay: weightDecayOption(),
  warmupSteps: option(countFromZero, 0, 'Updates over which the learning rate rises linearly'),
  r: option(nonNegative, 0, 'Exponent of the update number in the averaging weights'),
  weightLrPower: option(
    nonNegative,
    2,
    'Exponent of the largest learning rate so far in the averaging weights',
  ),
};

export const scheduleFreeStates: readonly KeptState[] = [
  { name: 'z', value: 'parameter' },
  { name: 'weight_sum', scalar: true },
  { name: 'lr_max', scalar: true },
];

/** Keeps a rate of 0 from a division by 0. */
const TINY = 1e-30;

/**
 * The rate of this update, times `factor`, and the share of the new z in the average x: with c_t the rate's largest value so far
 * to the power `weight_lr_power`, times t^r, it is c_t over the sum of all c.
 */
export function scheduleFreeScalars(
  step: Expr,
  lr: Expr,
  { warmupSteps, r, weightLrPower }: { warmupSteps: number; r: number; weightLrPower: number },
  kept: State,
  factor?: Expr,
): Record<'rate' | 'share' | 'lr_max' | 'weight_sum', Expr> {
  const warm = warmupSteps ? lr.mul(step.div(warmupSteps).minimum(1)) : lr;
  const rate = factor ? warm.mul(factor) : warm;
  const largest = kept.lr_max!.maximum(rate);
  const weight = r ? step.pow(r).mul(largest.pow(weightLrPower)) : largest.pow(weightLrPower);
  const sum = kept.weight_sum!.add(weight);
  return { rate, share: weight.div(sum.maximum(TINY)), lr_max: largest, weight_sum: sum };
}

/** y = (1 - momentum) z + momentum x */
export const scheduleFreePoint = (x: Expr, z: Expr, momentum: number): Expr => towards(x, z, 1 - momentum);

/**
 * With d the direction, to which weight decay at y is added:
 *
 *     z -= rate d        x += share (z - x)
 */
export function scheduleFreeStep(
  x: Expr,
  direction: Expr,
  { z: before }: State,
  { rate, share }: Record<string, Expr>,
  { weightDecay, momentum }: { weightDecay: number; momentum: number },
): { step: Expr; z: Expr } {
  const d = weightDecay ? direction.add(scheduleFreePoint(x, before!, momentum).mul(weightDecay)) : direction;
  const z = before!.sub(d.mul(rate!));
  return { step: x.sub(z).mul(share!), z };
}
