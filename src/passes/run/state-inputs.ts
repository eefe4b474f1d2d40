import type { Binding } from '../../graph/ir.js';
import { Graph, Model } from '../../graph/ir.js';
import { keepTypesAlone } from '../../graph/proto/codec.js';
import { readDescription } from '../file/step-metadata.js';

/**
 * The same model with state and learning rate as plain inputs without defaults, since some runtimes do not list
 * inputs with a default and silently ignore values fed to them. Nodes are shared.
 */
export function stateInputs(model: Model, updates: readonly Binding[]): Model {
  const fed = new Set([...updates.map(u => u.state), readDescription(model).lr]);
  const graph = Graph.view(model.graph, {
    initializers: new Map([...model.graph.initializers].filter(([value]) => !fed.has(value.name))),
  });
  keepTypesAlone(graph);
  const result = new Model(graph);
  result.irVersion = model.irVersion;
  result.opsetImports = model.opsetImports;
  result.functions = model.functions;
  return result;
}
