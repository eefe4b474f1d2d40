import type { Value } from '../graph/ir.js';
import type { Builder } from '../ops/core/builder.js';
import type { Expr } from '../ops/core/expr.js';
import { demand, type Optimizer, type OptimizerOptions } from '../ops/optimizers/optimizer.js';
import { resolveSchedule } from '../ops/schedules.js';
import { accumulateGradients } from './accumulate-gradients.js';
import { averageWeights } from './average-weights.js';
import { type ClipOptions, clipGradients } from './clip-gradients.js';
import { hessianProducts } from './hessian-products.js';
import { observeUpdates, type Telemetry } from './observe-updates.js';
import { skipNonFinite } from './skip-non-finite.js';
import type { Transition } from './transition.js';
import {
  type PlannedUpdate,
  type TrainedParameter,
  type UpdateOptions,
  type UpdateRule,
  updateParameters,
} from './update-parameters.js';

/** A tensor that a training step changes: `state` is fed, `value` replaces it. */
export type StateUpdate = { state: Value; value: Value };

/** What a step does besides the optimizer's own formulas. */
export type StepOptions = ClipOptions &
  UpdateOptions & {
    /** Number of batches whose mean gradient makes one update. */
    accumulate?: number;
    /** Decay of a moving average of the weights, which is kept beside them. */
    ema?: number;
    /** Gradients that are not finite: the trainer refuses the step, or the graph leaves all as it was, and counts. */
    onNonfinite?: 'stop' | 'skip';
    /**
     * Globs over lookup tables (parameters that nothing but Gather along axis 0 reads, by indices that the batch alone
     * decides) of which a step changes only the rows that it looks up; of the others neither weights nor optimizer state
     * change, by weight decay or averaging either, as with PyTorch's SparseAdam.
     */
    lazyRows?: readonly string[];
    /** Shows what every so many updates did, in the state `telemetry`. */
    telemetry?: number;
  };

export type AttachedOptimizer = Omit<UpdateRule, 'transition'> & {
  averages?: Value[];
  sums?: Value[];
  counter?: Value;
  /** For optimizers of second order: each parameter's part of the Hessian's product with random signs. */
  products: Value[];
  skipped?: Value;
  telemetry?: Telemetry;
  /** Everything a step changes, and the outputs that hold the next values. */
  updates: StateUpdate[];
};

/**
 * Adds the update of parameters and running statistics: the next value of each, and of the optimizer's own state,
 * becomes an output. State and learning rate become inputs with initializers, so that the file starts from its
 * defaults. Throws `bad-option`.
 */
export function attachOptimizer<O extends OptimizerOptions>(
  g: Builder,
  optimizer: Optimizer<O>,
  lr: number,
  parameters: readonly (TrainedParameter<O> & { grad: Expr })[],
  options: StepOptions & PlannedUpdate & { seed?: number } = {},
  statistics: readonly StateUpdate[] = [],
): AttachedOptimizer {
  validateStep(options);
  const { ema, accumulate = 1, onNonfinite, telemetry, seed = 0 } = options;
  const params = parameters.map(p => p.param);
  const inputs = new Set(g.graph.inputs);
  for (const state of [...params, ...statistics.map(s => s.state)])
    if (!inputs.has(state)) g.graph.inputs.push(state);

  const rule = updateParameters(g, optimizer, parameters, lr, options);
  const grads = parameters.map(p => p.grad);
  const products = optimizer.diagonal ? hessianProducts(g, params, grads, g.of(rule.step), seed) : [];
  const { transition, ...observed } =
    telemetry === undefined
      ? rule
      : { ...rule, ...observeUpdates(g, optimizer, parameters, rule, telemetry) };
  const clipped: Transition = (b, terms) =>
    transition(b, [...clipGradients(terms.slice(0, grads.length), options), ...terms.slice(grads.length)]);
  const averaged = ema === undefined ? { transition: clipped } : averageWeights(g, params, ema, clipped);
  const kinds = products.length ? ['grad', 'hessian_product'] : ['grad'];
  const accumulated =
    accumulate === 1 ? averaged : accumulateGradients(g, params, kinds, accumulate, averaged.transition);
  const tracked: Transition = (b, terms) =>
    new Map([
      ...accumulated.transition(b, terms),
      ...statistics.map(({ state, value }) => [state, b.of(value)] as const),
    ]);
  const guarded = onNonfinite === 'skip' ? skipNonFinite(g, tracked) : { transition: tracked };
  const next = guarded.transition(g, [...grads, ...products]);
  const updates = [...next].map(([state, e]) => ({
    state,
    value: output(g, e.typed(state.type), `${state.name}_new`),
  }));
  const { transition: _, ...attached } = { ...observed, ...averaged, ...accumulated, ...guarded };
  return { ...attached, products: products.map(e => e.value), updates };
}

/** Throws `bad-option` where an option is out of its range. */
function validateStep({
  schedule,
  clipGradNorm,
  clipGradValue,
  accumulate = 1,
  ema = 0,
  onNonfinite,
  scalars,
}: StepOptions) {
  if (schedule) resolveSchedule(schedule);
  for (const [name, bound] of Object.entries({ clipGradNorm, clipGradValue }))
    demand(
      bound === undefined || (Number.isFinite(bound) && bound > 0),
      `${name} must be a number above 0, not ${bound}.`,
    );
  demand(
    Number.isSafeInteger(accumulate) && accumulate > 0,
    `accumulate must be a whole number above 0, not ${accumulate}.`,
  );
  demand(ema >= 0 && ema < 1, `ema must be in [0, 1), not ${ema}.`);
  demand(
    onNonfinite === undefined || onNonfinite === 'stop' || onNonfinite === 'skip',
    `onNonfinite must be stop or skip, not ${onNonfinite}.`,
  );
  demand(
    scalars === undefined || scalars === 'float64' || scalars === 'float32',
    `scalars must be float64 or float32, not ${scalars}.`,
  );
}

/** A graph output of its own, under a name that tells what it is. */
export function output(g: Builder, e: Expr, hint: string): Value {
  const value = g.rename(e, hint);
  g.graph.outputs.push(value);
  return value;
}
