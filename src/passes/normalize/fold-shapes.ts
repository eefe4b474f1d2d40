import { cloneNodes } from '../../graph/clone.js';
import { type Dim, type Graph, type Model, Node, Value } from '../../graph/ir.js';
import { Names } from '../../graph/names.js';
import { Tensor } from '../../graph/tensor.js';
import { Builder } from '../../ops/core/builder.js';
import { evaluate, type Integers, integersOf, isKnown, type Known } from '../../ops/core/integers.js';
import { Attributes } from '../../ops/core/rule.js';
import { fillIn } from './infer-shapes.js';

/**
 * Evaluates the shape arithmetic that exporters leave in a graph, if extents or ranks depend on it, as the runtime's
 * shape inference does not follow all of it. Known integers become initializers. So do the extents of a Reshape if
 * all are known except those that stay in place. A vector of unknown extents but known length gets that length, and
 * an If with a constant condition becomes its branch. Needs inferred types, which must be inferred again if anything
 * changed, as the return value tells. With `all`, folds even if all types are known.
 */
export function foldShapes(model: Model, { all = false } = {}): boolean {
  const { graph } = model;
  if (!all && graph.nodes.every(node => node.outputs.every(hasRank) && !isOpenReshape(graph, node)))
    return false;
  const names = Names.of(model);
  const known = new Map<Value, Integers>();
  for (const [value, tensor] of graph.initializers) {
    const integers = integersOf(tensor);
    if (integers && !graph.inputs.includes(value)) known.set(value, integers);
  }
  const g = new Builder(graph, { names, opsets: model.opsetImports });
  let changed = false;
  const nodes = graph.nodes.flatMap(node => {
    const result = evaluate(node, known);
    const [output] = node.outputs;
    if (result && output) known.set(output, result);
    const folded = fold(graph, node, known, names);
    // Types of its readers are inferred in the same round, as there may be long chains of them.
    for (const kept of folded ?? [node]) fillIn(g, kept);
    changed ||= folded !== undefined;
    return folded ?? [node];
  });
  if (changed) graph.nodes = nodes;
  return changed;
}

/** Sequences have no rank. */
function hasRank(value: Value | null): boolean {
  return !value || (value.type?.kind === 'tensor' ? value.shape !== undefined : value.type !== undefined);
}

/** A Reshape to computed extents that the runtime does not fully infer. */
function isOpenReshape(graph: Graph, { opType, domain, inputs, outputs }: Node): boolean {
  const isComputed = opType === 'Reshape' && domain === '' && !graph.initializers.has(inputs[1]!);
  return isComputed && outputs[0]?.shape?.includes(null) === true;
}

/** The shape input of a Reshape with these extents: 0 for one that stays in place. */
function reshapedTo(node: Node, { data }: Integers): number[] | undefined {
  if (new Attributes(node).int('allowzero', 0) || data.includes(0)) return undefined;
  const from = node.inputs[0]?.shape;
  const extents = data.map((d, i) => (typeof d === 'string' && d === from?.[i] ? 0 : d));
  return extents.every(d => typeof d === 'number') ? extents : undefined;
}

/** The replacement of a node; undefined if it stays. */
function fold(graph: Graph, node: Node, known: Map<Value, Integers>, names: Names): Node[] | undefined {
  const [output] = node.outputs;
  const result = output && known.get(output);
  // A scalar decides no rank, but it decides branches, which the runtime then infers more strictly than it accepts.
  const isShape =
    result &&
    isKnown(result) &&
    !result.scalar &&
    result.columns === undefined &&
    result.data.every(d => Number.isSafeInteger(d) || isEnd(output, d));
  if (isShape && node.opType !== 'Constant' && !graph.outputs.includes(output)) {
    const tensor = integerTensor(output, result);
    graph.initializers.set(output, tensor);
    output.type = { kind: 'tensor', dtype: tensor.dtype, shape: tensor.dims };
    return [];
  }
  const condition = node.opType === 'If' ? known.get(node.inputs[0]!)?.data[0] : undefined;
  if (typeof condition === 'number')
    return taken(graph, node, condition ? 'then_branch' : 'else_branch', names);
  if (node.opType === 'Range' && node.inputs.some(v => v?.shape?.length === 1))
    return scalarRange(graph, node, names);
  const shape = node.opType === 'Reshape' || node.opType === 'Expand' ? node.inputs[1] : undefined;
  const extents = isOpenReshape(graph, node) && known.has(shape!) && reshapedTo(node, known.get(shape!)!);
  if (extents) {
    const constant = new Value(names.fresh(`${shape!.name}_extents`));
    graph.initializers.set(constant, Tensor.ints(extents));
    node.setInput(1, constant);
    return [node];
  }
  const length = shape ? known.get(shape)?.data.length : undefined;
  if (!shape || length === undefined || typeof shape.shape?.[0] === 'number') return undefined;
  const [settled, extent] = ['settled', 'length'].map(
    hint => new Value(names.fresh(`${shape.name}_${hint}`)),
  );
  graph.initializers.set(extent!, Tensor.ints([length]));
  node.setInput(1, settled!);
  return [new Node('Reshape', [shape, extent!], [settled!]), node];
}

/** The runtime accepts vectors of one element as scalars of a Range, but not if it knows their shape. */
function scalarRange(graph: Graph, node: Node, names: Names): Node[] {
  const shape = new Value(names.fresh('scalar'));
  graph.initializers.set(shape, Tensor.ints([]));
  const scalars = node.inputs.map(v => new Value(names.fresh(`${v!.name}_scalar`)));
  const reshapes = node.inputs.map((v, i) => new Node('Reshape', [v, shape], [scalars[i]!]));
  node.inputs = scalars;
  return [...reshapes, node];
}

/** The bound of a slice that goes to the end; as a JavaScript number, it is one above the largest 64-bit integer. */
const END = 2 ** 63;
const isEnd = ({ dtype }: Value, d: Dim) => dtype === 'int64' && typeof d === 'number' && Math.abs(d) === END;
const toInt64 = (d: number) => (d === END ? 2n ** 63n - 1n : BigInt(d));

function integerTensor({ dtype }: Value, { scalar, data }: Known): Tensor {
  const dims = scalar ? [] : [data.length];
  if (dtype === 'bool') return new Tensor('bool', dims, Uint8Array.from(data));
  if (dtype === 'int32') return Tensor.from('int32', dims, Int32Array.from(data));
  return Tensor.from('int64', dims, BigInt64Array.from(data, toInt64));
}

/** The nodes of the branch that is executed. */
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
