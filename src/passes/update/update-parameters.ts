import { type DType, isFloat, isHalf, wideOf } from '../../graph/dtype.js';
import { AgdError } from '../../graph/errors.js';
import type { Node, Value } from '../../graph/ir.js';
import { runOrder } from '../../graph/run-order.js';
import { Tensor } from '../../graph/tensor.js';
import type { Builder } from '../../ops/core/builder.js';
import type { Expr } from '../../ops/core/expr.js';
import { anyRows } from '../../ops/core/types.js';
import {
  type Optimizer,
  type OptimizerOptions,
  type Scalars,
  statesOf,
} from '../../ops/optimizers/optimizer.js';
import { type PlannedSchedule, scheduleFactor } from '../../ops/schedules.js';
import type { Lookup } from '../differentiate/look-up-rows.js';
import type { ScalarType, StepOptions } from '../options.js';
import { groupSmall, join, part } from './batch-small-updates.js';
import { tiled, tileOf } from './tile-large-updates.js';
import { initializer, stateInput, type Transition, type Updates, when } from './transition.js';

/**
 * With `lookup`, only the rows that a step looks up change, and the gradient is that of these rows: see `sumRows`. With
 * `begins`, parameter and state stay unchanged for that number of updates, and its step count starts after them.
 */
export type TrainedParameter<O> = {
  param: Value;
  options: O;
  lookup?: Lookup & { last: Value };
  begins?: number;
};

/** The update of parameters, and the graph inputs that it requires. */
export type UpdateRule = {
  /**
   * Takes the gradients, followed by the products of the Hessian with random signs, or the gradients at perturbed weights, if the
   * optimizer requires them.
   */
  transition: Transition;
  lr: Value;
  /** Number of updates done. */
  step: Value;
  /** State of a parameter, by the optimizer's names. */
  slots: Map<Value, Record<string, Value>>;
  /** The type of a step's scalars. */
  scalars: ScalarType;
  /**
   * With `compensate`, per parameter: the rounding error carried to the next step. For 16-bit parameters it is float32,
   * so that the difference of both is exactly the weight in float32 that the optimizer updates.
   */
  carries: (Value | undefined)[];
  /** The initializer with the schedule's total, if the schedule ends with the run. */
  total?: Value;
};

/** With `endsWithRun`, the schedule's total is an initializer: a resumed run may have another. */
export type PlannedUpdate = Omit<StepOptions, 'schedule'> & {
  schedule?: PlannedSchedule;
  endsWithRun?: boolean;
};

/**
 * The optimizer's update of every parameter. The learning rate of one is the graph's `lr`, whose default is given
 * here, times the schedule, times its own `options.lr` in units of that default. Parameters with equal options
 * share the scalars of the step, which are computed in the type given. 16-bit parameters have gradients and states in
 * float32: squares of gradients, and an eps of 1e-8, would round to 0 in float16. Throws `bad-option` if the step of a
 * parameter with `lookup` depends on the whole table.
 */
export function updateParameters<O extends OptimizerOptions>(
  g: Builder,
  optimizer: Optimizer<O>,
  parameters: readonly TrainedParameter<O>[],
  lr: number,
  {
    schedule,
    endsWithRun,
    scalars: scalarType = 'float64',
    compensate,
    tile: tileLarge = true,
  }: PlannedUpdate = {},
): UpdateRule {
  const isWhole = (i: number) =>
    optimizer.whole?.(parameters[i]!.options, parameters[i]!.param.shape as readonly number[]) ?? false;
  if (optimizer.totals) checkTotals(optimizer, parameters);
  const table = parameters.find((p, i) => p.lookup && isWhole(i));
  if (table)
    throw new AgdError(
      'bad-option',
      `lazyRows changes only the rows of a batch, and the step of ${optimizer.name} for '${table.param.name}' depends on the whole table: leave out one.`,
    );
  const rate = stateInput(g, 'lr', Tensor.filled('float32', [], lr));
  const step = stateInput(g, 'step', Tensor.filled('int64', [], 0));
  const slots = new Map(parameters.map(p => [p.param, slotInputs(g, optimizer, p)]));
  const params = parameters.map(p => p.param);
  const carries = params.map(param =>
    (compensate ?? isHalf(param.dtype))
      ? stateInput(g, `${param.name}_carry`, zerosLike(g, param))
      : undefined,
  );
  const total =
    schedule?.total !== undefined && endsWithRun
      ? initializer(g, 'schedule_total', Tensor.filled(scalarType, [], schedule.total))
      : undefined;
  /** The update of the parameters that start after `begins` updates. */
  const updateOf = (b: Builder, terms: readonly Expr[], begins: number): Updates => {
    const t = b
      .of(step)
      .add(1 - begins)
      .cast(scalarType);
    const base = b.of(rate).cast(scalarType);
    const scheduled = schedule
      ? base.mul(scheduleFactor(schedule, b.of(step).cast(scalarType), total && b.of(total)))
      : base;
    // ONNX Runtime removes a cast to a type and back, also where a subgraph reads the result, which it then misses.
    const typed = (e: Expr, dtype: DType) => {
      const cast = b.writer(e.value);
      const from = cast?.opType === 'Cast' && e.dtype === 'float64' ? cast.inputs[0]! : undefined;
      return from?.dtype === dtype ? b.of(from) : e.cast(dtype);
    };
    const shared = new Map<string, StepScalars>();
    const updates: Updates = new Map();
    const keys = parameters.map(({ param, options }) => `${param.dtype} ${JSON.stringify(options)}`);
    const alone = keys.map((key, i) => (parameters[i]!.lookup || isWhole(i) ? `${i}` : key));
    /** The scalars of the step for a parameter, and the next values of its states that are scalars. */
    const scalarsOf = (i: number): StepScalars => {
      const { options } = parameters[i]!;
      const own = options.lr === lr ? scheduled : scheduled.mul(options.lr / lr);
      const before = slots.get(params[i]!)!;
      const single = statesOf(optimizer, options, params[i]!.shape as readonly number[]).filter(
        s => s.scalar,
      );
      const given = single.map(({ name }) => [name, b.of(before[name]!).cast(scalarType)]);
      const exact = optimizer.scalars(t, own, options, Object.fromEntries(given));
      const cast = (scalars: Scalars, dtype: DType) =>
        Object.fromEntries(Object.entries(scalars).map(([name, e]) => [name, typed(e, dtype)])) as Scalars;
      const typedFor = (all: Scalars) => ({
        scalars: cast(all, terms[i]!.dtype),
        kept: Object.fromEntries(single.map(({ name }) => [name, typed(all[name]!, before[name]!.dtype!)])),
      });
      const withTotals = (totals: Scalars) =>
        typedFor({ ...exact, ...optimizer.totals!.scalars(totals, exact, options) });
      return { ...typedFor(exact), withTotals };
    };
    const chosen = params.flatMap((_, i) => ((parameters[i]!.begins ?? 0) === begins ? [i] : []));
    const groups = groupSmall(params, alone, chosen).map(members => {
      const [first] = members;
      const { options, lookup } = parameters[first!]!;
      const rows = lookup && b.of(lookup.rows);
      const state = (v: Value) => (rows ? b.of(v).gather(rows) : b.of(v));
      const like = members.map(i => params[i]!);
      const joined = (of: (i: number) => Expr) => join(members.map(of), like);
      const states = statesOf(optimizer, options, params[first!]!.shape as readonly number[]);
      const named = (scalar: boolean) => states.flatMap(s => (s.scalar === scalar ? s.name : []));
      const names = named(false);
      const slot = (name: string) => (i: number) => slots.get(params[i]!)![name]!;
      // An update of other parameters would read a state of this one.
      const found = named(true).length ? undefined : shared.get(keys[first!]!);
      const scalars = found ?? scalarsOf(first!);
      if (!found) shared.set(keys[first!]!, scalars);
      const secondOf = (i: number) => {
        const term = terms[params.length + i]!;
        return optimizer.diagonal?.(term, options) ?? term;
      };
      const tensors: Tensors = {
        w: joined(i => state(params[i]!)),
        grad: lookup ? terms[first!]!.gather(b.of(lookup.last)) : joined(i => terms[i]!),
        ...Object.fromEntries(names.map(name => [name, joined(i => state(slot(name)(i)))])),
        ...(carries[first!] ? { carry: joined(i => state(carries[i]!)) } : {}),
        ...(optimizer.diagonal || optimizer.perturbed ? { second: joined(secondOf) } : {}),
      };
      return { members, options, lookup, rows, names, single: named(true), slot, scalars, tensors };
    });
    const totals = optimizer.totals && sumsOf(optimizer.totals, groups, scalarType);
    for (const { members, options, lookup, rows, names, single, slot, scalars: own, tensors } of groups) {
      const [first] = members;
      const { scalars, kept } = totals ? own.withTotals(totals) : own;
      const compute = (own: Scalars, { w, grad, carry, second, ...state }: Tensors): Tensors => {
        const updated = optimizer.update(exactOf(w!, carry), grad!, state, own, options, second);
        const { step, decay } = updated;
        const next = names.map(name => [name, updated.state[name]!]);
        return { ...Object.fromEntries(next), ...subtract(w!, decay ? step.add(decay) : step, carry) };
      };
      // Within a branch, tiling would copy the tensors.
      const isLarge = tileLarge && b === g && members.length === 1 && !lookup && !isWhole(first!);
      const tile = isLarge ? tileOf(g.graph.initializers.get(params[first!]!)!.size) : undefined;
      const updated = tile
        ? inTiles(b, tensors, tile, scalars, compute)
        : inOrder(b, () => compute(scalars, tensors));
      const set = (name: string, of: (i: number) => Value) => {
        const values = members.map(of);
        for (const [i, piece] of part(updated[name]!, values).entries())
          updates.set(values[i]!, rows ? putRows(b.of(values[i]!), rows, piece) : piece);
      };
      for (const name of names) set(name, slot(name));
      for (const name of single) for (const i of members) updates.set(slot(name)(i), kept[name]!);
      set('w', i => params[i]!);
      if (carries[first!]) set('carry', i => carries[i]!);
    }
    return updates;
  };
  const begins = [...new Set(parameters.map(p => p.begins ?? 0))];
  const transition: Transition = (b, terms) => {
    const done = b.of(step).add(1);
    const updates: Updates = new Map([[step, done]]);
    for (const after of begins) {
      const own = after
        ? when(
            b,
            b.of(step).greaterOrEqual(after),
            inner =>
              updateOf(
                inner,
                terms.map(term => inner.of(term.value)),
                after,
              ),
            () => new Map(),
          )
        : updateOf(b, terms, 0);
      for (const [state, next] of own) updates.set(state, next);
    }
    return updates;
  };
  return { transition, lr: rate, step, slots, scalars: scalarType, carries, total };
}

type Tensors = Record<string, Expr>;

/** In the type of an update, and as the next values of states that are scalars; `withTotals`, with what sums over all add. */
type StepScalars = {
  scalars: Scalars;
  kept: Scalars;
  withTotals(totals: Scalars): Omit<StepScalars, 'withTotals'>;
};

/** Throws `bad-option` if the parameters do not share all that the estimate depends on. */
function checkTotals<O extends OptimizerOptions>(
  { name }: Optimizer<O>,
  parameters: readonly TrainedParameter<O>[],
): void {
  const shared = ({ options }: TrainedParameter<O>) => JSON.stringify({ ...options, weightDecay: 0 });
  const other = parameters.find(p => p.begins || shared(p) !== shared(parameters[0]!));
  if (!other) return;
  throw new AgdError(
    'bad-option',
    `${name} estimates one step size from all parameters: '${other.param.name}' may have its own weight_decay, but no other options of its own and no delayed start.`,
  );
}

/** The sums of all parameters, scalars. */
function sumsOf<O extends OptimizerOptions>(
  { terms }: NonNullable<Optimizer<O>['totals']>,
  groups: readonly { tensors: Tensors; scalars: StepScalars; options: O }[],
  type: ScalarType,
): Scalars {
  const added = groups.map(({ tensors: { w, grad, carry, ...state }, scalars, options }) =>
    terms(exactOf(w!, carry), grad!, state, scalars.scalars, options),
  );
  const sum = (name: string) => {
    const [first, ...others] = added.map(own => own[name]!.cast(type));
    return others.length ? first!.op('Sum', others) : first!;
  };
  return Object.fromEntries(Object.keys(added[0] ?? {}).map(name => [name, sum(name)]));
}

/** The weight in the type of its update. */
const exactOf = (w: Expr, carry?: Expr) => (isHalf(w.dtype) ? exactWeight(w, carry) : w);

/** The table with new rows. Equal rows are written more than once, with the same values. */
function putRows(table: Expr, rows: Expr, values: Expr): Expr {
  return table.scatterND(rows.unsqueeze([1]), values).typed(anyRows(table.type));
}

/** Lists nodes so that ONNX Runtime runs them as `emit` adds them: what was just written, and is in the cache, is read soonest. */
function inOrder<T>(b: Builder, emit: () => T): T {
  const nodes: Node[] = [];
  const result = b.into(nodes, emit);
  b.adopt(runOrder(nodes));
  return result;
}

/** The same in tiles; scalars are outer values. */
function inTiles(
  b: Builder,
  tensors: Tensors,
  tile: number,
  scalars: Scalars,
  compute: (scalars: Scalars, tensors: Tensors) => Tensors,
): Tensors {
  const names = Object.keys(tensors);
  let results: string[] = [];
  const outputs = tiled(b, Object.values(tensors), tile, (inner, tiles) => {
    const own = Object.fromEntries(Object.entries(scalars).map(([name, e]) => [name, inner.of(e.value)]));
    const given = Object.fromEntries(names.map((name, i) => [name, tiles[i]!]));
    const computed = inOrder(inner, () => compute(own, given));
    results = Object.keys(computed);
    return Object.values(computed);
  });
  return Object.fromEntries(results.map((name, i) => [name, outputs[i]!]));
}

/** The weight in float32: the 16-bit one without its rounding error. */
export function exactWeight(w: Expr, carry?: Expr): Expr {
  return carry ? w.wide().sub(carry) : w.wide();
}

/** w - step. The rounding error becomes the next `carry`, which is subtracted with the next step. */
function subtract(w: Expr, step: Expr, carry?: Expr): { w: Expr; carry?: Expr } {
  if (isHalf(w.dtype)) {
    const exact = exactWeight(w, carry).sub(step);
    const next = exact.cast(w.dtype);
    return carry ? { w: next, carry: next.wide().sub(exact) } : { w: next };
  }
  if (!carry) return { w: w.sub(step) };
  const due = step.add(carry);
  const next = w.sub(due);
  return { w: next, carry: due.sub(w.sub(next)) };
}

function slotInputs<O extends OptimizerOptions>(
  g: Builder,
  optimizer: Optimizer<O>,
  { param, options }: TrainedParameter<O>,
): Record<string, Value> {
  const { dtype, dims: shape } = g.graph.initializers.get(param)!;
  return Object.fromEntries(
    statesOf(optimizer, options, shape).map(({ name, dims, value, dtype: own }) => [
      name,
      stateInput(
        g,
        `${param.name}_${name}`,
        value === 'parameter'
          ? inType(g.graph.initializers.get(param)!, wideOf(dtype))
          : value === 0
            ? // Takes no memory, neither now nor while the trainer keeps the model that it began with.
              Tensor.zeros(own ?? wideOf(dtype), dims)
            : Tensor.filled(own ?? wideOf(dtype), dims, value),
      ),
    ]),
  );
}

/** The numbers of a floating-point tensor in another type. */
export function inType(tensor: Tensor, dtype: DType): Tensor {
  return tensor.dtype === dtype || !isFloat(dtype)
    ? tensor
    : Tensor.ofNumbers(dtype, tensor.dims, tensor.floats());
}

function zerosLike(g: Builder, param: Value): Tensor {
  const { dtype, dims } = g.graph.initializers.get(param)!;
  return Tensor.zeros(wideOf(dtype), dims);
}
