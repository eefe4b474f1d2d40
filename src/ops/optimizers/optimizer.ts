import { AgdError } from '../../graph/errors.js';
import type { Expr } from '../core/expr.js';

/** Scalars of a step, in float64 (or float32) where `scalars` makes them and in a parameter's type where `update` reads them. */
export type Scalars = Record<string, Expr>;
export type State = Record<string, Expr>;

export type OptimizerOptions = {
  /** Learning rate; the default of the graph's `lr` input. */
  lr: number;
  weightDecay: number;
};

/**
 * An optimizer as two pure functions over named state: `scalars` computes, once per step and group of
 * parameters, what depends on the step count and the learning rate alone; `update` computes what is taken off one
 * parameter, and its new state, elementwise.
 */
export interface Optimizer<O extends OptimizerOptions = OptimizerOptions> {
  readonly name: string;
  readonly defaults: O;
  /** Names of the tensors kept per parameter, each of its shape and zero before the first step. */
  states(options: O): readonly string[];
  /** `step` counts from 1; both are scalars of one type, float64 or float32. */
  scalars(step: Expr, lr: Expr, options: O): Scalars;
  update(
    param: Expr,
    grad: Expr,
    state: State,
    scalars: Scalars,
    options: O,
    diagonal?: Expr,
  ): { step: Expr; state: State };
  /**
   * Optimizers of second order have this: it makes an estimate of the Hessian's diagonal, which `update` gets, of the
   * product of the Hessian and random signs.
   */
  diagonal?(product: Expr, options: O): Expr;
  /**
   * PyTorch's name of a state tensor, and the factor by which it is multiplied to be PyTorch's after `step`
   * steps: checkpoints speak PyTorch's terms. Not given where the states are PyTorch's as they are.
   */
  checkpoint?(options: O, step: number): Record<string, { name: string; factor: number }>;
  /** Whether PyTorch keeps no count of steps for it: a checkpoint may lack it. */
  readonly uncounted?: true;
  /** What telemetry shows of a parameter, from its states before and after an update: scalars in the order of their names. */
  readonly observed?: {
    names: readonly string[];
    observe(before: State, after: State, scalars: Scalars, options: O): readonly Expr[];
  };
  /** Throws `bad-option` where an option is out of its range. */
  validate(options: O): void;
}

/** The options given, and the defaults of the others. Throws `bad-option` where one is unknown or out of its range. */
export function resolveOptions<O extends OptimizerOptions>(optimizer: Optimizer<O>, given: Partial<O>): O {
  const { name, defaults } = optimizer;
  for (const [option, value] of Object.entries(given)) {
    const names = Object.keys(defaults).map(snake).join(', ');
    demand(Object.hasOwn(defaults, option), `${name} has no option '${snake(option)}'; it has ${names}.`);
    const type = typeof (defaults as Record<string, unknown>)[option];
    demand(
      type === 'undefined' || value === undefined || (typeof value === type && value !== null),
      `${snake(option)} must be a ${type}, not ${JSON.stringify(value)}.`,
    );
  }
  const chosen = Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined));
  const options = { ...defaults, ...chosen };
  optimizer.validate(options);
  return options;
}

/** Options go by PyTorch's names in messages. */
const snake = (name: string) => name.replace(/[A-Z]/g, letter => `_${letter.toLowerCase()}`);

/** Throws `bad-option` unless `ok`. */
export function demand(ok: boolean, message: string): void {
  if (!ok) throw new AgdError('bad-option', message);
}

export function validateCommon({ lr, weightDecay }: OptimizerOptions): void {
  demand(lr >= 0 && Number.isFinite(lr), `lr must be a number from 0 up, not ${lr}.`);
  demand(
    weightDecay >= 0 && Number.isFinite(weightDecay),
    `weight_decay must be a number from 0 up, not ${weightDecay}.`,
  );
}

/** Throws `bad-option` unless they are two numbers in [0, 1). */
export function validateBetas(betas: readonly number[]): void {
  demand(betas.length === 2, `betas are two numbers, not ${betas.length}.`);
  for (const [i, beta] of betas.entries())
    demand(beta >= 0 && beta < 1, `betas[${i}] must be in [0, 1), not ${beta}.`);
}

export function validateEps(eps: number): void {
  demand(eps >= 0 && Number.isFinite(eps), `eps must be a number from 0 up, not ${eps}.`);
}

/**
 * 1 - beta^step: what a moving average from 0 is to be divided by. In float32 the difference would lose its digits;
 * as -2 exp(u / 2) sinh(u / 2) with u = step ln(beta) it keeps them.
 */
export function correction(step: Expr, beta: number): Expr {
  if (step.dtype === 'float64') return step.g.scalar(beta, 'float64').pow(step).rsub(1);
  if (beta === 0) return step.g.scalar(1, step.dtype);
  const half = step.mul(Math.log(beta) / 2);
  return half.exp().mul(half.op('Sinh')).mul(-2);
}

/** beta average + (1 - beta) x, as a step towards x: 1 - beta keeps more digits in float32 than beta does. */
export function movingAverage(average: Expr, x: Expr, beta: number): Expr {
  return average.add(x.sub(average).mul(1 - beta));
}

/** A step with decoupled decay. It is subtracted with the step: 1 - decay would lose its digits in float32. */
export function withDecay(step: Expr, w: Expr, decay: Expr | undefined): Expr {
  return decay ? step.add(w.mul(decay)) : step;
}
