import { Graph, type Model } from '../../graph/ir.js';
import { scanSteps } from '../run/scan-steps.js';
import { constantsOf, like, recordUpdates } from './plain-state.js';
import { readDescription } from './step-metadata.js';

export type PlainStep = { step: Model; state: Model };

/**
 * An injected model's step in which state and learning rate are plain inputs: the bindings of some languages cannot feed an
 * input that has a default. `state` is a model without inputs whose outputs are the initial values. With `steps`, one run
 * is that many steps: batches and the loss get a leading axis of that length, and the model's own outputs are left out.
 */
export function plainStep(injected: Model, steps?: number): PlainStep {
  const updates = injected.trainingInfo.flatMap(info => info.updates);
  const fed = new Set([...updates.map(u => u.state), readDescription(injected).lr]);
  const { model } = steps === undefined ? { model: injected } : scanSteps(injected, { steps, hoist: false });
  const initializers = new Map([...model.graph.initializers].filter(([value]) => !fed.has(value.name)));
  const step = like(model, Graph.view(model.graph, { initializers }));
  recordUpdates(step, updates);
  return { step, state: constantsOf(injected, fed) };
}
