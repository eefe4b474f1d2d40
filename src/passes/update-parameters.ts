import type { Value } from '../graph/ir.js';
import { Tensor } from '../graph/tensor.js';
import type { Builder } from '../ops/core/builder.js';
import type { Expr } from '../ops/core/expr.js';
import type { Optimizer, OptimizerOptions, Scalars } from '../ops/optimizers/optimizer.js';
import { type Schedule, scheduleFactor } from '../ops/schedules.js';
import type { ScalarType } from './clip-gradients.js';
import { groupSmall, join, part } from './join-small.js';
import { stateInput, type Transition, type Updates } from './transition.js';

export type TrainedParameter<O> = { param: Value; options: O };

/** How parameters change, and the graph inputs that this takes. */
export type UpdateRule = {
  /** Takes the gradients, and after them the Hessian's products with random signs where the optimizer wants them. */
  transition: Transition;
  lr: Value;
  /** Number of updates done. */
  step: Value;
  /** State of a parameter, by the optimizer's names. */
  slots: Map<Value, Record<string, Value>>;
  /** The type of a step's scalars. */
  scalars: ScalarType;
  /** With `compensate`: what rounding has left each parameter short of. */
  carries?: Value[];
};

export type UpdateOptions = {
  /** A factor on the learning rate, by the number of updates done. */
  schedule?: Schedule;
  /** In which type the scalars of a step are computed; float32 for runtimes that have no float64. */
  scalars?: ScalarType;
  /**
   * Keeps what rounding leaves of each step and adds it to the next (Kahan's summation), in the states
   * `<param>_carry`: for weights that are large against their steps, and those of 16 bits.
   */
  compensate?: boolean;
};

/**
 * The optimizer's update of every parameter. The learning rate of one is the graph's `lr`, whose default is given
 * here, times the schedule, times its own `options.lr` in units of that default. Parameters with equal options
 * share the scalars of the step, which are computed in the type given.
 */
export function updateParameters<O extends OptimizerOptions>(
  g: Builder,
  optimizer: Optimizer<O>,
  parameters: readonly TrainedParameter<O>[],
  lr: number,
  { schedule, scalars: scalarType = 'float64', compensate }: UpdateOptions = {},
): UpdateRule {
  const rate = stateInput(g, 'lr', Tensor.filled('float32', [], lr));
  const step = stateInput(g, 'step', Tensor.filled('int64', [], 0));
  const slots = new Map(parameters.map(p => [p.param, slotInputs(g, optimizer, p)]));
  const params = parameters.map(p => p.param);
  const carries = compensate
    ? params.map(param => stateInput(g, `${param.name}_carry`, zerosLike(g, param)))
    : undefined;
  const transition: Transition = (b, terms) => {
    const done = b.of(step).add(1);
    const t = done.cast(scalarType);
    const base = b.of(rate).cast(scalarType);
    const scheduled = schedule ? base.mul(scheduleFactor(schedule, b.of(step).cast(scalarType))) : base;
    const shared = new Map<string, Scalars>();
    const updates: Updates = new Map([[step, done]]);
    const keys = parameters.map(({ options }, i) => `${terms[i]!.dtype} ${JSON.stringify(options)}`);
    for (const members of groupSmall(params, keys)) {
      const [first] = members;
      const { options } = parameters[first!]!;
      const joined = (of: (i: number) => Expr) => join(members.map(of));
      let scalars = shared.get(keys[first!]!);
      if (!scalars) {
        const own = options.lr === lr ? scheduled : scheduled.mul(options.lr / lr);
        const exact = Object.entries(optimizer.scalars(t, own, options));
        scalars = Object.fromEntries(exact.map(([name, e]) => [name, e.cast(terms[first!]!.dtype)]));
        shared.set(keys[first!]!, scalars);
      }
      const names = optimizer.states(options);
      const slot = (name: string) => (i: number) => slots.get(params[i]!)![name]!;
      const state = names.map(name => [name, joined(i => b.of(slot(name)(i)))] as const);
      const w = joined(i => b.of(params[i]!));
      const grad = joined(i => terms[i]!);
      const diagonal =
        optimizer.diagonal && joined(i => optimizer.diagonal!(terms[params.length + i]!, options));
      const updated = optimizer.update(w, grad, Object.fromEntries(state), scalars, options, diagonal);
      const set = (of: (i: number) => Value, e: Expr) => {
        const values = members.map(of);
        for (const [i, piece] of part(e, values).entries()) updates.set(values[i]!, piece);
      };
      for (const name of names) set(slot(name), updated.state[name]!);
      const { next, carry } = subtract(w, updated.step, carries && joined(i => b.of(carries[i]!)));
      set(i => params[i]!, next);
      if (carry) set(i => carries![i]!, carry);
    }
    return updates;
  };
  return { transition, lr: rate, step, slots, scalars: scalarType, carries };
}

/** w - step; what rounding leaves of it is the next `carry`, to be taken off with the next step. */
function subtract(w: Expr, step: Expr, carry?: Expr): { next: Expr; carry?: Expr } {
  if (!carry) return { next: w.sub(step) };
  const due = step.add(carry);
  const next = w.sub(due);
  return { next, carry: due.sub(w.sub(next)) };
}

function slotInputs<O extends OptimizerOptions>(
  g: Builder,
  optimizer: Optimizer<O>,
  { param, options }: TrainedParameter<O>,
): Record<string, Value> {
  const zeros = zerosLike(g, param);
  return Object.fromEntries(
    optimizer.states(options).map(name => [name, stateInput(g, `${param.name}_${name}`, zeros)]),
  );
}

function zerosLike(g: Builder, param: Value): Tensor {
  const { dtype, dims } = g.graph.initializers.get(param)!;
  return Tensor.zeros(dtype, dims);
}
