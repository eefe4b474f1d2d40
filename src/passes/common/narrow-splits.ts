/** Replaces each Split with more outputs than WebGPU can write by several. */
import { allGraphs, type Graph, type Model, Node, Value } from '../../graph/ir.js';
import { Names } from '../../graph/names.js';
import { Tensor } from '../../graph/tensor.js';
import { toAttrs } from '../../ops/core/builder.js';

/** WebGPU guarantees eight storage buffers to a kernel, of which a Split reads one. */
const MOST = 7;

/** Whether a Split writes more outputs than a kernel may have there. */
export const isWideSplit = ({ opType, domain, outputs }: Node) =>
  opType === 'Split' && domain === '' && outputs.length > MOST;

/**
 * Replaces each Split into more outputs than a WebGPU kernel can write by Splits of Splits, subgraphs included. Those whose
 * sizes are computed stay as they are. Returns whether there were any.
 */
export function narrowSplits(model: Model): boolean {
  const graphs = [...allGraphs(model.graph)];
  let names: Names | undefined;
  let changed = false;
  for (const graph of graphs) {
    if (!graph.nodes.some(isWideSplit)) continue;
    names ??= Names.of(model);
    const before = graph.nodes;
    const nodes = before.flatMap(node => {
      const sizes = isWideSplit(node) && sizesOf(node, graphs);
      return sizes ? narrowed(node, sizes, names!) : [node];
    });
    if (nodes.length === before.length) continue;
    graph.nodes = nodes;
    changed = true;
  }
  return changed;
}

/** The node with an output for each group of its former ones, and the Splits of the groups. */
function narrowed(node: Node, sizes: readonly number[], names: Names): Node[] {
  const { outputs } = node;
  let width = MOST;
  while (width * MOST < outputs.length) width *= MOST;
  const starts = Array.from({ length: Math.ceil(outputs.length / width) }, (_, i) => i * width);
  const groups = starts.map(start => {
    const [own, extents] = [outputs.slice(start, start + width), sizes.slice(start, start + width)];
    const size = extents.reduce((sum, n) => sum + n, 0);
    const value = own.length === 1 ? own[0]! : new Value(names.fresh('split'));
    return { own, extents, size, value };
  });
  const lengths = (values: readonly number[]) => {
    const value = new Value(names.fresh('sizes'), { kind: 'tensor', dtype: 'int64', shape: [values.length] });
    return new Node('Constant', [], [value], toAttrs({ value: Tensor.ints(values) }));
  };
  const axis = node.attrs.get('axis');
  const splits = groups.flatMap(({ own, extents, value }) => {
    if (own.length === 1) return [];
    const constant = lengths(extents);
    const split = new Node('Split', [value, constant.outputs[0]!], own, new Map(axis && [['axis', axis]]));
    return [constant, ...(isWideSplit(split) ? narrowed(split, extents, names) : [split])];
  });
  const constant = lengths(groups.map(group => group.size));
  node.outputs = groups.map(group => group.value);
  node.setInput(1, constant.outputs[0]!);
  node.deleteAttr('num_outputs');
  return [constant, node, ...splits];
}

/** The extents of the outputs along the axis of the Split, where they are known. */
function sizesOf({ inputs: [x, split], outputs, attrs }: Node, graphs: readonly Graph[]) {
  if (split) {
    const stored = graphs.map(graph => graph.initializers.get(split)).find(tensor => tensor);
    const constant = split.producer?.opType === 'Constant' ? split.producer.attrs.get('value') : undefined;
    return (stored ?? (constant?.type === 'tensor' ? constant.value : undefined))?.numbers();
  }
  const at = attrs.get('axis');
  const extent = x?.shape?.at(at?.type === 'int' ? Number(at.value) : 0);
  if (typeof extent !== 'number') return undefined;
  const each = Math.ceil(extent / outputs.length);
  return outputs.map((_, i) => Math.max(0, Math.min(each, extent - i * each)));
}
