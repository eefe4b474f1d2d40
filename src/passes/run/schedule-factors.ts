import { Graph, Model } from '../../graph/ir.js';
import { Names } from '../../graph/names.js';
import { Builder } from '../../ops/core/builder.js';
import { type PlannedSchedule, scheduleFactor } from '../../ops/schedules.js';
import { output } from '../update/transition.js';

/**
 * A model that evaluates a schedule: from numbers of updates done (`done`, float64 [n]) to factors on the learning rate
 * (`factor`, [n]).
 */
export function scheduleFactors(schedule: PlannedSchedule): Model {
  const model = new Model(new Graph('schedule'));
  model.opsetImports.set('', 17);
  const g = new Builder(model.graph, { names: Names.of(model), opsets: model.opsetImports });
  const done = g.input('done', { kind: 'tensor', dtype: 'float64', shape: ['n'] });
  output(g, scheduleFactor(schedule, done), 'factor');
  return model;
}
