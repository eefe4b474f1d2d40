/** Small models written by hand, with subgraphs. */
import { Graph, Model, Node, type Shape, Value, type ValueType } from '../../src/graph/ir.js';
import type { Tensor } from '../../src/graph/tensor.js';
import { type AttrInit, toAttrs } from '../../src/ops/core/builder.js';
import { liftSubgraphInitializers } from '../../src/passes/normalize/lift-subgraph-initializers.js';

export const float32 = (shape?: Shape): ValueType => ({ kind: 'tensor', dtype: 'float32', shape });

/** A graph written node by node. */
export class Body {
  readonly graph: Graph;
  constructor(name: string) {
    this.graph = new Graph(name);
  }
  input(name: string, type?: ValueType): Value {
    const value = new Value(name, type);
    this.graph.inputs.push(value);
    return value;
  }
  add(op: string, inputs: readonly Value[], name: string, attrs: AttrInit = {}): Value {
    const value = new Value(name);
    this.graph.append(new Node(op, [...inputs], [value], toAttrs(attrs)));
    return value;
  }
  constant(name: string, tensor: Tensor): Value {
    const value = new Value(name);
    this.graph.initializers.set(value, tensor);
    return value;
  }
  outputs(...values: Value[]): Graph {
    this.graph.outputs = values;
    return this.graph;
  }
}

export function model(main: Body, outputs: readonly Value[], opset = 18): Model {
  main.graph.outputs = [...outputs];
  const made = new Model(main.graph);
  made.opsetImports = new Map([['', opset]]);
  liftSubgraphInitializers(made);
  return made;
}

export function control(
  main: Body,
  op: string,
  inputs: readonly Value[],
  names: readonly string[],
  attrs: AttrInit,
): Value[] {
  const outputs = names.map(n => new Value(n));
  main.graph.append(new Node(op, [...inputs], outputs, toAttrs(attrs)));
  return outputs;
}
