/** Models that copy states from the device, or check them there. */
import { Graph, Model, Node, Value } from '../../graph/ir.js';
import { Names } from '../../graph/names.js';
import type { Tensor } from '../../graph/tensor.js';
import { Builder } from '../../ops/core/builder.js';
import { output } from '../update/transition.js';

/** Extents and element types of states, by name. */
export type States = Readonly<Record<string, Pick<Tensor, 'dtype' | 'dims'>>>;

const empty = (name: string) =>
  Object.assign(new Model(new Graph(name)), { irVersion: 8, opsetImports: new Map([['', 18]]) });

const inputsOf = (states: States) =>
  Object.entries(states).map(
    ([name, { dtype, dims }]) => new Value(name, { kind: 'tensor', dtype, shape: dims }),
  );

/** A model that copies states: its outputs are in the order of the states. */
export function stateCopies(states: States): Model {
  const model = empty('copies');
  const { graph } = model;
  graph.inputs = inputsOf(states);
  const names = Names.of(model);
  const copies = graph.inputs.map(v => new Value(names.fresh(`${v.name}_copy`), v.type));
  graph.append(...graph.inputs.map((v, i) => new Node('Identity', [v], [copies[i]!])));
  graph.outputs = copies;
  return model;
}

/** A model that sums the magnitudes of each state: one output, float32 [states], in the order of the states. */
export function stateMagnitudes(states: States): Model {
  const model = empty('magnitudes');
  model.graph.inputs = inputsOf(states);
  const g = new Builder(model.graph, { names: Names.of(model), opsets: model.opsetImports });
  const [first, ...others] = model.graph.inputs.map(v =>
    g
      .of(v)
      .cast('float32')
      .reshape([-1])
      .op('ReduceL1', [g.ints([0])], { keepdims: 1 }),
  );
  output(g, first!.concat(others, 0), 'magnitudes');
  return model;
}
