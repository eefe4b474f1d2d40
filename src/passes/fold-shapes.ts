import { cloneNodes } from '../graph/clone.js';
import { type Graph, type Model, Node, Value } from '../graph/ir.js';
import { Names } from '../graph/names.js';
import { refill } from '../graph/refill.js';
import { Tensor } from '../graph/tensor.js';
import { evaluate, type Integers, integersOf, isKnown, type Known } from '../ops/core/integers.js';

/**
 * Evaluates the arithmetic on shapes that exporters leave in a graph, where a number of axes hangs on it: the runtime's
 * shape inference does not follow all of it. Integers that are known become initializers, a vector of unknown extents
 * whose length is known says so, and an If becomes the branch that is always taken. Types have to be there, and are to
 * be inferred again where it returns that anything changed.
 */
export function foldShapes(model: Model): boolean {
  const { graph } = model;
  if (graph.nodes.every(node => node.outputs.every(hasRank))) return false;
  const names = Names.of(model);
  const known = new Map<Value, Integers>();
  for (const [value, tensor] of graph.initializers) {
    const integers = integersOf(tensor);
    if (integers && !graph.inputs.includes(value)) known.set(value, integers);
  }
  let changed = false;
  const nodes = graph.nodes.flatMap(node => {
    const result = evaluate(node, known);
    const [output] = node.outputs;
    if (result && output) known.set(output, result);
    const folded = fold(graph, node, known, names);
    changed ||= folded !== undefined;
    return folded ?? [node];
  });
  if (changed) refill(graph.nodes, nodes);
  return changed;
}

/** A sequence has no rank to know. */
function hasRank(value: Value | null): boolean {
  return !value || (value.type?.kind === 'tensor' ? value.shape !== undefined : value.type !== undefined);
}

/** What takes the place of a node; undefined where it stays. */
function fold(graph: Graph, node: Node, known: Map<Value, Integers>, names: Names): Node[] | undefined {
  const [output] = node.outputs;
  const result = output && known.get(output);
  // Scalars tell no rank, but decide branches, of which the runtime then knows more than it accepts.
  const isShape = result && isKnown(result) && !result.scalar;
  if (isShape && node.opType !== 'Constant' && !graph.outputs.includes(output)) {
    graph.initializers.set(output, integerTensor(output, result));
    return [];
  }
  const condition = node.opType === 'If' ? known.get(node.inputs[0]!)?.data[0] : undefined;
  if (typeof condition === 'number')
    return taken(graph, node, condition ? 'then_branch' : 'else_branch', names);
  if (node.opType === 'Range' && node.inputs.some(v => v?.shape?.length === 1))
    return scalarRange(graph, node, names);
  const shape = node.opType === 'Reshape' || node.opType === 'Expand' ? node.inputs[1] : undefined;
  const length = shape ? known.get(shape)?.data.length : undefined;
  if (!shape || length === undefined || typeof shape.shape?.[0] === 'number') return undefined;
  const [settled, extent] = ['settled', 'length'].map(
    hint => new Value(names.fresh(`${shape.name}_${hint}`)),
  );
  graph.initializers.set(extent!, Tensor.ints([length]));
  node.inputs[1] = settled!;
  return [new Node('Reshape', [shape, extent!], [settled!]), node];
}

/** The runtime takes vectors of one element for a Range's scalars, but not where it knows that they are. */
function scalarRange(graph: Graph, node: Node, names: Names): Node[] {
  const shape = new Value(names.fresh('scalar'));
  graph.initializers.set(shape, Tensor.ints([]));
  const scalars = node.inputs.map(v => new Value(names.fresh(`${v!.name}_scalar`)));
  const reshapes = node.inputs.map((v, i) => new Node('Reshape', [v, shape], [scalars[i]!]));
  node.inputs = scalars;
  return [...reshapes, node];
}

function integerTensor({ dtype }: Value, { scalar, data }: Known): Tensor {
  const dims = scalar ? [] : [data.length];
  if (dtype === 'bool') return new Tensor('bool', dims, Uint8Array.from(data));
  if (dtype === 'int32') return Tensor.from('int32', dims, Int32Array.from(data));
  return Tensor.from('int64', dims, BigInt64Array.from(data, BigInt));
}

/** The nodes of the branch that is taken. */
function taken(graph: Graph, node: Node, which: string, names: Names): Node[] | undefined {
  const attr = node.attrs.get(which);
  if (attr?.type !== 'graph') return undefined;
  const { nodes, initializers, outputs } = attr.value;
  for (const [value, tensor] of initializers) {
    value.name = names.fresh(value.name);
    graph.initializers.set(value, tensor);
  }
  const values = new Map<Value, Value>();
  const copies = cloneNodes(nodes, { values, name: name => names.fresh(name) });
  const results = outputs.map(v => values.get(v) ?? v);
  return [
    ...copies,
    ...node.outputs.flatMap((o, i) => (o ? [new Node('Identity', [results[i]!], [o])] : [])),
  ];
}
