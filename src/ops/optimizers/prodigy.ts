/**
 * Prodigy. Mishchenko, Defazio: «Prodigy: An Expeditiously Adaptive Parameter-Free Learner», ICML 2024. The options and their
 * names are those of the authors' implementation.
 */
import type { Expr } from '../core/expr.js';
import { belowOne, flag, positive } from '../core/option-type.js';
import {
  betasOption,
  correction,
  decoupledOption,
  epsOption,
  lrOption,
  movingAverage,
  type Optimizer,
  type OptionsOf,
  option,
  type State,
  squared,
  weightDecayOption,
  withDecay,
} from './optimizer.js';

const options = {
  lr: lrOption(1),
  betas: betasOption,
  beta3: option(
    belowOne,
    undefined,
    'Decay rate of the sums that estimate d; the square root of beta2 if not given',
  ),
  eps: epsOption(1e-8),
  weightDecay: weightDecayOption(),
  decouple: decoupledOption(true),
  useBiasCorrection: option(flag, false, 'Correct the bias of the moving averages, as in Adam'),
  safeguardWarmup: option(flag, false, 'Leave the learning rate out of the denominator of d'),
  d0: option(positive, 1e-6, 'Initial estimate of the step size d'),
  dCoef: option(positive, 1, 'Factor on the estimate d'),
  growthRate: option(positive, undefined, 'Largest factor by which d grows in an update'),
};

export type ProdigyOptions = OptionsOf<typeof options>;

/**
 * Adam with a step size d that it estimates. With w_0 the initial weights, a = d lr (times sqrt(1 - beta2^t) / (1 - beta1^t) with
 * use_bias_correction), and sums over all parameters:
 *
 *     p = beta3 p + d / d0 a <g, w_0 - w>        s = beta3 s + d / d0 a g       with safeguard_warmup d / d0 d g
 *     m = beta1 m + (1 - beta1) d g              v = beta2 v + (1 - beta2) (d g)^2
 *     d' = max(d, d_coef p / |s|_1), at most growth_rate d
 *     w -= a m / (sqrt(v) + d' eps)
 */
export const prodigy: Optimizer<ProdigyOptions> = {
  name: 'prodigy',
  options,

  states: ({ d0 }) => [
    's',
    { name: 'p0', value: 'parameter', constant: true },
    'exp_avg',
    squared('exp_avg_sq'),
    { name: 'd', value: d0, scalar: true },
    { name: 'd_max', value: d0, scalar: true },
    { name: 'd_numerator', scalar: true },
  ],

  scalars(step, lr, { betas: [beta1, beta2], d0, useBiasCorrection, safeguardWarmup }, kept) {
    const rate = kept.d!.mul(lr);
    const corrected = useBiasCorrection
      ? rate.mul(correction(step, beta2).sqrt()).div(correction(step, beta1))
      : rate;
    const share = kept.d!.div(d0);
    return {
      ...kept,
      before: kept.d!,
      rate: corrected,
      gain: share.mul(corrected),
      gainOfSum: share.mul(safeguardWarmup ? kept.d! : corrected),
    };
  },

  totals: {
    terms(w, grad, state, { gain, gainOfSum }, options) {
      const g = gradientOf(w, grad, options);
      return {
        numerator: g.mul(state.p0!.sub(w)).sum().mul(gain!),
        denominator: nextSum(g, state, gainOfSum!, options).abs().sum(),
      };
    },

    scalars({ numerator, denominator }, { rate, d, d_max, d_numerator }, options) {
      const { d0, dCoef, growthRate, eps, weightDecay, decouple } = options;
      // While all gradients are 0, there is no estimate.
      const isKnown = denominator!.greater(0);
      const p = d_numerator!.mul(beta3Of(options)).add(numerator!);
      const estimate = isKnown.where(p.mul(dCoef).div(isKnown.where(denominator!, 1)), 0);
      const largest = d_max!.maximum(estimate);
      // The first estimate is not bounded. Equality with d0 would not survive the rounding of a state.
      const isFirst = d!.lessOrEqual(d0 * (1 + 1e-6));
      const started = isFirst.where(d!.maximum(estimate), d!);
      const grown = growthRate === undefined ? largest : largest.minimum(started.mul(growthRate));
      return {
        d: grown,
        d_max: largest,
        d_numerator: isKnown.where(p, d_numerator!),
        eps: grown.mul(eps),
        ...(weightDecay && decouple ? { decay: rate!.mul(weightDecay) } : {}),
      };
    },
  },

  update(w, grad, state, { before, rate, gainOfSum, eps, decay }, options) {
    const { betas } = options;
    const g = gradientOf(w, grad, options);
    const scaled = g.mul(before!);
    const m = movingAverage(state.exp_avg!, scaled, betas[0]);
    const v = movingAverage(state.exp_avg_sq!, scaled.square(), betas[1]);
    const s = nextSum(g, state, gainOfSum!, options);
    const step = m.mul(rate!).div(v.sqrt().add(eps!));
    return { ...withDecay(step, w, decay), state: { s, p0: state.p0!, exp_avg: m, exp_avg_sq: v } };
  },

  factor: ({ d }) => d!,

  observed: { names: ['d'], observe: (_, { d }) => [d!] },
};

const beta3Of = ({ beta3, betas }: ProdigyOptions) => beta3 ?? Math.sqrt(betas[1]);

const gradientOf = (w: Expr, grad: Expr, { weightDecay, decouple }: ProdigyOptions) =>
  weightDecay && !decouple ? grad.add(w.mul(weightDecay)) : grad;

const nextSum = (g: Expr, { s }: State, gain: Expr, options: ProdigyOptions) =>
  s!.mul(beta3Of(options)).add(g.mul(gain));
