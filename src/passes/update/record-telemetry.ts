import { isHalf } from '../../graph/dtype.js';
import type { Value } from '../../graph/ir.js';
import { Tensor } from '../../graph/tensor.js';
import type { Builder } from '../../ops/core/builder.js';
import type { Expr } from '../../ops/core/expr.js';
import { norm } from '../../ops/core/norm.js';
import { ensure, type Optimizer, type OptimizerOptions, statesOf } from '../../ops/optimizers/optimizer.js';
import { stateInput, type Transition, type Updates, when } from './transition.js';
import { exactWeight, type TrainedParameter, type UpdateRule } from './update-parameters.js';

/** Telemetry: a float32 tensor with a row for each parameter and a column for each name. */
export type Telemetry = { state: Value; columns: string[] };

/**
 * Records every `every`-th update in the state `telemetry`: for each parameter the number of the update, the 2-norms
 * of gradient (after clipping) and update, and the optimizer's own observations. In other updates it stays unchanged
 * and costs nothing.
 */
export function recordTelemetry<O extends OptimizerOptions>(
  g: Builder,
  optimizer: Optimizer<O>,
  parameters: readonly TrainedParameter<O>[],
  rule: UpdateRule,
  every: number,
): { transition: Transition; telemetry: Telemetry } {
  ensure(Number.isSafeInteger(every) && every > 0, `telemetry must be a whole number above 0, not ${every}.`);
  const columns = ['update', 'grad_norm', 'update_norm', ...(optimizer.observed?.names ?? [])];
  const zeros = Tensor.zeros('float32', [parameters.length, columns.length]);
  const state = stateInput(g, 'telemetry', zeros);
  const rows = (b: Builder, terms: readonly Expr[], updates: Updates): Expr => {
    const inner = (e: Expr | undefined) => b.of(e!.value);
    const step = inner(updates.get(rule.step));
    const table = parameters.map(({ param, options, begins }, i) => {
      const t = (begins ? step.sub(begins).maximum(1) : step).cast(rule.scalars);
      const grad = inner(terms[i]);
      const slots = Object.entries(rule.slots.get(param)!);
      const before = Object.fromEntries(slots.map(([name, v]) => [name, b.of(v)]));
      const after = Object.fromEntries(slots.map(([name, v]) => [name, inner(updates.get(v))]));
      const kept = Object.fromEntries(
        statesOf(optimizer, options, param.shape as readonly number[]).flatMap(({ name, scalar }) =>
          scalar ? [[name, before[name]!.cast(rule.scalars)]] : [],
        ),
      );
      const scalars = Object.entries(optimizer.scalars(t, b.of(rule.lr).cast(rule.scalars), options, kept));
      const typed = Object.fromEntries(scalars.map(([name, e]) => [name, e.cast(grad.dtype)]));
      const carry = isHalf(param.dtype) ? rule.carries[i] : undefined;
      const exact = (w: Expr, rest?: Expr) => (isHalf(param.dtype) ? exactWeight(w, rest) : w);
      const moved = exact(inner(updates.get(param)), carry && inner(updates.get(carry))).sub(
        exact(b.of(param), carry && b.of(carry)),
      );
      const own =
        optimizer.observed?.observe(before, after, typed, options, param.shape as readonly number[]) ?? [];
      return [step, norm(grad), norm(moved), ...own].map(e => e.cast('float32').reshape([1, 1]));
    });
    const [first, ...others] = table.map(([cell, ...row]) => cell!.concat(row, 1));
    return others.length ? first!.concat(others, 0) : first!;
  };
  const transition: Transition = (b, terms) => {
    const updates = rule.transition(b, terms);
    const due = updates
      .get(rule.step)!
      .op('Mod', [b.scalar(every, 'int64')])
      .equal(0);
    const observed = when(
      b,
      due,
      then => new Map([[state, rows(then, terms, updates)]]),
      () => new Map(),
    );
    return new Map([...updates, ...observed]);
  };
  return { transition, telemetry: { state, columns } };
}
