/** Passes that take a model's own training step. */
import { type Pass, pass } from '../common/context.js';

import { loadOnDemand } from './load-on-demand.js';
export const IMPORT_PASSES = [
  pass({
    name: 'read-algorithm',
    does: "Makes the model's own training step the main graph",
    requires: [],
    ensures: ['work', 'bindings'],
    async run(c) {
      const { readAlgorithm } = await loadOnDemand();
      Object.assign(c, readAlgorithm(c.source, c.options));
      return true;
    },
  }),
  pass({
    name: 'lower-training-operators',
    does: "Expands ONNX's Gradient and optimizer operators into standard ones",
    requires: ['work'],
    ensures: ['operators', 'inlined'],
    async run(c) {
      const { lowerTrainingOperators } = await loadOnDemand();
      c.operators = await lowerTrainingOperators(c.work, c.oracle);
      c.inlined = true;
      return true;
    },
  }),
  pass({
    name: 'adopt-step',
    does: "Turns state, learning rate and update count of the model's own step into inputs and outputs",
    requires: ['work', 'g', 'operators', 'bindings'],
    ensures: ['spec', 'loss', 'own', 'batchNumber', 'model', 'trained'],
    async run(c) {
      const { adoptStep } = await loadOnDemand();
      const adopted = adoptStep(c);
      Object.assign(c, adopted);
      c.trained = adopted.own.states;
      c.model = c.source;
      return true;
    },
  }),
  pass({
    name: 'describe-own-step',
    does: 'Describes the step in the metadata',
    requires: ['work', 'operators', 'bindings', 'spec', 'loss', 'own'],
    ensures: ['parameters', 'description'],
    async run(c) {
      const { describeOwnStep } = await loadOnDemand();
      Object.assign(c, describeOwnStep(c));
      return true;
    },
  }),
] satisfies readonly Pass[];
