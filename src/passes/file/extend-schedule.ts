import { withInitializers } from '../../graph/clone.js';
import type { Model } from '../../graph/ir.js';
import { Tensor } from '../../graph/tensor.js';
import { resolveSchedule } from '../../ops/schedules.js';
import { readDescription, writeDescription } from './step-metadata.js';

/**
 * Makes a schedule that ends with the run end after `total` updates. Returns the model itself if nothing changes or
 * there is no such schedule. Throws `bad-option` if the schedule cannot be that short.
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
