import { allGraphs, type Graph, type Model, type Node, type Value } from '../../graph/ir.js';
import { Names } from '../../graph/names.js';
import { Builder } from '../../ops/core/builder.js';
import type { Expr } from '../../ops/core/expr.js';
import { Attributes } from '../../ops/core/rule.js';

/** ONNX Runtime's own operators on tensors whose channels lie in blocks, side by side in memory. */
export const BLOCKED = 'com.microsoft.nchwc';

/**
 * Convolves in the layout that ONNX Runtime's CPU kernels are fastest in, NCHWc: `block` channels of a pixel side by side.
 * Its own optimizer does so where a kernel is a constant; kernels that are trained are not, and are laid out anew in every
 * step, which is little work. Changes the graph's nodes; a file would be for one kind of processor, so this is for sessions.
 * Returns whether there was anything to change.
 */
export function blockChannels(model: Model, block: number): boolean {
  const names = Names.of(model);
  let changed = false;
  for (const graph of [...allGraphs(model.graph)]) {
    if (!graph.nodes.some(node => isFaster(node, graph, block))) continue;
    changed = true;
    const { nodes } = graph;
    graph.nodes = [];
    const g = new Builder(graph, { names, opsets: model.opsetImports });
    const reordered = new Map<Value, Expr>();
    for (const node of nodes)
      if (isFaster(node, graph, block)) blocked(g, node, block, reordered);
      else if (!channelsLast(g, node, reordered.get(node.inputs[0]!), block)) g.adopt([node]);
  }
  if (changed) model.opsetImports = new Map([...model.opsetImports, [BLOCKED, 1]]);
  return changed;
}

/** More pairs of channels, as of 512 into 512, belong to small images: to lay them out takes what it gains. */
const MOST = 2 ** 16;

/**
 * Convolutions of images, in float32 and whole blocks, by a kernel larger than a pixel that is no initializer of
 * this graph.
 */
function isFaster(node: Node, graph: Graph, block: number): boolean {
  const [x, w] = node.inputs;
  if (node.opType !== 'Conv' || node.domain || x?.dtype !== 'float32' || graph.initializers.has(w!))
    return false;
  const [m, c, ...kernel] = (w?.shape ?? []).map(d => (typeof d === 'number' ? d : 0));
  const group = new Attributes(node).int('group', 1);
  const isImage = kernel.length === 2 && kernel[0]! * kernel[1]! > 1;
  // Fewer channels than a block are read as they are.
  const fits = group === 1 ? c! < block || c! % block === 0 : c === 1 && group === m;
  return isImage && m! % block === 0 && m! * c! > 0 && m! * c! <= MOST && fits;
}

function blocked(g: Builder, node: Node, block: number, reordered: Map<Value, Expr>): void {
  const [x, w, b] = node.inputs.map(v => (v ? g.of(v) : undefined)) as [Expr, Expr, Expr?];
  const [m, c, ...kernel] = w.staticShape as number[];
  const [y] = node.outputs;
  const emit = (op: string, inputs: (Expr | undefined)[], attrs = {}, type = y!.type) =>
    g.emit(op, inputs, attrs, { domain: BLOCKED, types: [type] })[0]!;
  const isDepthwise = new Attributes(node).int('group', 1) > 1;
  const size = kernel.reduce((n, d) => n * d, 1);
  // Block by block, and then within blocks: the runtime's Transpose is several times slower when it moves more than an axis.
  const rows = w.reshape([m! / block, block, c! * size]).transpose([0, 2, 1]);
  const laidOut =
    c! % block === 0
      ? rows.reshape([(m! * c!) / block ** 2, block, size, block]).transpose([0, 2, 1, 3])
      : rows;
  const inBlocks = isDepthwise || c! % block === 0;
  const input = inBlocks ? (reordered.get(x.value) ?? emit('ReorderInput', [x], {}, x.value.type)) : x;
  if (inBlocks) reordered.set(x.value, input);
  const output = emit(
    'Conv',
    [input, laidOut.reshape([m!, c!, ...kernel]), b],
    Object.fromEntries(node.attrs),
  );
  g.identity(emit('ReorderOutput', [output], { channels: m }).value, y!);
}

/**
 * Puts the channels last, as the gradient of a kernel wants them, of what is in blocks already: a single block is so, and
 * a Transpose would start its threads once per image. Returns whether it could.
 */
function channelsLast(g: Builder, node: Node, input: Expr | undefined, block: number): boolean {
  const [y] = node.outputs;
  const extents = y?.shape?.slice(1).map(d => (typeof d === 'number' ? d : 0)) ?? [];
  const isLast = node.opType === 'Transpose' && `${new Attributes(node).ints('perm')}` === '0,2,3,1';
  if (!input || !isLast || extents.includes(0) || extents[2] !== block) return false;
  g.identity(input.reshape([0, ...extents]).value, y!);
  return true;
}
