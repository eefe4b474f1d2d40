import { withGraph } from '../../graph/clone.js';
import { AgdError } from '../../graph/errors.js';
import { Graph, type Model, Value } from '../../graph/ir.js';
import { Names } from '../../graph/names.js';
import type { Tensor } from '../../graph/tensor.js';
import { isInjected, readDescription, writeDescription } from './step-metadata.js';

/** The momentum of an outer optimizer that a state has, by parameter. Throws `invalid-model` where a tensor is missing. */
export function outerMomentumOf(model: Model): Map<string, Tensor> {
  if (!isInjected(model)) return new Map();
  const stored = new Map([...model.graph.initializers].map(([v, t]) => [v.name, t]));
  return new Map(
    readDescription(model).parameters.flatMap(({ name, outerMomentum }) => {
      if (outerMomentum === undefined) return [];
      const found = stored.get(outerMomentum);
      if (!found || found.size !== stored.get(name)?.size)
        throw new AgdError(
          'invalid-model',
          `The state is damaged: '${outerMomentum}', the outer momentum of '${name}', is missing or of another shape.`,
        );
      return [[name, found] as const];
    }),
  );
}

/** The model with this momentum in place of that which it has. Its graph is a view: no node reads it. */
export function withOuterMomentum(model: Model, momentum: ReadonlyMap<string, Tensor>): Model {
  const before = outerMomentumOf(model);
  if (!before.size && !momentum.size) return model;
  const description = readDescription(model);
  const old = new Set(description.parameters.map(p => p.outerMomentum));
  const initializers = new Map([...model.graph.initializers].filter(([v]) => !old.has(v.name)));
  const names = Names.of(model);
  const parameters = description.parameters.map(({ outerMomentum, ...parameter }) => {
    const tensor = momentum.get(parameter.name);
    if (!tensor) return parameter;
    const name = outerMomentum ?? names.fresh(`${parameter.name}_outer_momentum`);
    const { dtype, dims } = tensor;
    initializers.set(new Value(name, { kind: 'tensor', dtype, shape: [...dims] }), tensor);
    return { ...parameter, outerMomentum: name };
  });
  const result = withGraph(model, Graph.view(model.graph, { initializers }));
  result.metadata = new Map(model.metadata);
  writeDescription(result, { ...description, parameters });
  return result;
}
