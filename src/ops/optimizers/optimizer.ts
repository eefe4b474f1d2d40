import type { Expr } from '../core/expr.js';

/** Scalars of a step, in float64 where `scalars` makes them and in a parameter's type where `update` reads them. */
export type Scalars = Record<string, Expr>;
export type State = Record<string, Expr>;

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
   * The factor by which a state tensor is multiplied to be PyTorch's tensor of the given name after `step`
   * steps: checkpoints speak PyTorch's terms. Throws on options' error.
   */
  checkpoint(options: O, step: number): Record<string, { name: string; factor: number }>;
  /** Throws `bad-option` where an option is out of its range. */
  validate(options: O): void;
}

export type OptimizerOptions = { lr: number; weightDecay: number };
