import { allGraphs, type Graph, type Model, Node, Value } from '../../graph/ir.js';
import { Names } from '../../graph/names.js';
import {
  dropSparseInitializers,
  type SparseTensor,
  sparseConstant,
  sparseInitializers,
} from '../../graph/proto/sparse.js';
import { Tensor } from '../../graph/tensor.js';
import { toAttrs } from '../../ops/core/builder.js';

/**
 * Converts sparse tensors (initializers and Constants) to their values, in a Constant `<name>_values`, scattered into
 * zeros. Only the values train; zeros stay zeros. Needs opset 11. Returns whether there were any.
 */
export function expandSparse(model: Model): boolean {
  let names: Names | undefined;
  let changed = false;
  const expand = (sparse: SparseTensor, value: Value): Node[] => {
    names ??= Names.of(model);
    changed = true;
    return scattered(sparse, value, names);
  };
  const bodies = model.functions.flatMap(f => [...allGraphs(f.body)]);
  for (const graph of [...allGraphs(model.graph), ...bodies]) {
    const initializers = sparseInitializers(graph);
    if (!initializers.length && !graph.nodes.some(sparseConstant)) continue;
    const expanded = initializers.flatMap(sparse => expand(sparse, valueNamed(graph, sparse.name)));
    const nodes = graph.nodes.flatMap(node => {
      const sparse = sparseConstant(node);
      const [output] = node.outputs;
      return sparse && output ? expand(sparse, output) : [node];
    });
    if (initializers.length) dropSparseInitializers(graph);
    graph.nodes = [...expanded, ...nodes];
  }
  return changed;
}

/** The value of this name that nodes of the graph, including subgraphs, read; a new one if none does. */
function valueNamed(graph: Graph, name: string): Value {
  const values = [...allGraphs(graph)].flatMap(({ nodes, outputs }) => [
    ...nodes.flatMap(n => n.inputs),
    ...outputs,
  ]);
  return values.find(v => v?.name === name) ?? new Value(name);
}

function scattered({ values, indices, dims }: SparseTensor, value: Value, names: Names): Node[] {
  const named = (hint: string) => new Value(names.fresh(`${value.name}_${hint}`));
  const constant = (hint: string, tensor: Tensor) =>
    new Node('Constant', [], [named(hint)], toAttrs({ value: tensor }));
  const [shape, at, own] = [
    constant('shape', Tensor.ints(dims)),
    constant('indices', coordinates(indices, dims)),
    constant('values', values),
  ];
  const zeros = new Node(
    'ConstantOfShape',
    [shape.outputs[0]!],
    [named('zeros')],
    toAttrs({ value: Tensor.zeros(values.dtype, [1]) }),
  );
  const inputs = [zeros, at, own].map(n => n.outputs[0]!);
  return [shape, at, own, zeros, new Node('ScatterND', inputs, [value])];
}

/** The positions as [count, rank]. */
function coordinates(indices: Tensor, dims: readonly number[]): Tensor {
  const flat = indices.numbers();
  if (indices.dims.length === 2) return new Tensor('int64', indices.dims, indices.bytes);
  const rows = flat.flatMap(index => {
    const row: number[] = [];
    for (let [axis, rest] = [dims.length - 1, index]; axis >= 0; axis--) {
      row.unshift(rest % dims[axis]!);
      rest = Math.floor(rest / dims[axis]!);
    }
    return row;
  });
  return new Tensor('int64', [flat.length, dims.length], Tensor.ints(rows).bytes);
}
