import { isFloat } from '../graph/dtype.js';
import { Graph, Model, Value, type ValueType } from '../graph/ir.js';

/** Answers the types of a model's graph outputs by name; implemented with a session by the runtime. */
export type ShapeOracle = (model: Model) => Promise<Map<string, ValueType>>;

/** Floating-point initializers above this size are handed to the oracle as inputs: their values tell no shape. */
const SMALL = 64;

/**
 * Sets the type of every value of the main graph that a node writes, as the runtime sees it: the values are
 * made untyped outputs of a copy of the graph, and the oracle is asked. Returns whether any type was added.
 */
export async function inferShapes(model: Model, oracle: ShapeOracle): Promise<boolean> {
  for (const [value, tensor] of model.graph.initializers)
    value.type ??= { kind: 'tensor', dtype: tensor.dtype, shape: tensor.dims };
  const written = model.graph.nodes.flatMap(n => n.outputs.filter(v => v !== null));
  const types = await oracle(probe(model, written));
  let changed = false;
  for (const value of written) {
    const type = types.get(value.name);
    if (!type) continue;
    value.type = type;
    changed = true;
  }
  return changed;
}

/** The same nodes, with `outputs` as graph outputs and without the weight of the weights. */
function probe(model: Model, outputs: readonly Value[]): Model {
  const { graph } = model;
  const copy = new Graph(graph.name);
  copy.nodes = graph.nodes;
  copy.inputs = [...graph.inputs];
  for (const [value, tensor] of graph.initializers) {
    if (isFloat(tensor.dtype) && tensor.size > SMALL) {
      if (!graph.inputs.includes(value)) copy.inputs.push(new Value(value.name, value.type));
    } else copy.initializers.set(value, tensor);
  }
  copy.outputs = outputs.map(v => new Value(v.name));
  const result = new Model(copy);
  result.irVersion = model.irVersion;
  result.opsetImports = model.opsetImports;
  result.functions = model.functions;
  return result;
}
