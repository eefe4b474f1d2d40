import type { Value } from '../../graph/ir.js';
import type { Builder } from '../../ops/core/builder.js';
import type { Expr } from '../../ops/core/expr.js';
import type { Optimizer, OptimizerOptions } from '../../ops/optimizers/optimizer.js';
import { resolveSchedule } from '../../ops/schedules.js';
import type { LossScale } from '../differentiate/scale-loss.js';
import type { StepOptions } from '../options.js';
import { type AccumulatedTerm, accumulateGradients, addParts } from './accumulate-gradients.js';
import { addNoise, type Noise } from './add-noise.js';
import { averageWeights } from './average-weights.js';
import { clipGradients } from './clip-gradients.js';
import { hessianProducts } from './hessian-products.js';
import { recordTelemetry, type Telemetry } from './record-telemetry.js';
import { skipNonFinite } from './skip-non-finite.js';
import { takeGradientsAt } from './take-gradients-at.js';
import { output, type StateUpdate, type Transition } from './transition.js';
import {
  type PlannedUpdate,
  type TrainedParameter,
  type UpdateRule,
  updateParameters,
} from './update-parameters.js';

export type AttachedOptimizer = Omit<UpdateRule, 'transition'> & {
  averages?: Value[];
  sums?: Value[];
  counter?: Value;
  weight?: Value;
  /** Sums and weights of the further parts of the loss. */
  further?: Value[];
  /** For a loss of several parts: the terms of each, with what they are accumulated in, and what this weighs. */
  parts?: { terms: { value: Value; sum?: Value }[]; weight?: Value }[];
  /** For second-order optimizers: the part for each parameter of the product of the Hessian with random signs. */
  products: Value[];
  /** With weighted sharpness: the gradient of each parameter at perturbed weights. */
  perturbed: Value[];
  skipped?: Value;
  gradNorm?: Value;
  telemetry?: Telemetry;
  /** The states that a step changes, with the outputs for their next values. */
  updates: StateUpdate[];
};

/** The gradients of a part of the loss, undefined where it has none, and what the mean of that part weighs. */
export type GradientPart = { grads: readonly (Expr | undefined)[]; weight: Expr };

/**
 * Adds the update of parameters and running statistics: the next value of each, and of the optimizer state, becomes
 * an output. State and learning rate become inputs with initializers, so that the file starts with its defaults. With `parts`,
 * the sum of their gradients takes the place of `grad`.
 * Throws `bad-option`.
 */
export function attachOptimizer<O extends OptimizerOptions>(
  g: Builder,
  optimizer: Optimizer<O>,
  lr: number,
  parameters: readonly (TrainedParameter<O> & { grad: Expr })[],
  options: PlannedUpdate & {
    seed?: number;
    noise?: Noise;
    batchWeight?: Expr;
    parts?: readonly GradientPart[];
    scaling?: LossScale;
    /** The gradients at perturbed weights, by parts of the loss. */
    perturbed?: readonly (readonly (Expr | undefined)[])[];
  } = {},
  statistics: readonly StateUpdate[] = [],
): AttachedOptimizer {
  const { schedule, ema, accumulate = 1, onNonfinite, telemetry, seed = 0, scaling } = options;
  if (schedule) resolveSchedule(schedule);
  const params = parameters.map(p => p.param);
  const inputs = new Set(g.graph.inputs);
  for (const state of [...params, ...statistics.map(s => s.state)])
    if (!inputs.has(state)) g.graph.inputs.push(state);

  const rule = updateParameters(g, optimizer, parameters, lr, options);
  const points = takeGradientsAt(g, optimizer, parameters, rule);
  const { noise, batchWeight, parts } = options;
  const grads = (parts ?? [{ grads: parameters.map(p => p.grad) }]).map(part =>
    part.grads.map(e => e?.wide()),
  );
  const products = optimizer.diagonal
    ? grads.map(list => hessianProducts(g, params, list, g.of(rule.step), seed, scaling, points))
    : [];
  const perturbed = (options.perturbed ?? []).map(list => list.map(e => e?.wide()));
  const second = perturbed.length
    ? (['perturbed_grad', perturbed] as const)
    : (['hessian_product', products] as const);
  const kinds = [['grad', grads], second] as const;
  const terms = sorted(
    kinds.flatMap(([kind, lists], k) =>
      lists.flatMap((list, part) =>
        list.flatMap((value, i) =>
          value ? [{ value, param: params[i]!, kind, part, into: k * params.length + i }] : [],
        ),
      ),
    ),
  );
  const { transition, ...observed } =
    telemetry === undefined
      ? rule
      : { ...rule, ...recordTelemetry(g, optimizer, parameters, rule, telemetry) };
  const bounded = clipGradients(g, params.length, options, transition, optimizer.perturbed);
  const clipped = {
    ...bounded,
    transition: withoutUnbegun(parameters, options, rule.step, bounded.transition),
  };
  const averaged =
    ema === undefined ? clipped : averageWeights(g, params, rule.carries, ema, clipped.transition);
  const released = noise
    ? { ...averaged, transition: addNoise(g, noise, accumulate, averaged.transition) }
    : averaged;
  const weights = parts?.map(part => part.weight) ?? (batchWeight ? [batchWeight] : []);
  const added: Transition = (b, values) => released.transition(b, addParts(terms, values));
  const accumulated =
    accumulate === 1
      ? { ...released, transition: added }
      : accumulateGradients(g, terms, accumulate, released.transition, weights);
  const tracked: Transition = (b, values) =>
    new Map([
      ...accumulated.transition(b, values),
      ...statistics.map(({ state, value }) => [state, b.of(value)] as const),
    ]);
  const guarded =
    onNonfinite === 'skip' || scaling ? skipNonFinite(g, tracked, options) : { transition: tracked };
  const next = guarded.transition(
    g,
    terms.map(t => t.value),
  );
  const updates = [...next].map(([state, e]) => ({
    state,
    value: output(g, e.typed(state.type), `${state.name}_new`),
  }));
  const { transition: _, ...attached } = { ...observed, ...clipped, ...released, ...accumulated, ...guarded };
  const count = products.length || perturbed.length ? 2 * params.length : params.length;
  const seconds = terms.slice(params.length, count).map(t => t.value.value);
  const { sums, weights: weighed = [] } = 'sums' in accumulated ? accumulated : {};
  return {
    ...attached,
    sums: sums?.slice(0, count),
    weight: weighed[0],
    further: [...(sums ?? []).slice(count), ...weighed.slice(1)],
    parts: parts?.map((_, part) => ({
      weight: weighed[part],
      terms: terms.flatMap((t, i) => (t.part === part ? [{ value: t.value.value, sum: sums?.[i] }] : [])),
    })),
    products: products.length ? seconds : [],
    perturbed: perturbed.length ? seconds : [],
    updates,
  };
}

/** The first term of each mean in their order, then the others. */
function sorted<T extends AccumulatedTerm>(terms: readonly T[]): T[] {
  const firsts = new Map<number, T>();
  for (const term of terms) if (!firsts.has(term.into)) firsts.set(term.into, term);
  const ordered = [...firsts.values()].sort((a, b) => a.into - b.into);
  return [...new Set([...ordered, ...terms])];
}

/**
 * Excludes the gradients of layers that do not train yet from the clipped norm, as in PyTorch, where these have no
 * gradients.
 */
function withoutUnbegun(
  parameters: readonly { begins?: number }[],
  { clipGradNorm }: StepOptions,
  step: Value,
  transition: Transition,
): Transition {
  if (clipGradNorm === undefined || parameters.every(p => !p.begins)) return transition;
  return (b, terms) => {
    const begun = terms.map((term, i) => {
      const { begins } = parameters[i] ?? {};
      return begins ? b.of(step).greaterOrEqual(begins).where(term, term.zeros()) : term;
    });
    return transition(b, begun);
  };
}
