import { withInitializers } from '../../graph/clone.js';
import type { Model } from '../../graph/ir.js';
import { Tensor } from '../../graph/tensor.js';
import { resolveSchedule } from '../../ops/schedules.js';
import { readDescription, writeDescription } from './step-metadata.js';

/**
 * Lets a schedule that ends with the run end after `total` updates. The model itself is returned where it does so
 * already, or has no such schedule. Throws `bad-option` where the schedule cannot be that short.
 */
export function extendSchedule(injected: Model, total: number): Model {
  const description = readDescription(injected);
  const { schedule, scheduleTotal } = description;
  if (!schedule || scheduleTotal === undefined || schedule.total === total) return injected;
  const extended = { ...schedule, total };
  resolveSchedule(extended);
  const before = [...injected.graph.initializers].find(([v]) => v.name === scheduleTotal)![1];
  const model = withInitializers(injected, name =>
    name === scheduleTotal ? Tensor.filled(before.dtype, [], total) : undefined,
  );
  model.metadata = new Map(injected.metadata);
  writeDescription(model, { ...description, schedule: extended });
  return model;
}
