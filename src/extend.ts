/**
 * agd-onnx for extensions: gradients of custom operators, optimizers, losses and metrics, which work like the built-in
 * ones in the library and on the command line (`--extend FILE`). See docs/guide/extend.md.
 */
import { AgdError } from './graph/errors.js';
import type { OpDef, Operands, Rule } from './ops/core/rule.js';
import { addOperator, completeOperators } from './ops/index.js';
import { addLoss } from './ops/losses/index.js';
import type { Loss, LossOptions } from './ops/losses/loss.js';
import { OTHERS } from './ops/on-demand.js';
import { addOptimizer, type OptimizerSpec } from './ops/optimizers/index.js';
import type { Optimizer, OptimizerOptions } from './ops/optimizers/optimizer.js';
import type { LossSpec } from './passes/options.js';
import { addMetric, type MetricDefinition } from './runtime/metrics/index.js';

export { type AttrInit, type Builder, float, floats } from './ops/core/builder.js';
export type { Expr } from './ops/core/expr.js';
export * as types from './ops/core/option-type.js';
export {
  type Attributes,
  expansion,
  type NodeView,
  noGradient,
  type OpDef,
  type Operands,
  type Pullback,
  type Rule,
  zeroGradient,
} from './ops/core/rule.js';
export type { Loss, LossOptions, LossTerms } from './ops/losses/loss.js';
export {
  betasOption,
  correction,
  epsOption,
  type KeptState,
  lrOption,
  movingAverage,
  type Optimizer,
  type OptimizerOption,
  type OptimizerOptions,
  type OptionsOf,
  option,
  type Scalars,
  type State,
  weightDecayOption,
  withDecay,
} from './ops/optimizers/optimizer.js';
export type { MetricValue, Task, TaskSpec } from './runtime/metrics/metric.js';
export type { ScoredBatch } from './runtime/metrics/scored-batch.js';
export type { LossSpec, MetricDefinition, OptimizerSpec };

/**
 * Defines the gradient of an operator, named as in `agd-onnx inspect`: `com.example.Swish`. The definition is a rule,
 * which returns one pullback per input from the cotangents of the outputs, or an `expansion` into other operators,
 * which also supports operators that ONNX Runtime has no kernel for. Throws `bad-option` if the operator already has a
 * gradient.
 */
export function defineGradient<I extends Operands = readonly never[], O extends Operands = readonly never[]>(
  operator: string,
  gradient: Rule<I, O> | OpDef,
): void {
  const dot = operator.lastIndexOf('.');
  const opType = operator.slice(dot + 1);
  if (!opType)
    throw new AgdError(
      'bad-option',
      `'${operator}' is not the name of an operator, such as com.example.Swish.`,
    );
  completeOperators(OTHERS);
  addOperator(
    { domain: operator.slice(0, Math.max(dot, 0)), opType },
    typeof gradient === 'function'
      ? { kind: 'rule', rule: gradient as unknown as Rule<never, never> }
      : gradient,
  );
}

/**
 * Defines an optimizer. Returns a function from its options to a value of `optimizer`: `inject(model, { optimizer:
 * signum({ lr: 1e-4 }) })`. Throws `bad-option` if the name is taken.
 */
export function defineOptimizer<O extends OptimizerOptions>(
  optimizer: Optimizer<O>,
): (options?: Partial<O>) => OptimizerSpec {
  addOptimizer(optimizer as unknown as Optimizer);
  return options => ({ ...options, name: optimizer.name }) as OptimizerSpec;
}

/**
 * Defines a loss. Returns a function from its options to a value of `loss`: `inject(model, { loss: logCosh() })`.
 * Throws `bad-option` if the name is taken.
 */
export function defineLoss(
  name: string,
  loss: Loss,
): (options?: { output?: string; target?: string } & LossOptions) => LossSpec {
  addLoss(name, loss);
  return options => ({ ...options, kind: name }) as LossSpec;
}

/**
 * Defines a metric, for `--metric NAME` and the `metrics` of a run or an evaluation. Returns the definition. Throws
 * `bad-option` if the name is taken.
 */
export function defineMetric(metric: MetricDefinition): MetricDefinition {
  addMetric(metric);
  return metric;
}
