import { AgdError } from '../../graph/errors.js';
import type { Expr } from '../core/expr.js';

/** Scalars of a step, in float64 where `scalars` makes them and in a parameter's type where `update` reads them. */
export type Scalars = Record<string, Expr>;
export type State = Record<string, Expr>;

export type OptimizerOptions = {
  /** Learning rate; the default of the graph's `lr` input. */
  lr: number;
  weightDecay: number;
};

/**
 * An optimizer as two pure functions over named state: `scalars` computes, once per step and group of
 * parameters, what depends on the step count and the learning rate alone; `update` computes one parameter's
 * new value and state, elementwise.
 */
export interface Optimizer<O extends OptimizerOptions = OptimizerOptions> {
  readonly name: string;
  readonly defaults: O;
  /** Names of the tensors kept per parameter, each of its shape and zero before the first step. */
  states(options: O): readonly string[];
  /** `step` counts from 1; both are float64 scalars. */
  scalars(step: Expr, lr: Expr, options: O): Scalars;
  update(param: Expr, grad: Expr, state: State, scalars: Scalars, options: O): { param: Expr; state: State };
  /**
   * PyTorch's name of a state tensor, and the factor by which it is multiplied to be PyTorch's after `step`
   * steps: checkpoints speak PyTorch's terms.
   */
  checkpoint(options: O, step: number): Record<string, { name: string; factor: number }>;
  /** Throws `bad-option` where an option is out of its range. */
  validate(options: O): void;
}

/** The options given, and the defaults of the others. Throws `bad-option` where one is unknown or out of its range. */
export function resolveOptions<O extends OptimizerOptions>(optimizer: Optimizer<O>, given: Partial<O>): O {
  const { name, defaults } = optimizer;
  for (const [option, value] of Object.entries(given)) {
    const names = Object.keys(defaults).join(', ');
    demand(option in defaults, `${name} has no option '${option}'; it has ${names}.`);
    const type = typeof (defaults as Record<string, unknown>)[option];
    demand(
      type === 'undefined' || value === undefined || typeof value === type,
      `${option} must be a ${type}, not ${JSON.stringify(value)}.`,
    );
  }
  const chosen = Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined));
  const options = { ...defaults, ...chosen };
  optimizer.validate(options);
  return options;
}

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

export function validateBetas(betas: readonly number[]): void {
  for (const [i, beta] of betas.entries())
    demand(beta >= 0 && beta < 1, `betas[${i}] must be in [0, 1), not ${beta}.`);
}
