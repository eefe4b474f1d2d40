import { cloneModel } from '../graph/clone.js';
import { AgdError } from '../graph/errors.js';
import type { Model, Value } from '../graph/ir.js';
import { eliminateDeadNodes } from './eliminate-dead-nodes.js';

/**
 * The part of a model that computes these values, which may be inner ones: they are its outputs. Inputs that it does
 * not read are gone, and initializers are constants, no longer inputs. Throws `no-such-value`.
 */
export function partOfModel(model: Model, outputs: readonly string[]): Model {
  const part = cloneModel(model);
  const { graph } = part;
  const written = graph.nodes.flatMap(n => n.outputs.flatMap(v => v ?? []));
  const values = new Map([...written, ...graph.outputs].map(v => [v.name, v]));
  graph.outputs = outputs.map(name => {
    const value = values.get(name);
    if (!value) throw new AgdError('no-such-value', `The model computes no value '${name}'.`);
    return value;
  });
  graph.inputs = graph.inputs.filter(v => !graph.initializers.has(v));
  part.trainingInfo = [];
  eliminateDeadNodes(part);
  const read = new Set<Value | null>(graph.outputs);
  for (const node of graph.nodes)
    for (const v of [...node.inputs, ...node.subgraphs().flatMap(s => s.captures())]) read.add(v);
  graph.inputs = graph.inputs.filter(v => read.has(v));
  return part;
}
