import { equalBytes } from '../../graph/bytes.js';
import { Graph, type Model, type Node, type Value } from '../../graph/ir.js';
import { Names } from '../../graph/names.js';
import { Conv } from '../../ops/convolution.js';
import { Builder } from '../../ops/core/builder.js';
import type { Expr } from '../../ops/core/expr.js';
import { NodeView } from '../../ops/core/rule.js';
import { type Window, windowsOf } from '../../ops/core/window.js';
import { type Constant, rewriteNodes } from '../common/rewrite-nodes.js';
import { isFaster } from './block-channels.js';
import { BLOCKED } from './blocks.js';

/** Kernels of fewer columns leave most of the runtime's accumulators idle. */
const LEAST_COLUMNS = 3;
/** Of blocks of so many channels, the kernel of AVX-512, a single one keeps enough accumulators busy. */
const WIDE = 16;
/** Products per sample. Fewer cost less than the nodes. */
const LEAST_PRODUCTS = 2 ** 16;

/** A convolution of images, the gradient of its output, and the node that writes the gradient of its kernel. */
type Found = { conv: Node; dy: Value; last: Node };

/**
 * Computes gradients of kernels as convolutions in NCHWc: dw[m,c] is the convolution of the images of channel c of x, whose
 * channels are the samples, with those of dy as kernels. This copies x three times and dy twice, and once more each if they
 * are not in blocks yet; the file's products of columns or of shifts copy them three to nine times. With a batch of unknown
 * size, the run chooses the form. Returns whether there was anything to change.
 */
export function blockKernelGradients(model: Model, block: number): boolean {
  const names = Names.of(model);
  const conditions = new Map<Graph, Map<string, Expr>>();
  const changed = rewriteNodes(model, (node, constant) => {
    const found = isConvolution(node, block)
      ? gradientOf(node, new Builder(new Graph('written'), { names, opsets: model.opsetImports }), constant)
      : undefined;
    return found ? [[found.last, g => inEitherForm(g, found, block, conditions).value]] : [];
  });
  if (changed) model.opsetImports = new Map([...model.opsetImports, [BLOCKED, 1]]);
  return changed;
}

const isKnown = (shape: readonly unknown[] | undefined): shape is readonly number[] =>
  !!shape?.every(d => typeof d === 'number' && d > 0);

/** Whether this is a convolution of images in float32, in a single group, of extents, channels and samples that gain. */
function isConvolution(node: Node, block: number): boolean {
  const [x, w] = node.inputs;
  const outer = node.outputs[0]?.shape?.slice(2);
  if (node.opType !== 'Conv' || node.domain || x?.dtype !== 'float32' || x.shape?.length !== 4) return false;
  if (!isKnown(w?.shape) || !isKnown(x.shape.slice(1)) || !isKnown(outer) || x.shape[1] !== w.shape[1])
    return false;
  const [m, c, height, width] = w.shape as [number, number, number, number];
  const products = m * c * height * width * outer[0]! * outer[1]!;
  const [samples] = x.shape;
  return (
    m % block === 0 &&
    m >= (block < WIDE ? 2 : 1) * block &&
    width >= LEAST_COLUMNS &&
    products >= LEAST_PRODUCTS &&
    (typeof samples !== 'number' || (samples > 0 && samples % block === 0))
  );
}

const MOVES = new Set(['Reshape', 'Transpose', 'Gather', 'Pad', 'Slice', 'Concat']);

/** A value and those that it holds copies of. */
function sourcesOf(value: Value | null): Value[] {
  const sources: Value[] = [];
  for (let v = value; v; v = v.producer && MOVES.has(v.producer.opType) ? v.producer.inputs[0]! : null)
    sources.push(v);
  return sources;
}

/** What a value is moved to, or summed. */
const resultsOf = (value: Value, ops: ReadonlySet<string>): Value[] => [
  value,
  ...value.readers.flatMap(({ opType, outputs: [y] }) => (y && ops.has(opType) ? resultsOf(y, ops) : [])),
];
const SUMS = new Set(['ReduceSum', 'Reshape', 'Transpose']);

/** Where the graph has what the rule of the operator writes as the gradient of the kernel. */
function gradientOf(conv: Node, scratch: Builder, constant: Constant): Found | undefined {
  const [x, w] = conv.inputs as [Value, Value];
  const outer = `${conv.outputs[0]!.shape!.slice(1)}`;
  const products = new Set(
    resultsOf(x, MOVES)
      .flatMap(v => v.readers)
      .filter(reader => reader.opType === 'MatMul'),
  );
  for (const product of products) {
    const roots = resultsOf(product.outputs[0]!, SUMS).filter(v => `${v.shape}` === `${w.shape}`);
    const sources = roots.length ? new Set(product.inputs.flatMap(sourcesOf)) : [];
    for (const dy of sources) {
      if (dy.shape?.length !== 4 || `${dy.shape.slice(1)}` !== outer) continue;
      const nodes: Node[] = [];
      const { value } = scratch.into(nodes, () => asInFile(scratch, conv, dy));
      const last = roots.find(root => areSame(root, value, scratch, nodes, constant))?.producer;
      if (last) return { conv, dy, last };
    }
  }
  return undefined;
}

/** Whether a value is computed as another one is by these nodes, which are in no graph. */
function areSame(
  a: Value | null,
  b: Value | null,
  scratch: Builder,
  nodes: readonly Node[],
  constant: Constant,
): boolean {
  if (a === b) return true;
  if (!a || !b) return false;
  const written = nodes.find(node => node.outputs.includes(b));
  if (!written) {
    const [held, wanted] = [constant(a), scratch.constant(b)];
    const isSame = held && wanted && held.dtype === wanted.dtype && `${held.dims}` === `${wanted.dims}`;
    return !!isSame && equalBytes(held.bytes, wanted.bytes);
  }
  const node = a.producer;
  return (
    node?.opType === written.opType &&
    node.domain === written.domain &&
    textOf(node) === textOf(written) &&
    node.inputs.length === written.inputs.length &&
    node.inputs.every((value, i) => areSame(value, written.inputs[i]!, scratch, nodes, constant))
  );
}

/** The attributes, none of which is a tensor or a graph where they are compared. */
const textOf = (node: Node) =>
  [...node.attrs]
    .map(([name, attr]) => `${name}=${'value' in attr ? attr.value : ''}`)
    .sort()
    .join();

/** The gradient in blocks, or in the file's form where the batch of a run is not one that gains. */
function inEitherForm(
  g: Builder,
  found: Found,
  block: number,
  conditions: Map<Graph, Map<string, Expr>>,
): Expr {
  const [x, w] = found.conv.inputs as [Value, Value];
  const samples = x.shape![0];
  const groups = isUneven(found.conv, block) ? [2, 1] : [1];
  if (typeof samples === 'number')
    return inBlocks(g, found, block, groups.find(n => samples % (n * block) === 0)!);
  const known = conditions.get(g.graph) ?? new Map<string, Expr>();
  conditions.set(g.graph, known);
  const name = typeof samples === 'string' ? samples : x.name;
  const isWhole = (n: number) => {
    const key = `${name} ${n}`;
    if (!known.has(key))
      known.set(
        key,
        g
          .of(x)
          .dims(0, 1)
          .op('Mod', [g.ints([n])])
          .equal(0),
      );
    return known.get(key)!;
  };
  const wholes = groups.map(n => isWhole(n * block));
  const branch = (b: Builder, hint: string, write: (b: Builder) => Expr) => {
    const inner = b.subgraph(hint);
    inner.graph.outputs = [inner.rename(write(inner), `${w.name}_${hint}`)];
    return inner.graph;
  };
  const choose = (b: Builder, i: number): Expr => {
    if (i === groups.length) return asInFile(b, found.conv, found.dy);
    const branches = {
      then_branch: branch(b, 'in_blocks', inner => inBlocks(inner, found, block, groups[i]!)),
      else_branch: branch(b, 'in_products', inner => choose(inner, i + 1)),
    };
    return b.emit('If', [wholes[i]], branches, { types: [w.type] })[0]!;
  };
  return choose(g, 0);
}

/** Whether two threads would share the rows of the result unevenly: the runtime gives out whole rows of up to four blocks of kernels. */
function isUneven({ inputs: [, w] }: Node, block: number): boolean {
  const [m, c, height] = w!.shape as [number, number, number];
  const planes = c % block ? c : c / block;
  return m === block && (planes * height) % 2 === 1;
}

function asInFile(g: Builder, conv: Node, dy: Value): Expr {
  const gradient = Conv([g.of(dy)], new NodeView(conv, g, g.opset()) as never)[1] as () => Expr;
  return gradient();
}

/**
 * Strides and dilations of the convolution change places in that of its kernel. Groups of samples have convolutions of their own,
 * which are added up.
 */
function inBlocks(g: Builder, { conv, dy }: Found, block: number, groups: number): Expr {
  const [x, w] = conv.inputs.map(v => v && g.of(v)) as [Expr, Expr];
  const [m, c, ...kernel] = w.staticShape as [number, number, ...number[]];
  const [height, width] = x.shape!.slice(2) as [number, number];
  const outer = dy.shape!.slice(2) as [number, number];
  const pixels = outer[0] * outer[1];
  const emit = (op: string, inputs: Expr[], attrs = {}) =>
    g.emit(op, inputs, attrs, { domain: BLOCKED, types: [{ kind: 'tensor', dtype: 'float32' }] })[0]!;
  const [down, across] = windowsOf(new NodeView(conv, g, g.opset()), x, g.of(dy), kernel).map((v, i) =>
    placesOf(v, [height, width][i]!, outer[i]!),
  ) as [Places, Places];
  const reorder = (e: Expr, attrs = {}) => emit('ReorderInput', [e], attrs);
  // In blocks of channels, then of samples, and in these of channels: [M, N, ...outer].
  const kernels = reorder(
    outermost(reorder(g.of(dy)), m / block, pixels * block).reshape([-1, block, 1, pixels * block]),
    { channels_last: 1 },
  ).reshape([m * groups, -1, ...outer]);
  // Channels of x that are in blocks stay side by side in each row: one more axis beside the kernel's columns.
  const side = isFaster(conv, block) && c % block === 0 && across.dilation === 1 ? block : 1;
  const planes = c / side;
  const columns = (width + across.begin + across.end) * side;
  const padded = (images: Expr, outermost: (number | Expr)[]) => {
    const zeros = (n: number) =>
      n ? [g.scalar(0, 'float32').expand(g.vector([...outermost, height, n * side, block]))] : [];
    // The runtime computes several outputs of a row at once, but one by one where they reach into its own padding.
    const [first, ...rest] = [...zeros(across.begin), images, ...zeros(across.end)];
    return first!.concat(rest, 3);
  };
  const inPlanes = () => {
    const rows = [planes, -1, height, width * side];
    const apart = outermost(reorder(x), planes, height * width * side);
    const images = reorder(apart.reshape(rows)).reshape([...rows, block]);
    return padded(images, [planes, images.dims(1, 2)]);
  };
  const fromPlain = () => {
    const images = reorder(x.reshape([1, -1, c * height, width])).reshape([-1, c, height, width, block]);
    return outermost(padded(images, [images.dims(0, 1), c]), c, height * columns * block);
  };
  const images = (side > 1 ? inPlanes() : fromPlain()).reshape([planes, -1, height, columns]);
  const made = emit('Conv', [images, kernels], {
    kernel_shape: outer,
    strides: [down.dilation, across.dilation],
    dilations: [down.stride, across.stride * side],
    pads: [down.begin, 0, down.end, 0],
    group: groups,
  });
  const extents = [planes, m, down.count, across.count, side];
  const each = emit('ReorderOutput', [made], { channels: m * groups });
  const all =
    groups > 1 ? each.reshape([planes, groups, -1]).sum([1]).reshape(extents) : each.reshape(extents);
  const isExact = down.count === kernel[0] && across.count === kernel[1];
  const size = kernel[0]! * kernel[1]!;
  const last = (isExact ? all : all.slice([0, 0], kernel, [2, 3]))
    .reshape([planes, m, size * side])
    .transpose([1, 0, 2]);
  // [M, planes, size, side] to [M, C, size].
  const dw =
    side > 1 ? emit('ReorderOutput', [last.reshape([m * planes, side, size, 1])], { channels: side }) : last;
  return dw.reshape([m, c, ...kernel]);
}

/** Of parts of all samples, each of this size, those of one place side by side. The runtime copies where nothing moves. */
const outermost = (samples: Expr, parts: number, size: number): Expr =>
  parts === 1 ? samples : samples.reshape([-1, parts, size]).transpose([1, 0, 2]);

type Places = { begin: number; end: number; stride: number; dilation: number; count: number };

/** Along an axis: the padding of x, and the number of places of dy in it. Those after the last element of the kernel are not wanted. */
function placesOf({ kernel, stride, dilation, begin }: Window, inner: number, outer: number): Places {
  const reach = (outer - 1) * stride + 1;
  const end = Math.max(0, (kernel - 1) * dilation + reach - inner - begin!);
  const count = Math.floor((inner + begin! + end - reach) / dilation) + 1;
  return { begin: begin!, end, stride, dilation, count };
}
