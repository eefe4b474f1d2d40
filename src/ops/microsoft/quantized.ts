/** ONNX Runtime's own operators with quantized weights: gradients for the other operand and for scales. */
import { Tensor } from '../../graph/tensor.js';
import type { Expr } from '../core/expr.js';
import { levelsIn, unpacked } from '../core/levels.js';
import { expansion, type NodeView, normalizeAxis, range } from '../core/rule.js';
import { loop } from '../core/scan.js';

type NBits = readonly [
  a: Expr,
  b: Expr,
  scales: Expr,
  zeros: Expr | undefined,
  order: Expr | undefined,
  bias?: Expr,
];

/**
 * y = a @ w^T + bias with w = (b - zero) * scale; b contains integers of a few bits, in blocks that share scale and zero.
 * While only a and bias change, the node stays, and da = dy @ w.
 */
export const MatMulNBits = expansion<NBits>(
  node => {
    const [a, , , , , bias] = node.inputs;
    const y = a.matmul(numbersOf(node, formOf(node).n)[0]!.mT);
    return [bias ? y.add(bias) : y];
  },
  undefined,
  {
    inputs: [0, 5],
    rule: ([dy], node) => {
      const bias = node.inputs[5];
      return [() => timesRows(dy, node), null, null, null, null, bias ? () => dy.sumTo(bias) : null];
    },
  },
);

/** Extents of the weight: rows, columns, blocks in a row, and numbers in a block. Throws for forms without a gradient. */
function formOf(node: NodeView<NBits>) {
  const { attrs } = node;
  if (attrs.int('weight_prepacked', 0)) node.unsupported("'weight_prepacked'");
  // In other forms with an order of columns, the kernel ignores zero points or there is none.
  if (node.inputs[4] && (node.inputs[3] || attrs.int('bits', 4) !== 4))
    node.unsupported("'g_idx' and zero points, or other than 4 bits");
  const [n, k, size, bits] = ['N', 'K', 'block_size', 'bits'].map(name => attrs.int(name, 4)) as Four;
  return { n, k, size, bits, blocks: Math.ceil(k / size) };
}

/**
 * The numbers [rows, k] that the weight stands for, or of the rows that `cut` takes of what has one entry for each. With
 * as many parts as a byte has numbers, they are apart, [rows, k / parts]: the first of each byte, the second, and so on.
 */
function numbersOf(node: NodeView<NBits>, rows: number, cut = (byRow: Expr) => byRow, parts = 1): Expr[] {
  const [a, b, scales, zeros, order] = node.inputs;
  const { n, k, size, bits, blocks } = formOf(node);
  const bytes = cut(b);
  const width = size / parts;
  const packed = parts === 1 ? [unpacked(bytes, bits)] : levelsIn(bytes, bits);
  const levels = packed.map(part => part.reshape([rows, blocks, width]).cast(a.dtype));
  const { g } = bytes;
  const flat = (e: Expr) => {
    const whole = e.reshape([rows, blocks * width]);
    return k % size ? whole.slice([0], [k], [1]) : whole;
  };
  if (order) {
    const byColumn = cut(scales.reshape([n, blocks])).gather(g.of(order.value).slice([0], [k], [0]), 1);
    return levels.map(e => flat(e.sub(2 ** (bits - 1))).mul(byColumn));
  }
  const padded = (Math.ceil((blocks * bits) / 8) * 8) / bits;
  const packedZero = (e: Expr) =>
    unpacked(e, bits).reshape([rows, padded]).slice([0], [blocks], [1]).cast(a.dtype);
  const byRow = zeros && cut(zeros.reshape([n, -1]));
  const zero = !byRow
    ? g.scalar(2 ** (bits - 1), a.dtype)
    : (byRow.dtype === 'uint8' ? packedZero(byRow) : byRow).reshape([rows, blocks, 1]);
  const scale = cut(scales.reshape([n, blocks])).reshape([rows, blocks, 1]);
  return levels.map(e => flat(e.sub(zero).mul(scale)));
}

/** Numbers of the weight that are in memory at once. Each piece costs a GPU the launch of its kernels. */
const NUMBERS = { cpu: 2 ** 18, gpu: 2 ** 20 };

/** The largest divisor of a number up to `most`. */
function largestDivisor(of: number, most: number): number {
  let divisor = most;
  while (of % divisor) divisor--;
  return divisor;
}

/**
 * dy @ w, where w is dequantized some rows at a time while the graph runs: of a weight that depends on constants only, the
 * runtime would keep all of it as floating-point numbers from the creation of the session on.
 */
function timesRows(dy: Expr, node: NodeView<NBits>): Expr {
  const { g, inputs } = node;
  const { n, k, size, bits } = formOf(node);
  const isOnGpu = g.provider === 'cuda';
  const numbers = isOnGpu ? NUMBERS.gpu : NUMBERS.cpu;
  const most = Math.min(n, Math.max(1, Math.floor(numbers / k)));
  const rows = isOnGpu ? largestDivisor(n, most) : most;
  // A constant of its own: one that kernels of a GPU read too would be copied there at each step.
  const times = Tensor.filled('int64', [], Math.ceil(n / rows));
  const [count] = g.emit(
    'Constant',
    [],
    { value: times },
    { types: [{ kind: 'tensor', dtype: 'int64', shape: [] }] },
  ) as [Expr];
  const [a, , , , order] = inputs;
  // Numbers that share bytes are multiplied apart, as putting them in order would copy the weight; dy @ w is smaller.
  const parts = order || k % size ? 1 : 8 / bits;
  const width = k / parts;
  const start =
    parts === 1 ? a.zeros() : g.scalar(0, a.dtype).expand(g.vector([a.dims(0, a.rank - 1), width]));
  const type = { ...a.type, shape: a.shape && [...a.shape.slice(0, -1), width] };
  const { states } = loop(g, count, Array(parts).fill({ start, type }), (b, i, sums) => {
    const from = i.mul(rows).reshape([1]);
    const index = isOnGpu ? from.add(b.ints(range(0, rows))) : undefined;
    // A GPU waits for the CPU at a Slice whose ends are computed. Elsewhere the last rows may be fewer: slices end where the
    // tensor does.
    const part = (e: Expr, axis: number) => {
      const all = b.of(e.value);
      return index ? all.gather(index, axis) : all.slice(from, from.add(rows), [axis]);
    };
    const [cotangent, w] = [part(dy, -1), numbersOf(node, -1, e => part(e, 0), parts)];
    return sums.map((sum, p) => sum.add(cotangent.matmul(w[p]!)));
  });
  if (parts === 1) return states[0]!;
  const [first, ...others] = states.map(e => e.unsqueeze([-1]));
  return first!.concat(others, -1).reshapeLike(a);
}

/**
 * y = (data[indices] - zero) * scale along `gather_axis`; data contains integers in blocks along `quantize_axis`; 4-bit
 * ones in uint8 are packed two to a byte.
 */
export const GatherBlockQuantized = expansion<
  readonly [data: Expr, indices: Expr, scales: Expr, zeros?: Expr]
>(node => {
  const [data, indices, scales, zeros] = node.inputs;
  const { attrs, g } = node;
  const bits = attrs.int('bits', 4);
  const gatherAxis = normalizeAxis(attrs.int('gather_axis', 0), data);
  const axis = normalizeAxis(attrs.int('quantize_axis', 1), data);
  if (axis === gatherAxis) node.unsupported("'quantize_axis' that is 'gather_axis'");
  const isPacked = data.dtype === 'uint8' && bits < 8;
  const picked = (e: Expr) => {
    const rows = (e.dtype === 'int4' ? e.cast('int8') : e.dtype === 'uint4' ? e.cast('uint8') : e).gather(
      indices,
      gatherAxis,
    );
    if (!isPacked || e.dtype !== 'uint8') return rows;
    const parts = unpacked(rows, bits);
    return parts.reshape(g.vector([rows.dims(0, rows.rank - 1), -1]));
  };
  const at = axis > gatherAxis ? axis + indices.rank - 1 : axis;
  const levels = picked(data).cast(scales.dtype);
  const block = levels
    .dims(at, at + 1)
    .iota()
    .div(attrs.int('block_size', 128));
  const spread = (e: Expr) => e.gather(block, at);
  const zero = zeros
    ? spread(picked(zeros).cast(scales.dtype))
    : g.scalar(data.dtype === 'uint8' ? 2 ** (bits - 1) : 0, scales.dtype);
  return [levels.sub(zero).mul(spread(scales.gather(indices, gatherAxis)))];
});

type Four = [number, number, number, number];

/** The values of four bits, by `quant_type`: bitsandbytes' FP4, and NF4 of «QLoRA» (arXiv:2305.14314), appendix E. */
const BNB4: readonly (readonly number[])[] = [
  [1, -1].flatMap(sign => [0, 1 / 192, 2 / 3, 1, 1 / 3, 1 / 2, 1 / 6, 1 / 4].map(x => sign * x)),
  [
    -1, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
    -0.18477343022823334, -0.09105003625154495, 0, 0.07958029955625534, 0.16093020141124725,
    0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1,
  ],
];

/** y = a @ w^T, where w is table[b] * absmax; two numbers per byte, higher bits first. */
export const MatMulBnb4 = expansion<readonly [a: Expr, b: Expr, absmax: Expr]>(node => {
  const [a, b, absmax] = node.inputs;
  const { attrs, g } = node;
  const [n, k, size] = ['N', 'K', 'block_size'].map(name => attrs.int(name, 0)) as [number, number, number];
  // In this case the runtime's kernel deviates from the operator's definition.
  if (!attrs.int('transB', 1)) node.unsupported("'transB' 0");
  const values = BNB4[attrs.int('quant_type', 1)] ?? node.unsupported("this 'quant_type'");
  const table = g.tensor(Tensor.from('float32', [16], Float32Array.from(values))).cast(a.dtype);
  const halves = unpacked(b.reshape([-1]), 4)
    .slice([-1], [-3], [-1], [-1])
    .reshape([-1])
    .cast('int64');
  const scale = absmax.reshape([-1, 1]).expand([1, size]).reshape([-1]);
  const first = (e: Expr) => e.slice([0], [n * k], [0]);
  const w = table.gather(first(halves)).mul(first(scale)).reshape([n, k]);
  return [a.matmul(w.mT)];
});
