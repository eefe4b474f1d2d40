/** Gives scalars the rank of the tensors beside them, which ONNX Runtime's CPU kernels broadcast faster. */
import { allGraphs, type Graph, type Model, type Node, type Shape, type Value } from '../../graph/ir.js';
import { Names } from '../../graph/names.js';
import { Tensor } from '../../graph/tensor.js';
import { Builder } from '../../ops/core/builder.js';
import { constantsOf } from './rewrite-nodes.js';

/** Operators that broadcast all their operands. */
const BROADCAST = new Set([
  ...['Add', 'Sub', 'Mul', 'Div', 'Pow', 'Sum', 'Mean', 'Max', 'Min', 'Where'],
  ...['Equal', 'Greater', 'GreaterOrEqual', 'Less', 'LessOrEqual'],
]);

/**
 * Gives a single number beside a tensor whose last axis is 1 as many axes as that has. ONNX Runtime's CPU kernels skip last axes of
 * 1 only where all operands have them: beside fewer axes, they are called for each element of a tensor such as [512, 128, 1, 1], which
 * takes 30 to 80 times as long. Of `nodes`, with those of their subgraphs, or of all where these are not given. Returns whether there
 * was anything to change.
 */
export function lendAxes(model: Model, nodes?: readonly Node[], names = Names.of(model)): boolean {
  const graphs = [...allGraphs(model.graph)];
  const inputs = new Set(graphs.flatMap(graph => graph.inputs));
  const owners = new Map<Value, Graph>();
  for (const graph of graphs)
    for (const value of [
      ...graph.inputs,
      ...graph.initializers.keys(),
      ...graph.nodes.flatMap(n => n.outputs),
    ])
      if (value) owners.set(value, graph);
  const constant = constantsOf(model);
  const builders = new Map<Graph, Builder>();
  const after = new Map<Graph, Map<Node | undefined, Node[]>>();
  // Where the number is, so that bodies of loops do not do it again.
  const lent = (value: Value, rank: number): Value => {
    const graph = owners.get(value)!;
    const g = builders.get(graph) ?? new Builder(graph, { names, opsets: model.opsetImports });
    builders.set(graph, g);
    const held = inputs.has(value) ? undefined : constant(value);
    const ones = Array<number>(rank).fill(1);
    if (held) return g.tensor(new Tensor(held.dtype, ones, held.bytes), value.name).value;
    const places = after.get(graph) ?? new Map<Node | undefined, Node[]>();
    after.set(graph, places);
    const place = places.get(value.producer) ?? [];
    places.set(value.producer, place);
    return g.into(place, () => g.of(value).reshape(ones).value);
  };
  for (const node of nodes ? within(nodes) : graphs.flatMap(graph => graph.nodes)) {
    if (!BROADCAST.has(node.opType) || node.domain) continue;
    const shapes = node.inputs.map(v => v?.shape);
    if (!shapes.some(shape => shape?.at(-1) === 1 && !isSingle(shape))) continue;
    const rank = Math.max(...shapes.map(shape => shape?.length ?? 0));
    for (const [i, shape] of shapes.entries())
      if (isSingle(shape) && shape!.length < rank) node.setInput(i, lent(node.inputs[i]!, rank));
  }
  // Behind what computes the number: the order of the others is one that the runtime runs them in.
  for (const [graph, places] of after)
    graph.nodes = [undefined, ...graph.nodes].flatMap(node => [
      ...(node ? [node] : []),
      ...(places.get(node) ?? []),
    ]);
  return builders.size > 0;
}

const isSingle = (shape: Shape | undefined): boolean => !!shape?.every(d => d === 1);

const within = (nodes: readonly Node[]): Node[] =>
  nodes.flatMap(node => [node, ...node.subgraphs().flatMap(graph => within(graph.nodes))]);
