/** Stores the momentum of the outer optimizer of distributed training (`--outer-momentum`) in a state. */
import { withGraph } from '../../graph/clone.js';
import { AgdError } from '../../graph/errors.js';
import { Graph, type Model, Value } from '../../graph/ir.js';
import { Names } from '../../graph/names.js';
import type { Tensor } from '../../graph/tensor.js';
import type { TrainingDescription } from './description.js';
import { isInjected, readDescription, writeDescription } from './step-metadata.js';

/** The momentum of an outer optimizer that a state has, by parameter or other weight. Throws `invalid-model` where a tensor is missing. */
export function outerMomentumOf(model: Model): Map<string, Tensor> {
  if (!isInjected(model)) return new Map();
  const stored = new Map([...model.graph.initializers].map(([v, t]) => [v.name, t]));
  return new Map(
    readDescription(model).parameters.flatMap(parameter =>
      weightsOf(parameter).flatMap(({ name, momentum }) => {
        if (momentum === undefined) return [];
        const found = stored.get(momentum);
        if (!found || found.size !== stored.get(name)?.size)
          throw new AgdError(
            'invalid-model',
            `The state is damaged: '${momentum}', the outer momentum of '${name}', is missing or of another shape.`,
          );
        return [[name, found] as const];
      }),
    ),
  );
}

/** The model with this momentum in place of that which it has. Its graph is a view: no node reads it. */
export function withOuterMomentum(model: Model, momentum: ReadonlyMap<string, Tensor>): Model {
  const before = outerMomentumOf(model);
  if (!before.size && !momentum.size) return model;
  const description = readDescription(model);
  const old = new Set(description.parameters.flatMap(weightsOf).map(weight => weight.momentum));
  const initializers = new Map([...model.graph.initializers].filter(([v]) => !old.has(v.name)));
  const names = Names.of(model);
  const parameters = description.parameters.map(parameter => {
    const { outerMomentum: _, outerMomenta: __, ...others } = parameter;
    const kept = weightsOf(parameter).flatMap(({ slot, name, momentum: before }) => {
      const tensor = momentum.get(name);
      if (!tensor) return [];
      const own = before ?? names.fresh(`${name}_outer_momentum`);
      const { dtype, dims } = tensor;
      initializers.set(new Value(own, { kind: 'tensor', dtype, shape: [...dims] }), tensor);
      return [{ slot, own }];
    });
    const ofStates = kept.flatMap(({ slot, own }) => (slot === undefined ? [] : [[slot, own] as const]));
    return {
      ...others,
      ...(kept[0] && kept[0].slot === undefined ? { outerMomentum: kept[0].own } : {}),
      ...(ofStates.length ? { outerMomenta: Object.fromEntries(ofStates) } : {}),
    };
  });
  const result = withGraph(model, Graph.view(model.graph, { initializers }));
  result.metadata = new Map(model.metadata);
  writeDescription(result, { ...description, parameters });
  return result;
}

/** A parameter and its states, any of which may be weights, with the names of their outer momentum. */
const weightsOf = ({
  name,
  state,
  outerMomentum,
  outerMomenta = {},
}: TrainingDescription['parameters'][number]): { slot?: string; name: string; momentum?: string }[] => [
  { name, momentum: outerMomentum },
  ...Object.entries(state).map(([slot, own]) => ({ slot, name: own, momentum: outerMomenta[slot] })),
];
