import { dependentValues } from '../../graph/dependents.js';
import { allGraphs, type Model, type Node, type Value } from '../../graph/ir.js';
import { Names } from '../../graph/names.js';
import { topologicalOrder } from '../../graph/topological-order.js';
import { Builder } from '../../ops/core/builder.js';
import { type Constant, constantsOf } from '../common/rewrite-nodes.js';
import { leadingAxes, sumByProducts } from './sum-by-products.js';

/**
 * Lets the gradients of biases and scales be summed before what their terms are read for next. ONNX Runtime computes what no
 * other node waits for last, when the terms of all layers, which it keeps until then, have left the caches. What reads them
 * next gets an extent from the sum, which it would have got from a constant. The numbers are the same. Returns whether there
 * was anything to change.
 */
export function sumsFirst(model: Model): boolean {
  const names = Names.of(model);
  const constant = constantsOf(model);
  let changed = false;
  for (const graph of allGraphs(model.graph)) {
    const waits = waitsIn(graph.nodes, constant);
    if (!waits.size) continue;
    changed = true;
    const g = new Builder(graph, { names, opsets: model.opsetImports });
    for (const [reader, sums] of waits) wait(g, reader, sums);
    graph.nodes = topologicalOrder(graph.nodes);
  }
  return changed;
}

/** Both of what sums over rows are changed to, so that pages load one script for it. Returns whether there was anything to change. */
export const sumRows = (model: Model): boolean => [sumsFirst(model), sumByProducts(model)].includes(true);

const is = (node: Node | undefined, opType: string) => node?.opType === opType && node.domain === '';

/** Which nodes are to wait for which sums. */
function waitsIn(nodes: readonly Node[], constant: Constant): Map<Node, Node[]> {
  const waits = new Map<Node, Node[]>();
  const wait = (reader: Node, sum: Node) => waits.set(reader, [...(waits.get(reader) ?? []), sum]);
  const sums = nodes.filter(node => isRow(node, leadingAxes(node, constant)));
  for (const sum of sums)
    for (const reader of takersOf(sum.inputs[0]!)) if (reader.graph === sum.graph) wait(reader, sum);
  // The gradient of a scale sums products, whose other factor must not come from what would wait for the sum.
  const later = dependentValues(
    nodes,
    [...waits.keys()].map(node => node.outputs[0]!),
  );
  for (const sum of sums) {
    const product = sum.inputs[0]!.producer;
    if (!product || !is(product, 'Mul')) continue;
    for (const [i, factor] of product.inputs.entries())
      if (!later.has(product.inputs[1 - i]!))
        for (const reader of factor!.readers) if (waits.has(reader)) wait(reader, sum);
  }
  return waits;
}

const isRow = (node: Node, summed: number) => summed > 0 && node.inputs[0]!.shape!.length === summed + 1;

const columnsOf = (terms: Value) => terms.shape!.at(-1) as number;

/** Nodes that read these terms and have an input that tells their columns alone: the shape of a matrix, or a scale. */
function takersOf(terms: Value): Node[] {
  const columns = columnsOf(terms);
  const isMatrix = (axis: number) => (node: Node) => {
    const shape = node.outputs[0]?.shape;
    return is(node, 'Reshape') && shape?.length === 2 && shape[axis] === columns;
  };
  const isScaled = (node: Node) => is(node, 'Mul') && scaleOf(node, columns) >= 0;
  const turned = terms.readers.filter(node => is(node, 'Transpose')).map(node => node.outputs[0]!);
  return [
    ...terms.readers.filter(node => isMatrix(1)(node) || isScaled(node)),
    ...turned.flatMap(value => value.readers.filter(isMatrix(0))),
  ];
}

/** Which input is a vector of these columns. */
const scaleOf = ({ inputs }: Node, columns: number) =>
  inputs.findIndex(v => v!.shape?.length === 1 && v!.shape[0] === columns);

function wait(g: Builder, reader: Node, sums: readonly Node[]): void {
  const columns = columnsOf(sums[0]!.inputs[0]!);
  const sizes = sums.map(sum => g.of(sum.outputs[0]!).op('Size'));
  const least = (...dims: number[]) => g.ints(dims).op('Min', sizes);
  if (is(reader, 'Reshape')) {
    const isLast = reader.outputs[0]!.shape![1] === columns;
    reader.setInput(1, (isLast ? least(-1, columns) : least(columns, -1)).value);
  } else {
    const i = scaleOf(reader, columns);
    const scale = reader.inputs[i]!;
    reader.setInput(i, g.of(scale).op('Reshape', [least(columns)], {}, { types: [scale.type] }).value);
  }
}
