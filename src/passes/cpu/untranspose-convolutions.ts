import type { Model, Node, Value } from '../../graph/ir.js';
import { Tensor } from '../../graph/tensor.js';
import type { Builder } from '../../ops/core/builder.js';
import type { Expr } from '../../ops/core/expr.js';
import { Attributes } from '../../ops/core/rule.js';
import { convAttrs, flip, type Window } from '../../ops/core/window.js';
import { rewriteNodes } from '../common/rewrite-nodes.js';
import { BLOCKED, gainsInBlocks, kernelInBlocks } from './blocks.js';

/**
 * Computes what a ConvTranspose of stride 1 does as a convolution in NCHWc. ONNX Runtime's kernel has a product for each
 * sample, too small for several threads, and adds its columns up with a single one. The gradient of a convolution without
 * padding is such a node. Returns whether there was anything to change.
 */
export function untransposeConvolutions(model: Model, block: number, threads?: number): boolean {
  let isFolded = false;
  const changed = rewriteNodes(model, node => {
    const transposed = transposedOf(node);
    const windows = transposed && flippedOf(transposed);
    if (!windows) return [];
    const found = { ...transposed, windows };
    const [m, c, ...kernel] = found.kernels;
    if (gainsInBlocks([c, m, ...kernel], 1, block)) return [[node, g => padded(g, found).value]];
    if (threads === 1 || !gainsByRows(found, block)) return [];
    isFolded = true;
    return [[node, g => byRows(g, found, block).value]];
  });
  if (isFolded) model.opsetImports = new Map([...model.opsetImports, [BLOCKED, 1]]);
  return changed;
}

type Axis = Window & { begin: number; end: number };

/**
 * A ConvTranspose of images dy with kernels [M, C, height, width], and the windows over its result, where all extents but
 * the batch are known.
 */
export type Transposed = {
  dy: Value;
  w: Value;
  kernels: readonly [m: number, c: number, height: number, width: number];
  outer: readonly number[];
  inner: readonly number[];
  windows: readonly Axis[];
};

export function transposedOf(node: Node): Transposed | undefined {
  const [dy, w, bias] = node.inputs;
  if (node.opType !== 'ConvTranspose' || node.domain || dy?.dtype !== 'float32' || bias) return undefined;
  const kernels = w?.shape;
  const outer = dy.shape?.slice(2);
  if (kernels?.length !== 4 || !isKnown(kernels) || !outer || !isKnown(outer)) return undefined;
  const attrs = new Attributes(node);
  const isPlain = attrs.string('auto_pad', 'NOTSET') === 'NOTSET' && !attrs.ints('output_shape');
  if (!isPlain || attrs.int('group', 1) !== 1) return undefined;
  const pads = attrs.ints('pads') ?? [0, 0, 0, 0];
  const windows = kernels.slice(2).map((kernel, i) => ({
    kernel,
    stride: attrs.ints('strides')?.[i] ?? 1,
    dilation: attrs.ints('dilations')?.[i] ?? 1,
    begin: pads[i]!,
    end: pads[2 + i]!,
    surplus: attrs.ints('output_padding')?.[i] ?? 0,
  }));
  const inner = windows.map(
    ({ kernel, stride, dilation, begin, end, surplus }, i) =>
      (outer[i]! - 1) * stride + (kernel - 1) * dilation + 1 + surplus - begin - end,
  );
  return { dy, w: w!, kernels: kernels as [number, number, number, number], outer, inner, windows };
}

const isKnown = (shape: readonly unknown[]): shape is readonly number[] =>
  shape.every(d => typeof d === 'number' && d > 0);

/** Of a result with more pixels per pixel of dy, most products would be with zeros. */
const MOST_PIXELS = 4;

/** The padding of dy under the flipped kernel, at stride 1. */
function flippedOf(found: Transposed): Axis[] | undefined {
  const { inner, outer } = found;
  const windows = found.windows.map(v => {
    const margin = (v.kernel - 1) * v.dilation;
    return { ...v, begin: margin - v.begin, end: margin - v.end };
  });
  const isSparse = inner[0]! * inner[1]! > MOST_PIXELS * outer[0]! * outer[1]!;
  const isPadded = windows.every(v => v.stride === 1 && !v.surplus && v.begin >= 0 && v.end >= 0);
  return isPadded && !isSparse ? windows : undefined;
}

/** The convolution of dy with the flipped kernel. */
function padded(g: Builder, { dy, w, kernels: [, c], inner, windows }: Transposed): Expr {
  const type = { kind: 'tensor', dtype: 'float32', shape: [dy.shape![0]!, c, ...inner] } as const;
  return g.of(dy).op('Conv', [flip(g.of(w), 1)], convAttrs(windows), { types: [type] });
}

/** Each number of the result is a sum over as many rows, most of them zeros. */
const MOST_ROWS = 256;

/** With few channels, rows of a kernel fill blocks that the channels alone would leave mostly empty. */
function gainsByRows({ kernels: [m, c, height, width], outer }: Transposed, block: number): boolean {
  if (height * outer[0]! > MOST_ROWS) return false;
  const filled = (c * height) / (Math.ceil((c * height) / block) * block);
  return m % block === 0 && c < block && height > 1 && width > 1 && filled > 0.6;
}

/** One output for each channel and row of the kernel, and a product that moves the rows to their places and adds them up. */
function byRows(g: Builder, { dy, w, kernels, outer, inner, windows }: Transposed, block: number): Expr {
  const [m, c, height, width] = kernels;
  const [down, across] = windows as [Axis, Axis];
  const missing = (block - ((c * height) % block)) % block;
  const emit = (op: string, inputs: Expr[], attrs = {}) =>
    g.emit(op, inputs, attrs, { domain: BLOCKED, types: [{ kind: 'tensor', dtype: 'float32' }] })[0]!;
  const rows = g
    .of(w)
    .reshape([m, c * height * width])
    .transpose([1, 0])
    .reshape([c * height, width, m])
    .gather(g.ints(Array.from({ length: width }, (_, i) => width - 1 - i)), 1)
    .transpose([0, 2, 1])
    .pad(g.ints([0, missing]), g.ints([0]))
    .reshape([c * height + missing, m, 1, width]);
  const attrs = convAttrs([{ ...down, kernel: 1, begin: 0, end: 0 }, across]);
  const made = emit('Conv', [emit('ReorderInput', [g.of(dy)]), kernelInBlocks(rows, block)], attrs);
  // An element of dy in row y meets row k of the kernel at row y + k dilation - pads of the result.
  const places = new Float32Array(inner[0]! * height * outer[0]!);
  for (let k = 0; k < height; k++)
    for (let y = 0; y < outer[0]!; y++) {
      const row = y + (k - height + 1) * down.dilation + down.begin;
      if (row >= 0 && row < inner[0]!) places[(row * height + k) * outer[0]! + y] = 1;
    }
  const moves = g.tensor(Tensor.from('float32', [inner[0]!, height * outer[0]!], places), 'rows');
  return moves.matmul(
    emit('ReorderOutput', [made], { channels: c * height }).reshape([-1, c, height * outer[0]!, inner[1]!]),
  );
}
