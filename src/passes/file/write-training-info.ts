import { equalBytes } from '../../graph/bytes.js';
import { cloneGraph, cloneModel } from '../../graph/clone.js';
import { Graph, type Model, type Value } from '../../graph/ir.js';
import { Names } from '../../graph/names.js';
import { spellDefaultDomain } from '../../graph/proto/read.js';
import { algorithmInfo } from '../../graph/proto/training.js';
import type { Tensor } from '../../graph/tensor.js';
import { upgradeOpset } from '../normalize/upgrade-opset.js';
import { readOriginal } from './embed-original.js';
import { readDescription } from './step-metadata.js';

/**
 * An injected model in ONNX's own training format: the original inference graph, and the step as the algorithm of
 * `training_info`, bound to the initializers that it updates. The algorithm has its own forward pass, as training and
 * inference may differ; parameters and frozen weights are those of the inference graph.
 */
export function trainingInfoForm(injected: Model): Model {
  const { outputs } = readDescription(injected);
  const updates = injected.trainingInfo.flatMap(info => info.updates);
  const model = cloneModel(readOriginal(injected));
  spellDefaultDomain(model);
  upgradeOpset(model);
  model.opsetImports = new Map([...model.opsetImports, ...injected.opsetImports]);
  model.irVersion = Math.max(model.irVersion, injected.irVersion);

  const states = new Set(updates.map(u => u.state));
  const inputs = new Set(model.graph.inputs.map(v => v.name));
  const stored = new Map([...model.graph.initializers].map(([v, tensor]) => [v.name, { v, tensor }]));
  const shared = new Set<string>();
  for (const [{ name }, tensor] of injected.graph.initializers) {
    const there = stored.get(name);
    if (!there || !(states.has(name) || isSame(tensor, there.tensor))) continue;
    model.graph.initializers.set(there.v, tensor);
    shared.add(name);
  }
  for (const { name } of injected.graph.inputs) if (inputs.has(name)) shared.add(name);

  const names = Names.of(model);
  const values = new Map<Value, Value>();
  const given = new Set(outputs);
  const step = Graph.view(injected.graph, {
    outputs: injected.graph.outputs.filter(v => !given.has(v.name)),
  });
  step.name = names.fresh('training_step');
  const algorithm = cloneGraph(step, {
    values,
    name: name => (shared.has(name) ? name : names.fresh(name)),
  });
  const named = new Map([...values].map(([from, to]) => [from.name, to.name]));
  algorithm.initializers = new Map([...algorithm.initializers].filter(([v]) => !shared.has(v.name)));
  algorithm.inputs = algorithm.inputs.filter(v => !shared.has(v.name) && !algorithm.initializers.has(v));
  const bound = updates.map(u => ({ state: named.get(u.state)!, value: named.get(u.value)! }));
  model.trainingInfo = [algorithmInfo(algorithm, bound)];
  return model;
}

function isSame(a: Tensor, b: Tensor): boolean {
  return a.dtype === b.dtype && `${a.dims}` === `${b.dims}` && equalBytes(a.bytes, b.bytes);
}
