/** The rivals' formulas on one coordinate, in float64, written as PyTorch or their authors write them. */
import type { AdabeliefOptions } from '../../../src/ops/optimizers/adabelief.js';
import type { AdaboundOptions } from '../../../src/ops/optimizers/adabound.js';
import type { AdagradOptions } from '../../../src/ops/optimizers/adagrad.js';
import type { AdahessianOptions } from '../../../src/ops/optimizers/adahessian.js';
import type { AdamOptions } from '../../../src/ops/optimizers/adam.js';
import type { AdanOptions } from '../../../src/ops/optimizers/adan.js';
import type { AdemamixOptions } from '../../../src/ops/optimizers/ademamix.js';
import type { AnyOptions, OptimizerName } from '../../../src/ops/optimizers/index.js';
import type { LionOptions } from '../../../src/ops/optimizers/lion.js';
import type { NadamOptions } from '../../../src/ops/optimizers/nadam.js';
import type { RadamOptions } from '../../../src/ops/optimizers/radam.js';
import type { RmspropOptions } from '../../../src/ops/optimizers/rmsprop.js';
import type { SgdOptions } from '../../../src/ops/optimizers/sgd.js';
import type { Numbers } from './run.js';

/** What is kept of a coordinate, by PyTorch's names, and its `curvature`: the diagonal of the Hessian. */
export type Kept = Record<string, number>;

/** The next w; `t` counts from 1. */
export type Formula<O> = (w: number, g: number, kept: Kept, t: number, lr: number, options: O) => number;

const sgd: Formula<SgdOptions> = (w, grad, kept, t, lr, o) => {
  const g = grad + o.weightDecay * w;
  if (o.momentum === 0) return w - lr * g;
  kept.momentum_buffer = t === 1 ? g : o.momentum * kept.momentum_buffer! + (1 - o.dampening) * g;
  return w - lr * (o.nesterov ? g + o.momentum * kept.momentum_buffer : kept.momentum_buffer);
};

/** The averages of g and g^2 in `kept`. */
function average({ betas: [beta1, beta2] }: Pick<AdamOptions, 'betas'>, g: number, kept: Kept): void {
  kept.exp_avg = beta1 * (kept.exp_avg ?? 0) + (1 - beta1) * g;
  kept.exp_avg_sq = beta2 * (kept.exp_avg_sq ?? 0) + (1 - beta2) * g * g;
}

const adam: Formula<AdamOptions> = (w, grad, kept, t, lr, o) =>
  adamw(w, grad + o.weightDecay * w, kept, t, lr, { ...o, weightDecay: 0 });

const adamw: Formula<AdamOptions> = (w, g, kept, t, lr, o) => {
  average(o, g, kept);
  let v = kept.exp_avg_sq!;
  if (o.amsgrad) {
    v = Math.max(kept.max_exp_avg_sq ?? 0, v);
    kept.max_exp_avg_sq = v;
  }
  const denominator = Math.sqrt(v) / Math.sqrt(1 - o.betas[1] ** t) + o.eps;
  return w * (1 - lr * o.weightDecay) - ((lr / (1 - o.betas[0] ** t)) * kept.exp_avg!) / denominator;
};

/** RAdam's r, and whether there is one yet. */
function rectification(t: number, beta2: number): { adaptive: boolean; r: number } {
  const max = 2 / (1 - beta2) - 1;
  const n = max - (2 * t * beta2 ** t) / (1 - beta2 ** t);
  const r = Math.sqrt((((n - 4) / (max - 4)) * (n - 2) * max) / (n * (max - 2)));
  return { adaptive: n > 5, r };
}

const radam: Formula<RadamOptions> = (start, grad, kept, t, lr, o) => {
  const w = o.decoupledWeightDecay ? start * (1 - lr * o.weightDecay) : start;
  average(o, o.decoupledWeightDecay ? grad : grad + o.weightDecay * w, kept);
  const m = kept.exp_avg! / (1 - o.betas[0] ** t);
  const { adaptive, r } = rectification(t, o.betas[1]);
  if (!adaptive) return w - lr * m;
  return w - (lr * m * r * Math.sqrt(1 - o.betas[1] ** t)) / (Math.sqrt(kept.exp_avg_sq!) + o.eps);
};

const adabound: Formula<AdaboundOptions> = (w, g, kept, t, lr, o) => {
  average(o, g + o.weightDecay * w, kept);
  let v = kept.exp_avg_sq!;
  if (o.amsbound) {
    v = Math.max(kept.max_exp_avg_sq ?? 0, v);
    kept.max_exp_avg_sq = v;
  }
  const rate = (lr * Math.sqrt(1 - o.betas[1] ** t)) / (1 - o.betas[0] ** t) / (Math.sqrt(v) + o.eps);
  const final = (o.finalLr * lr) / o.lr;
  const [low, high] = [final * (1 - 1 / (o.gamma * t + 1)), final * (1 + 1 / (o.gamma * t))];
  return w - Math.min(Math.max(rate, low), high) * kept.exp_avg!;
};

const adabelief: Formula<AdabeliefOptions> = (start, grad, kept, t, lr, o) => {
  const w = o.weightDecouple ? start * (1 - (o.fixedDecay ? 1 : lr) * o.weightDecay) : start;
  const g = o.weightDecouple ? grad : grad + o.weightDecay * w;
  const [beta1, beta2] = o.betas;
  kept.exp_avg = beta1 * (kept.exp_avg ?? 0) + (1 - beta1) * g;
  kept.exp_avg_var = beta2 * (kept.exp_avg_var ?? 0) + (1 - beta2) * (g - kept.exp_avg) ** 2 + o.eps;
  const m = kept.exp_avg / (1 - beta1 ** t);
  if (o.rectify) {
    const { adaptive, r } = rectification(t, beta2);
    if (!adaptive) return o.degeneratedToSgd ? w - lr * m : w;
    return w - (lr * m * r * Math.sqrt(1 - beta2 ** t)) / (Math.sqrt(kept.exp_avg_var) + o.eps);
  }
  let v = kept.exp_avg_var;
  if (o.amsgrad) {
    v = Math.max(kept.max_exp_avg_var ?? 0, v);
    kept.max_exp_avg_var = v;
  }
  return w - (lr * m) / (Math.sqrt(v) / Math.sqrt(1 - beta2 ** t) + o.eps);
};

const adahessian: Formula<AdahessianOptions> = (w, g, kept, t, lr, o) => {
  const [beta1, beta2] = o.betas;
  const diagonal = Math.abs(kept.curvature!);
  kept.exp_avg = beta1 * (kept.exp_avg ?? 0) + (1 - beta1) * g;
  kept.exp_hessian_diag_sq = beta2 * (kept.exp_hessian_diag_sq ?? 0) + (1 - beta2) * diagonal ** 2;
  const k = o.hessianPower;
  const denominator = Math.sqrt(kept.exp_hessian_diag_sq) ** k / Math.sqrt(1 - beta2 ** t) ** k + o.eps;
  return w - lr * (kept.exp_avg / (1 - beta1 ** t) / denominator + o.weightDecay * w);
};

const nadam: Formula<NadamOptions> = (start, grad, kept, t, lr, o) => {
  const w = o.decoupledWeightDecay ? start * (1 - lr * o.weightDecay) : start;
  average(o, o.decoupledWeightDecay ? grad : grad + o.weightDecay * w, kept);
  const momentumAt = (step: number) => o.betas[0] * (1 - 0.5 * 0.96 ** (step * o.momentumDecay));
  const [mu, next] = [momentumAt(t), momentumAt(t + 1)];
  kept.mu_product = (kept.mu_product ?? 1) * mu;
  const denominator = Math.sqrt(kept.exp_avg_sq! / (1 - o.betas[1] ** t)) + o.eps;
  const g = o.decoupledWeightDecay ? grad : grad + o.weightDecay * w;
  const ahead = (next * kept.exp_avg!) / (1 - kept.mu_product * next);
  return w - (lr * (((1 - mu) * g) / (1 - kept.mu_product) + ahead)) / denominator;
};

const adagrad: Formula<AdagradOptions> = (w, grad, kept, t, lr, o) => {
  const g = grad + o.weightDecay * w;
  kept.sum = (kept.sum ?? o.initialAccumulatorValue) + g * g;
  return w - ((lr / (1 + (t - 1) * o.lrDecay)) * g) / (Math.sqrt(kept.sum) + o.eps);
};

const rmsprop: Formula<RmspropOptions> = (w, grad, kept, _, lr, o) => {
  const g = grad + o.weightDecay * w;
  kept.square_avg = o.alpha * (kept.square_avg ?? 0) + (1 - o.alpha) * g * g;
  kept.grad_avg = o.alpha * (kept.grad_avg ?? 0) + (1 - o.alpha) * g;
  const variance = o.centered ? kept.square_avg - kept.grad_avg ** 2 : kept.square_avg;
  const scaled = g / (Math.sqrt(variance) + o.eps);
  kept.momentum_buffer = o.momentum * (kept.momentum_buffer ?? 0) + scaled;
  return w - lr * kept.momentum_buffer;
};

const lion: Formula<LionOptions> = (w, g, kept, _, lr, o) => {
  const m = kept.exp_avg ?? 0;
  kept.exp_avg = o.betas[1] * m + (1 - o.betas[1]) * g;
  return w * (1 - lr * o.weightDecay) - lr * Math.sign(o.betas[0] * m + (1 - o.betas[0]) * g);
};

const adan: Formula<AdanOptions> = (w, g, kept, t, lr, o) => {
  const [beta1, beta2] = o.betas;
  const difference = t === 1 ? 0 : g - kept.before!;
  kept.before = g;
  kept.exp_avg = beta1 * (kept.exp_avg ?? 0) + (1 - beta1) * g;
  kept.exp_avg_diff = beta2 * (kept.exp_avg_diff ?? 0) + (1 - beta2) * difference;
  kept.exp_avg_sq = o.beta3 * (kept.exp_avg_sq ?? 0) + (1 - o.beta3) * (g + beta2 * difference) ** 2;
  const denominator = Math.sqrt(kept.exp_avg_sq) / Math.sqrt(1 - o.beta3 ** t) + o.eps;
  const sum = kept.exp_avg / (1 - beta1 ** t) + (beta2 * kept.exp_avg_diff) / (1 - beta2 ** t);
  const step = (lr * sum) / denominator;
  return o.noProx ? w * (1 - lr * o.weightDecay) - step : (w - step) / (1 + lr * o.weightDecay);
};

const ademamix: Formula<AdemamixOptions> = (w, g, kept, t, lr, o) => {
  const [beta1, beta2] = o.betas;
  const [alphaShare, betaShare] = [o.alphaWarmup, o.beta3Warmup].map(end => Math.min(t / (end ?? 1), 1));
  const lifeOf = (beta: number) => Math.log(0.5) / Math.log(beta + 1e-8) - 1;
  const life = (1 - betaShare!) * lifeOf(beta1) + betaShare! * lifeOf(o.beta3);
  const beta3 = betaShare! < 1 ? 0.5 ** (1 / (life + 1)) : o.beta3;
  average(o, g, kept);
  kept.exp_avg_slow = beta3 * (kept.exp_avg_slow ?? 0) + (1 - beta3) * g;
  const denominator = Math.sqrt(kept.exp_avg_sq!) / Math.sqrt(1 - beta2 ** t) + o.eps;
  const sum = kept.exp_avg! / (1 - beta1 ** t) + o.alpha * alphaShare! * kept.exp_avg_slow;
  return w - lr * (sum / denominator + o.weightDecay * w);
};

/** Those of which a formula on one coordinate says all; the steps of others are recorded. */
type Elementwise = Exclude<
  OptimizerName,
  | ('agd' | 'adafactor' | 'lamb' | 'lars' | 'muon' | 'shampoo')
  | ('prodigy' | 'schedule-free-adamw' | 'schedule-free-sgd' | 'adaml')
>;

export const FORMULAS = {
  sgd,
  adam,
  adamw,
  amsgrad: adam,
  radam,
  adabound,
  adabelief,
  adahessian,
  nadam,
  adagrad,
  rmsprop,
  lion,
  adan,
  ademamix,
} as unknown as Record<Elementwise, Formula<AnyOptions>>;

/** A formula on all coordinates of parameters, where the Hessian is diagonal, as in `OptimizerRun`. */
export class Reference {
  #step = 0;
  readonly #kept: Record<string, Kept[]>;
  readonly w: Record<string, number[]>;

  constructor(
    private readonly formula: Formula<AnyOptions>,
    private readonly options: AnyOptions,
    start: Numbers,
    curvature: (index: number) => number,
  ) {
    const parameters = Object.entries(start);
    this.w = Object.fromEntries(parameters.map(([name, values]) => [name, [...values]]));
    this.#kept = Object.fromEntries(
      parameters.map(([name, values]) => [name, values.map((_, i) => ({ curvature: curvature(i) }))]),
    );
  }

  update(grads: Numbers, lr: number): void {
    this.#step += 1;
    for (const [name, w] of Object.entries(this.w))
      grads[name]!.forEach((g, i) => {
        const kept = this.#kept[name]![i]!;
        w[i] = this.formula(w[i]!, g + kept.curvature! * w[i]!, kept, this.#step, lr, this.options);
      });
  }
}

/** Every combination of these values of options, and of those left as they are. */
function combinations(values: Record<string, readonly unknown[]>): AnyOptions[] {
  let all: AnyOptions[] = [{}];
  for (const [option, list] of Object.entries(values))
    all = all.flatMap(options => [options, ...list.map(value => ({ ...options, [option]: value }))]);
  return all;
}

const EPS = [1e-3];
const ADAM = { betas: [[0.5, 0.9]], eps: EPS, weightDecay: [0.1, 0], amsgrad: [true] };
/** The combinations of options that each is compared with. */
export const RIVAL_OPTIONS: Record<Elementwise, AnyOptions[]> = {
  sgd: combinations({
    momentum: [0.9],
    dampening: [0.25],
    nesterov: [true],
    weightDecay: [0.1],
  }).filter(({ momentum, dampening, nesterov }) => !nesterov || (momentum && !dampening)),
  adam: combinations(ADAM),
  adamw: combinations(ADAM),
  amsgrad: combinations({ ...ADAM, amsgrad: [] }),
  radam: combinations({
    ...{
      betas: [
        [0.5, 0.9],
        [0, 0.6],
      ],
      eps: EPS,
      weightDecay: [0.1],
      decoupledWeightDecay: [true],
    },
  }),
  adabound: combinations({
    betas: [[0.5, 0.9]],
    eps: EPS,
    weightDecay: [0.1],
    amsbound: [true],
    finalLr: [1e-2],
    gamma: [0.5],
  }),
  adahessian: combinations({
    betas: [[0.5, 0.9]],
    eps: [1e-8],
    weightDecay: [0.1],
    hessianPower: [0.5, 0],
  }),
  nadam: combinations({
    betas: [[0.5, 0.9]],
    eps: EPS,
    weightDecay: [0.1],
    momentumDecay: [0.5],
    decoupledWeightDecay: [true],
  }),
  adagrad: combinations({
    lrDecay: [0.1],
    eps: EPS,
    weightDecay: [0.1],
    initialAccumulatorValue: [0.5],
  }),
  rmsprop: combinations({
    alpha: [0.9],
    eps: EPS,
    weightDecay: [0.1],
    momentum: [0.9],
    centered: [true],
  }),
  lion: combinations({ betas: [[0.5, 0.9]], weightDecay: [0.1] }),
  adan: combinations({
    betas: [[0.5, 0.9]],
    beta3: [0.7],
    eps: EPS,
    weightDecay: [0.1],
    noProx: [true],
  }),
  ademamix: combinations({
    betas: [
      [0.5, 0.9],
      [0, 0.9],
    ],
    beta3: [0.9],
    alpha: [5],
    beta3Warmup: [6],
    alphaWarmup: [7],
    weightDecay: [0.1],
  }),
  adabelief: combinations({
    betas: [[0.5, 0.9]],
    eps: EPS,
    weightDecay: [0.1],
    amsgrad: [true],
    weightDecouple: [false],
    fixedDecay: [true],
    rectify: [false],
    degeneratedToSgd: [false],
  }).filter(
    ({ amsgrad, rectify = true, weightDecouple = true, fixedDecay }) =>
      !(amsgrad && rectify) && (weightDecouple || !fixedDecay),
  ),
};
