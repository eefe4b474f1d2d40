import type * as v from 'valibot';
import { AgdError } from '../../graph/errors.js';
import type { Expr } from '../core/expr.js';
import { betas, checkOption, flag, nonNegative, type OptionType, unknownName } from '../core/option-type.js';

/** Scalars of a step, in float64 (or float32) where `scalars` makes them and in a parameter's type where `update` reads them. */
export type Scalars = Record<string, Expr>;
export type State = Record<string, Expr>;

/** An option of an optimizer: its type with its range, its default (undefined: off), and its help text. */
export type OptimizerOption<S extends OptionType = OptionType> = {
  readonly type: S;
  readonly default: v.InferOutput<S> | undefined;
  readonly help: string;
};

type Value<E> =
  E extends OptimizerOption<infer S>
    ? v.InferOutput<S> | (undefined extends E['default'] ? undefined : never)
    : never;

/** The values of a table of options; those without a default are optional. */
export type OptionsOf<T> = {
  -readonly [K in keyof T as undefined extends Value<T[K]> ? never : K]: Value<T[K]>;
} & { -readonly [K in keyof T as undefined extends Value<T[K]> ? K : never]?: Value<T[K]> };

export const option = <S extends OptionType, D extends v.InferOutput<S> | undefined>(
  type: S,
  value: D,
  help: string,
) => ({ type, default: value, help }) as const;

/** Learning rate; the default of the graph's `lr` input. */
export const lrOption = (value: number) => option(nonNegative, value, 'Learning rate');
export const weightDecayOption = (value = 0) => option(nonNegative, value, 'Weight decay');
export const betasOption = option(betas, [0.9, 0.999] as const, 'Decay rates of the two moving averages');
export const epsOption = (value: number) => option(nonNegative, value, 'Added to the denominator');
export const decoupledOption = (value: boolean) =>
  option(flag, value, 'Apply weight decay to the weights, not to the gradient');
export const fixedDecayOption = option(flag, false, 'Weight decay independent of the learning rate');
export const largestOption = option(flag, false, 'Divide by the largest average so far');

/**
 * A tensor kept per parameter, which starts as `value` (0 if not given), or as the parameter does. A `scalar` depends only
 * on the steps so far, the options, and the optimizer's `totals`: it is passed to `scalars`, whose result of the same name, or
 * that of `totals`, is its next value. `dims` is its shape where that is not the parameter's; such a state needs `whole`.
 * `square` marks averages of squares, which are never negative, `exact` a state that must not be rounded, and `constant` one that
 * no update changes. `dtype` is its type where that is not the update's.
 */
export type KeptState = {
  name: string;
  value?: number | 'parameter';
  scalar?: boolean;
  dims?: readonly number[];
  square?: boolean;
  exact?: boolean;
  constant?: boolean;
  dtype?: 'uint8';
};

/** A state that is an average, sum or maximum of squares. */
export const squared = (name: string) => ({ name, square: true }) as const;

/**
 * What the model uses a parameter as: `isTable`, of lookups only; `isHead`, of its last layer; `isTransposed`, the right
 * operand of products, so that it is stored as inputs x outputs.
 */
export type ParameterUse = { isTable: boolean; isHead: boolean; isTransposed: boolean };

/** The options that every optimizer has. */
export type OptimizerOptions = { lr: number; weightDecay: number };

/** How a Schedule-Free optimizer averages weights: see `wrappers/schedule-free.ts`. */
export type Averaging = {
  momentum?: number;
  weightDecayAtY?: number;
  r?: number;
  weightLrPower?: number;
  warmupSteps?: number;
};

/**
 * An optimizer as two pure functions over named state: `scalars` computes, once per step and group of parameters, what
 * depends only on the step count and the learning rate; `update` computes the step to subtract from one parameter, the
 * decoupled weight decay to subtract with it, and its new state, elementwise unless the optimizer is `whole`.
 */
export interface Optimizer<O extends OptimizerOptions = OptimizerOptions> {
  readonly name: string;
  readonly options: { readonly [K in keyof O]-?: OptimizerOption };
  /** The tensors kept per parameter; a name alone is a tensor of the parameter's shape, which starts as 0. */
  states(options: O, shape: readonly number[]): readonly (string | KeptState)[];
  /**
   * Whether the update of a parameter of this shape reads the whole tensor, as norms and products of matrices do. An
   * elementwise one may get a part of a large tensor, or several small ones as one vector.
   */
  whole?(options: O, shape: readonly number[]): boolean;
  /** `step` counts from 1; it, `lr` and the states that are scalars are of one type, float64 or float32. */
  scalars(step: Expr, lr: Expr, options: O, kept: State): Scalars;
  update(
    param: Expr,
    grad: Expr,
    state: State,
    scalars: Scalars,
    options: O,
    second?: Expr,
  ): { step: Expr; decay?: Expr; state: State };
  /**
   * For second-order optimizers: computes the estimate of the Hessian's diagonal that `update` receives as `second`, from
   * the product of the Hessian with random signs.
   */
  diagonal?(product: Expr, options: O): Expr;
  /** Whether `update` receives, as `second`, the gradient at perturbed weights. */
  readonly perturbed?: true;
  /** What the learning rate is besides `lr`, where an optimizer corrects or estimates it: a factor among its scalars. */
  factor?(scalars: Scalars): Expr;
  /** Of a Schedule-Free optimizer: that which moves z, which other wrappers wrap, and the options of the average. */
  readonly inner?: { optimizer: Optimizer<O>; averagingOf(options: O): Averaging };
  /** Where gradients are taken, if not at the parameter itself, which is what evaluation and export have. */
  point?(param: Expr, state: State, options: O): Expr;
  /**
   * Sums over all parameters that a step depends on: what a parameter adds to each, and the scalars computed from the sums, which
   * join those of `scalars`. All parameters have equal options, except for the weight decay.
   */
  readonly totals?: {
    terms(param: Expr, grad: Expr, state: State, scalars: Scalars, options: O): Record<string, Expr>;
    scalars(totals: Scalars, scalars: Scalars, options: O): Scalars;
  };
  /**
   * PyTorch's name of a state tensor, and the factor that converts it to PyTorch's after `step` steps, for checkpoints
   * in PyTorch's format. Not given if the states equal PyTorch's.
   */
  checkpoint?(
    options: O,
    step: number,
    shape: readonly number[],
  ): Record<string, { name: string; factor: number }>;
  /** The options of a parameter by its use, unless its group sets them. */
  forUse?(use: ParameterUse): Partial<O>;
  /** Options besides lr that are learning rates, so that a layer's decay applies to them. */
  readonly rates?: readonly (keyof O)[];
  /** Whether PyTorch keeps no step count for it, so that a checkpoint may lack one. */
  readonly uncounted?: true;
  /** The telemetry of a parameter, from its states before and after an update: scalars, in the order of their names. */
  readonly observed?: {
    names: readonly string[];
    observe(
      before: State,
      after: State,
      scalars: Scalars,
      options: O,
      shape: readonly number[],
    ): readonly Expr[];
  };
  /** Throws `bad-option` for options that contradict each other. */
  validate?(options: O): void;
}

/** The states of a parameter of this shape. */
export function statesOf<O extends OptimizerOptions>(
  optimizer: Pick<Optimizer<O>, 'states'>,
  options: O,
  shape: readonly number[],
) {
  return optimizer.states(options, shape).map(state => {
    const { name, value = 0, ...kept }: KeptState = typeof state === 'string' ? { name: state } : state;
    const scalar = kept.scalar ?? false;
    // A state that starts as the parameter is one of several weights, whose small differences count.
    const { square = false, exact = value === 'parameter', constant = false, dtype } = kept;
    return { name, value, scalar, square, exact, constant, dtype, dims: scalar ? [] : (kept.dims ?? shape) };
  });
}

/** The names of states in checkpoints where they equal PyTorch's. */
export const asKept = (states: readonly { name: string }[]) =>
  Object.fromEntries(states.map(({ name }) => [name, { name, factor: 1 }]));

/** The learning rate of a step, `factor` included. */
export const rateOf = <O extends OptimizerOptions>(
  { factor }: Optimizer<O>,
  scalars: Scalars,
  lr: Expr,
): Expr => (factor ? lr.mul(factor(scalars)) : lr);

/** The default values of a table of options. */
export function defaultsOf<O extends OptimizerOptions>({ options }: Pick<Optimizer<O>, 'options'>): O {
  const entries = Object.entries<OptimizerOption>(options);
  return Object.fromEntries(entries.map(([name, { default: value }]) => [name, value])) as O;
}

/** The options given, and the defaults of the others. Throws `bad-option` if one is unknown or out of its range. */
export function resolveOptions<O extends OptimizerOptions>(optimizer: Optimizer<O>, given: Partial<O>): O {
  const known = new Map<string, OptimizerOption>(Object.entries(optimizer.options));
  const chosen = Object.entries(given).filter(([, value]) => value !== undefined);
  for (const [name, value] of chosen) {
    const found = known.get(name);
    if (!found) throw unknownName(`option of ${optimizer.name}`, snake(name), [...known.keys()].map(snake));
    checkOption(snake(name), found.type, value);
  }
  const options = { ...defaultsOf(optimizer), ...Object.fromEntries(chosen) };
  optimizer.validate?.(options);
  return options;
}

/** Messages use PyTorch's names of options. */
const snake = (name: string) => name.replace(/[A-Z]/g, letter => `_${letter.toLowerCase()}`);

/** Throws `bad-option` unless `ok`. */
export function ensure(ok: boolean, message: string): void {
  if (!ok) throw new AgdError('bad-option', message);
}

/**
 * 1 - beta^step, the bias correction of a moving average that starts at 0. The difference would lose digits in float32;
 * -2 exp(u / 2) sinh(u / 2) with u = step ln(beta) keeps them. CUDA has no kernel of Sinh: with a = tanh(u / 2), the same is
 * -2 a / (1 - a).
 */
export function correction(step: Expr, beta: number): Expr {
  if (step.dtype === 'float64') return step.g.scalar(beta, 'float64').pow(step).rsub(1);
  if (beta === 0) return step.g.scalar(1, step.dtype);
  return oneMinusExp(step.mul(Math.log(beta) / 2));
}

/** 1 - exp(2 half), as `correction` computes it. */
export function oneMinusExp(half: Expr): Expr {
  if (half.dtype === 'float64') return half.mul(2).exp().rsub(1);
  if (half.g.provider !== 'cuda') return half.exp().mul(half.op('Sinh')).mul(-2);
  const a = half.tanh();
  return a.mul(-2).div(a.rsub(1));
}

/**
 * beta as a factor in float32: one of the two numbers beside it, by the step, so that the product of all factors so far stays within
 * 6e-8 of the power of beta. The nearest one alone would be the largest error of all: that of 0.999 has a sum of powers that
 * is off by 1.3e-5.
 */
export function decayFactor(step: Expr, beta: number): Expr {
  const number = (value: number) => step.g.scalar(value, 'float32');
  const near = Math.fround(beta);
  if (near === beta) return number(beta);
  const far = beside(near, near < beta ? 1 : -1);
  const [low, high] = near < beta ? [near, far] : [far, near];
  const share = Math.log1p((high - beta) / beta) / Math.log1p((high - low) / low);
  const count = step.mul(share);
  return count.sub(count.floor()).less(share).where(number(low), number(high));
}

/** The number of float32 so many places away from one above 0. */
function beside(x: number, places: number): number {
  const bits = new Int32Array(Float32Array.of(x).buffer);
  bits[0]! += places;
  return new Float32Array(bits.buffer)[0]!;
}

/** beta average + (1 - beta) x, as a step towards x: 1 - beta keeps more digits in float32 than beta does. */
export function movingAverage(average: Expr, x: Expr, beta: number): Expr {
  return towards(average, x, 1 - beta);
}

/** average + share (x - average). */
export function towards(average: Expr, x: Expr, share: number | Expr): Expr {
  return average.add(x.sub(average).mul(share));
}

/** A step with decoupled decay, which is subtracted with the step: 1 - decay would lose digits in float32. */
export function withDecay(step: Expr, w: Expr, decay: Expr | undefined): { step: Expr; decay?: Expr } {
  return decay ? { step, decay: w.mul(decay) } : { step };
}
