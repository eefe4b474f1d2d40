import { allGraphs, type Graph, type Model, type Node, type Value } from '../../graph/ir.js';
import { Names } from '../../graph/names.js';
import { topologicalOrder } from '../../graph/topological-order.js';
import { Builder } from '../../ops/core/builder.js';
import { Attributes } from '../../ops/core/rule.js';

/** In smaller gradients, or with a larger share of them written, writing the zeros again takes longer than copying all of them. */
const LEAST = 2 ** 19;
const SHARE = 1 / 32;
/** Their results share memory with what they are given. */
const VIEWS = new Set(['Identity', 'Reshape']);

/** A sum into zeros, and the one node that reads it. */
type Scatter = { node: Node; reader: Node };

/**
 * Sums the gradients of lookup tables of one shape into the same zeros, one after the other: where the one before has been read,
 * what it wrote becomes 0 again. ONNX Runtime does both in place, where it otherwise copies the zeros for each table. The
 * numbers are the same. Returns whether there was anything to change.
 */
export function shareZeros(model: Model): boolean {
  const names = Names.of(model);
  const graphs = [...allGraphs(model.graph)];
  const zeros = new Set(graphs.flatMap(zerosIn));
  let changed = false;
  for (const graph of graphs) {
    const places = new Map(graph.nodes.map((node, i) => [node, i]));
    const found = graph.nodes
      .flatMap(node => scatterOf(node, zeros) ?? [])
      .sort((a, b) => places.get(a.reader)! - places.get(b.reader)!);
    const g = new Builder(graph, { names, opsets: model.opsetImports });
    for (const onto of new Set(found.map(({ node }) => node.inputs[0]!)))
      changed =
        chain(
          g,
          found.filter(({ node }) => node.inputs[0] === onto),
        ) || changed;
    // Each waits for readers before its own alone, so that there is an order.
    if (changed) graph.nodes = topologicalOrder(graph.nodes);
  }
  return changed;
}

/** Constant scalars that are 0. */
function zerosIn({ initializers, inputs }: Graph): Value[] {
  return [...initializers].flatMap(([value, tensor]) =>
    tensor.dims.length === 0 && Object.is(tensor.numbers()[0], 0) && !inputs.includes(value) ? [value] : [],
  );
}

/** Whether a node adds few numbers to many zeros, which one other node of its graph reads. */
function scatterOf(node: Node, zeros: ReadonlySet<Value>): Scatter | undefined {
  if (node.opType !== 'ScatterElements' || node.domain) return undefined;
  const [onto, , updates] = node.inputs as [Value, Value, Value];
  const expand = onto.producer;
  if (expand?.opType !== 'Expand' || expand.domain || !zeros.has(expand.inputs[0]!)) return undefined;
  const size = sizeOf(onto);
  const isSum = new Attributes(node).string('reduction', 'none') === 'add';
  if (!isSum || !(size! >= LEAST) || (sizeOf(updates) ?? 0) > size! * SHARE) return undefined;
  const reader = readerOf(node.outputs[0]!);
  return reader?.graph === node.graph && reader!.outputs[0]?.dtype ? { node, reader: reader! } : undefined;
}

/** The one node that reads a value or views of it, if nothing else does. */
function readerOf(value: Value): Node | undefined {
  const [reader, ...others] = value.readers;
  if (!reader || others.length || value.outputOf.length) return undefined;
  return VIEWS.has(reader.opType) && !reader.domain ? readerOf(reader.outputs[0]!) : reader;
}

function sizeOf({ shape }: Value): number | undefined {
  return shape?.every(d => typeof d === 'number')
    ? (shape as number[]).reduce((n, d) => n * d, 1)
    : undefined;
}

/** Lets each take the zeros that the one before leaves. */
function chain(g: Builder, scatters: readonly Scatter[]): boolean {
  for (const [i, { node, reader }] of scatters.slice(0, -1).entries()) {
    const [sum, indices, updates] = [node.outputs[0]!, node.inputs[1]!, g.of(node.inputs[2]!)];
    // 0, once the sum has been read.
    const zero = g.of(reader.outputs[0]!).op('Size').less(0).cast(updates.dtype);
    const axis = new Attributes(node).int('axis', 0);
    const left = g.of(sum).scatterElements(g.of(indices), zero.expand(updates.op('Shape')), axis);
    scatters[i + 1]!.node.setInput(0, left.typed(sum.type).value);
  }
  return scatters.length > 1;
}
