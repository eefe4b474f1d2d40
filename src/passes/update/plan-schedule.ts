import type { Graph } from '../../graph/ir.js';
import { neededInputs } from '../../graph/prune.js';
import type { Expr } from '../../ops/core/expr.js';
import { lacksTotal, type Schedule } from '../../ops/schedules.js';
import type { AttachedLoss } from '../differentiate/attach-loss.js';
import type { InjectOptions, LeastBatch } from '../options.js';

/** The schedule; where it does not say when it ends, it ends with the run. */
export async function planSchedule(
  graph: Graph,
  { schedule, updates }: Pick<InjectOptions, 'schedule' | 'updates'>,
  loss: AttachedLoss,
  grads: readonly Expr[],
  leastBatch: LeastBatch | undefined,
): Promise<Schedule | undefined> {
  if (!schedule || !updates || !lacksTotal(schedule)) return schedule;
  const inputs = neededInputs(graph, [loss.loss, ...grads.map(e => e.value)]);
  return { ...schedule, total: await updates({ graph, inputs, target: loss.target?.name, leastBatch }) };
}
