import { AgdError } from '../../graph/errors.js';
import type { Graph } from '../../graph/ir.js';
import { neededInputs } from '../../graph/prune.js';
import type { Expr } from '../../ops/core/expr.js';
import { type PlannedSchedule, planLengths } from '../../ops/schedules.js';
import type { AttachedLoss } from '../differentiate/attach-loss.js';
import type { Fed, InjectOptions, LeastBatch } from '../options.js';

type Loss = Pick<AttachedLoss, 'loss' | 'target' | 'mix'>;

/**
 * The number of updates after which each parameter starts to train: layer by layer, from the head down. Throws
 * `bad-option`.
 */
export async function planUnfreezing(
  graph: Graph,
  { unfreezeEvery, updates }: Pick<InjectOptions, 'unfreezeEvery' | 'updates'>,
  distances: readonly number[],
  loss: Loss,
  grads: readonly Expr[],
  leastBatch: LeastBatch | undefined,
): Promise<(number | undefined)[]> {
  if (!unfreezeEvery) return [];
  const { epochs } = unfreezeEvery;
  if (epochs !== undefined && !updates)
    throw new AgdError(
      'bad-option',
      'Epochs of --unfreeze-every have a length only where there are data, as in train: give a number of updates.',
    );
  const every =
    epochs === undefined
      ? unfreezeEvery.updates
      : await updates!(fedTo(graph, loss, grads, leastBatch), epochs);
  return distances.map(distance => (distance ? distance * every : undefined));
}

/** The inputs that data feed, in a graph to which the update with these gradients will be added. */
function fedTo(graph: Graph, loss: Loss, grads: readonly Expr[], leastBatch: LeastBatch | undefined): Fed {
  // The second target is derived from the first one.
  const made = [loss.mix?.target, loss.mix?.share];
  const inputs = neededInputs(graph, [loss.loss, ...grads.map(e => e.value)]).filter(v => !made.includes(v));
  return { graph, inputs, target: loss.target?.name, leastBatch };
}

/** The schedule with its lengths in updates. Without a total, it ends with the run. Throws `bad-option`. */
export async function planSchedule(
  graph: Graph,
  { schedule, updates }: Pick<InjectOptions, 'schedule' | 'updates'>,
  loss: Loss,
  grads: readonly Expr[],
  leastBatch: LeastBatch | undefined,
): Promise<PlannedSchedule | undefined> {
  const fed = () => fedTo(graph, loss, grads, leastBatch);
  return schedule && planLengths(schedule, updates && (epochs => updates(fed(), epochs)));
}
