/** ONNX Runtime's own operators with quantized weights: gradients for the other operand and for scales. */
import { Tensor } from '../../graph/tensor.js';
import type { Expr } from '../core/expr.js';
import { expansion, normalizeAxis } from '../core/rule.js';

type NBits = readonly [
  a: Expr,
  b: Expr,
  scales: Expr,
  zeros: Expr | undefined,
  order: Expr | undefined,
  bias?: Expr,
];

/** y = a @ ((b - zero) * scale)^T + bias; b contains integers of a few bits, in blocks that share scale and zero. */
export const MatMulNBits = expansion<NBits>(node => {
  const [a, b, scales, zeros, order, bias] = node.inputs;
  const { attrs, g } = node;
  if (order) node.unsupported("'g_idx'");
  if (attrs.int('weight_prepacked', 0)) node.unsupported("'weight_prepacked'");
  const [n, k, size, bits] = ['N', 'K', 'block_size', 'bits'].map(name => attrs.int(name, 4)) as Four;
  const blocks = Math.ceil(k / size);
  const levels = unpacked(b, bits).reshape([n, blocks, size]).cast(a.dtype);
  const packedZero = (e: Expr) =>
    unpacked(e.reshape([n, -1]), bits)
      .reshape([n, -1])
      .slice([0], [blocks], [1])
      .cast(a.dtype);
  const zero = !zeros
    ? g.scalar(2 ** (bits - 1), a.dtype)
    : (zeros.dtype === 'uint8' ? packedZero(zeros) : zeros).reshape([n, blocks, 1]);
  const w = levels.sub(zero).mul(scales.reshape([n, blocks, 1]));
  const y = a.matmul(w.reshape([n, -1]).slice([0], [k], [1]).mT);
  return [bias ? y.add(bias) : y];
});

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

/** Unpacks numbers of `bits` bits from bytes, lowest bits first, along a new last axis. */
function unpacked(bytes: Expr, bits: number): Expr {
  const { g } = bytes;
  if (bits === 8) return bytes;
  const mask = g.scalar(2 ** bits - 1, 'uint8');
  const parts = Array.from({ length: 8 / bits }, (_, i) => {
    const shifted = bytes.op('BitShift', [g.scalar(i * bits, 'uint8')], { direction: 'RIGHT' });
    return shifted.op('BitwiseAnd', [mask]).unsqueeze([-1]);
  });
  return parts[0]!.concat(parts.slice(1), -1);
}

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
