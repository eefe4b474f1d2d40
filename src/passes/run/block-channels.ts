import { allGraphs, type Graph, type Model, type Node, type Value } from '../../graph/ir.js';
import { Names } from '../../graph/names.js';
import { Builder } from '../../ops/core/builder.js';
import type { Expr } from '../../ops/core/expr.js';
import { Attributes } from '../../ops/core/rule.js';

/** The domain of ONNX Runtime's own operators on tensors with blocked channels. */
export const BLOCKED = 'com.microsoft.nchwc';

/**
 * Runs convolutions in NCHWc, the layout in which ONNX Runtime's CPU kernels are fastest: `block` channels of a pixel
 * are adjacent in memory. ONNX Runtime's own optimizer does so only for constant kernels; trained ones are reordered
 * here in every step, which costs little. The result depends on the processor, so this is for sessions, not for
 * files. Returns whether there was anything to change.
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

/**
 * More pairs of channels, such as 512 into 512, occur with small images, for which reordering costs what it gains.
 */
const MOST = 2 ** 16;

/**
 * Whether a convolution gains: of images, in float32 and whole blocks, with a kernel larger than a pixel that is not
 * an initializer of this graph.
 */
function isFaster(node: Node, graph: Graph, block: number): boolean {
  const [x, w] = node.inputs;
  if (node.opType !== 'Conv' || node.domain || x?.dtype !== 'float32' || graph.initializers.has(w!))
    return false;
  const [m, c, ...kernel] = (w?.shape ?? []).map(d => (typeof d === 'number' ? d : 0));
  const group = new Attributes(node).int('group', 1);
  const isImage = kernel.length === 2 && kernel[0]! * kernel[1]! > 1;
  // Fewer channels than a block are read without reordering.
  const fits = group === 1 ? c! < block || c! % block === 0 : c === 1 && group === m;
  return isImage && m! % block === 0 && m! * c! > 0 && (group > 1 || m! * c! <= MOST) && fits;
}

function blocked(g: Builder, node: Node, block: number, reordered: Map<Value, Expr>): void {
  const [x, w, b] = node.inputs.map(v => (v ? g.of(v) : undefined)) as [Expr, Expr, Expr?];
  const [m, c] = w.staticShape as number[];
  const [y] = node.outputs;
  const emit = (op: string, inputs: (Expr | undefined)[], attrs = {}, type = y!.type) =>
    g.emit(op, inputs, attrs, { domain: BLOCKED, types: [type] })[0]!;
  const isDepthwise = new Attributes(node).int('group', 1) > 1;
  const inBlocks = (e: Expr): Expr => {
    const known = reordered.get(e.value);
    if (known) return known;
    const images = merged(g, e, block);
    const made = images
      ? inBlocks(images).reshape(e.staticShape!)
      : emit('ReorderInput', [e], {}, e.value.type);
    reordered.set(e.value, made);
    return made;
  };
  const isBlocked = isDepthwise || c! % block === 0;
  const planes = isDepthwise ? merged(g, w, block) : undefined;
  const output = emit(
    'Conv',
    [
      isBlocked ? inBlocks(x) : x,
      planes ? inBlocks(planes).reshape(w.staticShape!) : kernelInBlocks(w, block),
      b,
    ],
    Object.fromEntries(node.attrs),
  );
  g.identity(emit('ReorderOutput', [output], { channels: m }).value, y!);
}

/**
 * The images [N, C, H, W] of whole blocks that `e` holds as channels of a single one, or as kernels of N C channels: the
 * gradient of a depthwise kernel reads them so, and they are in blocks as they are.
 */
function merged(g: Builder, e: Expr, block: number): Expr | undefined {
  const node = e.value.producer;
  const from = node?.opType === 'Reshape' && node.domain === '' ? node.inputs[0]! : undefined;
  const [n, c, ...inner] = from?.shape ?? [];
  const isWhole = typeof n === 'number' && typeof c === 'number' && c % block === 0;
  const isMerged = isWhole && e.staticShape?.includes(n * c) && `${e.staticShape.slice(2)}` === `${inner}`;
  return isMerged ? g.of(from!) : undefined;
}

/** A kernel [M, C, ...] with the values of `block` outputs, and of as many inputs, side by side. */
function kernelInBlocks(w: Expr, block: number): Expr {
  const [m, c, ...kernel] = w.staticShape as [number, number, ...number[]];
  const size = kernel.reduce((n, d) => n * d, 1);
  // One axis at a time: the runtime's Transpose is several times slower if it moves several axes.
  const rows = w.reshape([m / block, block, c * size]).transpose([0, 2, 1]);
  const laidOut =
    c % block === 0 ? rows.reshape([(m * c) / block ** 2, block, size, block]).transpose([0, 2, 1, 3]) : rows;
  return laidOut.reshape([m, c, ...kernel]);
}

/**
 * Reshapes instead of transposing channels to the last axis, as the gradient of a kernel needs them, if the input is
 * reordered already: a single block has that layout, and a Transpose would start its threads once per image. Returns
 * whether this applied.
 */
function channelsLast(g: Builder, node: Node, input: Expr | undefined, block: number): boolean {
  const [y] = node.outputs;
  const extents = y?.shape?.slice(1).map(d => (typeof d === 'number' ? d : 0)) ?? [];
  const isLast = node.opType === 'Transpose' && `${new Attributes(node).ints('perm')}` === '0,2,3,1';
  if (!input || !isLast || extents.includes(0) || extents[2] !== block) return false;
  g.identity(input.reshape([0, ...extents]).value, y!);
  return true;
}
