import { allGraphs, type Graph, type Model, type Node, type Value } from '../../graph/ir.js';
import { Names } from '../../graph/names.js';
import { prune } from '../../graph/prune.js';
import { Builder } from '../../ops/core/builder.js';
import type { Expr } from '../../ops/core/expr.js';
import { Attributes } from '../../ops/core/rule.js';
import { blockOperators } from './block-operators.js';
import {
  BLOCKED,
  Blocks,
  gainsInBlocks,
  type InBlocks,
  isImage,
  isReorder,
  isShape,
  kernelInBlocks,
} from './blocks.js';
import { LeastCut } from './least-cut.js';

/**
 * Runs convolutions in NCHWc, the layout in which ONNX Runtime's CPU kernels are fastest: `block` channels of a pixel
 * are adjacent in memory. ONNX Runtime's own optimizer does so only for constant kernels; trained ones are reordered
 * here in every step, which costs little. What is computed between them stays in this layout where that saves more copies
 * than it costs. The result depends on the processor, so this is for sessions, not for files. Returns whether there was
 * anything to change.
 */
export function blockChannels(model: Model, block: number): boolean {
  const names = Names.of(model);
  const initializers = new Map([...allGraphs(model.graph)].flatMap(graph => [...graph.initializers]));
  let changed = false;
  for (const graph of [...allGraphs(model.graph)]) {
    // The runtime lays out kernels that are initializers itself.
    const fixed = graph.nodes.filter(
      node => isFaster(node, block) && !graph.initializers.has(node.inputs[1]!),
    );
    const found = new Map(fixed.map(node => [node, convolution(node, block)]));
    for (const [node, other] of blockOperators(graph, block, v => initializers.get(v)))
      if (!found.has(node)) found.set(node, other);
    if (![...found.values()].some(node => node.isFixed)) continue;
    changed = true;
    const chosen = cheapest(graph, found);
    const skipped = new Set([...chosen].flatMap(node => found.get(node)!.inner ?? []));
    const deferred = deferrable(chosen, found);
    const { nodes } = graph;
    graph.nodes = [];
    const g = new Builder(graph, { names, opsets: model.opsetImports });
    const blocks = new Blocks(g, deferred);
    for (const node of nodes) {
      if (skipped.has(node)) continue;
      if (chosen.has(node)) found.get(node)!.write(blocks);
      else if (!channelsLast(g, node, blocks.known(node.inputs[0]), block)) blocks.adopt(node);
    }
    for (const v of graph.outputs) blocks.plain(v);
    prune(graph);
  }
  if (changed) model.opsetImports = new Map([...model.opsetImports, [BLOCKED, 1]]);
  return changed;
}

/** Sums that a single node reads, which adds to them or clips them at 0: the convolution that ends it does so too. */
function deferrable(chosen: ReadonlySet<Node>, found: ReadonlyMap<Node, InBlocks>): Set<Value> {
  const images = [...chosen].flatMap(node => found.get(node)!.image ?? []);
  const isDeferrable = ({ uses: [use, more], outputOf }: Value) =>
    use && !more && !outputOf.length && chosen.has(use.node) && found.get(use.node)!.adds;
  return new Set(images.filter(isDeferrable));
}

/**
 * The nodes that are to be in blocks, by a cut of least cost: what reordering the images between nodes of different layouts
 * takes, and what nodes out of blocks do not gain.
 */
function cheapest(graph: Graph, found: ReadonlyMap<Node, InBlocks>): Set<Node> {
  const cut = new LeastCut();
  const items = new Map<Node, number>();
  const images = new Set<Value>();
  for (const [node, { isFixed, inner = [], reads, image, gain = 0 }] of found) {
    const item = isFixed ? cut.first : cut.item();
    for (const n of [node, ...inner]) items.set(n, item);
    for (const v of reads) images.add(v);
    if (image) images.add(image);
    if (gain) cut.edge(cut.first, item, gain * sizeOf(image ?? reads[0]!));
  }
  for (const v of images) {
    const from = (v.producer && items.get(v.producer)) ?? cut.second;
    const readers = new Set(
      v.readers
        .filter(reader => !isShape(reader))
        .map(reader => items.get(reader) ?? layoutIn(reader, v, graph, cut)),
    );
    if (v.outputOf.includes(graph)) readers.add(cut.second);
    const [toPlain, toBlocks] = [cut.item(), cut.item()];
    cut.edge(from, toPlain, sizeOf(v));
    cut.edge(toBlocks, from, sizeOf(v));
    for (const reader of readers) {
      cut.edge(toPlain, reader, Number.POSITIVE_INFINITY);
      cut.edge(reader, toBlocks, Number.POSITIVE_INFINITY);
    }
  }
  const blocked = cut.firstSide();
  return new Set([...found.keys()].filter(node => blocked.has(items.get(node)!)));
}

const sizeOf = (image: Value) => image.shape!.slice(1).reduce<number>((n, d) => n * (d as number), 1);

/** A node of a subgraph reads blocks if something beside it reorders the value. */
function layoutIn(reader: Node, v: Value, graph: Graph, cut: LeastCut): number {
  const isBlocked = reader.graph !== graph && v.readers.some(n => n.graph !== graph && isReorder(n));
  return isBlocked ? cut.first : cut.second;
}

/** Whether a convolution gains: of images, in float32. */
export function isFaster(node: Node, block: number): boolean {
  const [x, w] = node.inputs;
  if (node.opType !== 'Conv' || node.domain || x?.dtype !== 'float32') return false;
  const kernels = (w?.shape ?? []).map(d => (typeof d === 'number' ? d : 0));
  return gainsInBlocks(kernels, new Attributes(node).int('group', 1), block);
}

function convolution(node: Node, block: number): InBlocks {
  const [x, w, b] = node.inputs as [Value, Value, Value?];
  const [m, c] = w.shape as number[];
  const [y] = node.outputs as [Value];
  const isDepthwise = new Attributes(node).int('group', 1) > 1;
  const isBlocked = isDepthwise || c! % block === 0;
  const images = isBlocked ? (merged(x, block) ?? x) : undefined;
  const planes = isDepthwise ? merged(w, block) : undefined;
  return {
    isFixed: true,
    reads: [images, planes].filter(v => v && isImage(v, block)) as Value[],
    image: isImage(y, block) ? y : undefined,
    write(blocks) {
      const { g } = blocks;
      const as = (v: Value, from: Value) =>
        v === from ? blocks.of(v) : blocks.of(from).reshape(v.shape as number[]);
      const input = images ? as(x, images) : g.of(x);
      const kernel = planes ? as(w, planes) : kernelInBlocks(g.of(w), block);
      const convolve = (sum?: Expr, bias?: Expr, attrs = {}) =>
        blocks.emit(
          'Conv',
          [input, kernel, bias, sum],
          { ...Object.fromEntries(node.attrs), ...attrs },
          y.type,
        );
      blocks.put(y, { ready: [], convolutions: [convolve], biases: b ? [g.of(b)] : [] }, m);
    },
  };
}

/**
 * The images [N, C, H, W] of whole blocks that `v` holds as channels of a single one, or as kernels of N C channels: the
 * gradient of a depthwise kernel reads them so, and they are in blocks as they are.
 */
function merged(v: Value, block: number): Value | undefined {
  const node = v.producer;
  const from = node?.opType === 'Reshape' && node.domain === '' ? node.inputs[0]! : undefined;
  const [n, c, ...inner] = from?.shape ?? [];
  const isWhole = typeof n === 'number' && typeof c === 'number' && c % block === 0;
  const isMerged =
    isWhole &&
    v.shape?.every(d => typeof d === 'number') &&
    v.shape.includes(n * c) &&
    `${v.shape.slice(2)}` === `${inner}`;
  return isMerged ? from : undefined;
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
