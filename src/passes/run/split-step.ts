import { cloneModel } from '../../graph/clone.js';
import { dependentValues, reads } from '../../graph/dependents.js';
import { AgdError } from '../../graph/errors.js';
import { Graph, type Model, type Value } from '../../graph/ir.js';
import { eliminateDeadNodes } from '../common/eliminate-dead-nodes.js';
import { readDescription } from '../file/step-metadata.js';
import { inferShapes, type ShapeOracle } from '../normalize/infer-shapes.js';
import { constantsOf, like, recordUpdates } from './plain-state.js';

export type SplitStep = { gradients: Model; update: Model; state: Model };

/**
 * An injected model's step in two halves, for work between gradients and update: `gradients` takes the batch and
 * returns loss and gradients, `update` takes these and returns the next state. Run one after the other, they compute
 * the same as the step. The first half updates state that depends on the batch alone (running statistics), unless the
 * second half decides whether to; then it is passed on, like everything else that only the batch determines.
 *
 * State and learning rate are plain inputs, which runtimes in all languages can feed; `state` is a model without
 * inputs whose outputs are the initial values. The oracle infers types of values that are passed on, if a model that
 * was read from a file lacks them. Throws `invalid-model` if the step cannot be split.
 */
export async function splitStep(injected: Model, oracle: ShapeOracle): Promise<SplitStep> {
  const model = await withTypes(injected, oracle);
  const { parameters, lr } = readDescription(model);
  const { graph } = model;
  const updates = model.trainingInfo.flatMap(info => info.updates);
  const names = new Set(parameters.flatMap(p => [p.grad, p.hessianProduct]));
  const written = graph.nodes.flatMap(n => n.outputs.flatMap(v => v ?? []));
  const grads = written.filter(v => names.has(v.name));
  if (!grads.length)
    throw new AgdError(
      'invalid-model',
      'The step has an optimizer of its own, and no gradients to split it at.',
    );
  const after = dependentValues(graph.nodes, grads);
  const data = graph.inputs.filter(v => !graph.initializers.has(v));
  const batch = dependentValues(graph.nodes, data, after);

  const next = new Set(updates.map(u => u.value));
  const isLate = (v: Value) => next.has(v.name) && (after.has(v) || !batch.has(v));
  const late = graph.outputs.filter(isLate);
  const early = graph.outputs.filter(v => !isLate(v));
  const cut = frontier(late, v => grads.includes(v) || (batch.has(v) && !after.has(v)));
  const fed = new Set([...updates.map(u => u.state), lr]);
  return {
    gradients: part(model, [...new Set([...early, ...cut])], [], fed),
    update: part(model, late, cut, fed),
    state: constantsOf(model, fed),
  };
}

/** The model, or a typed copy if some values have no type. */
async function withTypes(model: Model, oracle: ShapeOracle): Promise<Model> {
  if (model.graph.nodes.every(n => n.outputs.every(v => !v || v.type))) return model;
  const typed = cloneModel(model);
  await inferShapes(typed, oracle);
  return typed;
}

/**
 * The values at which `stops` returns true, found by following inputs back from `outputs`. Throws if this reaches the
 * batch.
 */
function frontier(outputs: readonly Value[], stops: (v: Value) => boolean): Value[] {
  const seen = new Set<Value>();
  const cut: Value[] = [];
  const pending = [...outputs];
  for (let v = pending.pop(); v; v = pending.pop()) {
    if (seen.has(v)) continue;
    seen.add(v);
    const writer = v.producer;
    if (stops(v)) {
      if (!writer)
        throw new AgdError(
          'invalid-model',
          `The update reads '${v.name}' of the batch itself: it cannot be split off.`,
        );
      cut.push(v);
    } else if (writer) pending.push(...reads(writer));
  }
  return cut.reverse();
}

/** The part of the step that computes `outputs`, with `cut` as inputs, and those of `fed` that it reads. */
function part(model: Model, outputs: Value[], cut: readonly Value[], fed: ReadonlySet<string>): Model {
  const { graph, trainingInfo } = model;
  const half = Graph.view(graph, {
    outputs,
    nodes: graph.nodes.filter(n => !n.outputs.some(o => o && cut.includes(o))),
    initializers: new Map([...graph.initializers].filter(([v]) => !fed.has(v.name))),
  });
  const result = like(model, half);
  eliminateDeadNodes(result);
  const read = new Set([...outputs, ...half.nodes.flatMap(reads)]);
  half.inputs = [...cut, ...graph.inputs].filter(v => read.has(v));
  const given = new Set(outputs.map(v => v.name));
  const own = trainingInfo.flatMap(info => info.updates).filter(u => given.has(u.value));
  recordUpdates(result, own);
  return result;
}
