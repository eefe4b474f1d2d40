/** DoRA: the weight keeps a direction, which an adapter changes, and has a magnitude for each output. */
import { dtypeCode, type FloatDType } from '../../graph/dtype.js';
import type { Value } from '../../graph/ir.js';
import { record } from '../../graph/record.js';
import { Tensor } from '../../graph/tensor.js';
import type { AttrInit } from '../../ops/core/builder.js';
import type { AdaptedLayer } from './adapted-layers.js';

/** Adds a node, and returns its output. */
export type Emit = (
  opType: string,
  inputs: readonly (Value | null)[],
  attrs?: AttrInit,
  other?: { output?: Value; domain?: string },
) => Value;

/** [outputs] each: the magnitudes, which train, and the sums of squares of the weight. */
export type Magnitudes = { magnitude: Value; squares: Value };

type Adapted = {
  layer: AdaptedLayer;
  /** What the layer returns. */
  base: Value;
  /** What it would read with dropout, if there is any. */
  dropped: Value | undefined;
  /** The product with the adapter, times `scale`. */
  delta: Value;
  a: Value;
  b: Value;
  scale: Value;
  compute: FloatDType;
};

type Graph = { emit: Emit; constant(hint: string, tensor: Tensor): Value; opset: number };

/** Positions of the bias among the inputs of operators. */
const BIAS = record<number>({ Gemm: 2, Conv: 2, MatMulNBits: 5 });

/** Floors the squares of norms, so that an output whose weights are all zero stays zero. */
const TINY = 1e-30;

/**
 * What is added to the layer's output y = x W + bias, so that it becomes m / |V| x V + bias with V = W + scale A B and |V|
 * the norms of its columns: (m / |V| - 1) (y - bias) + m / |V| x A B scale. Liu et al.: «DoRA: Weight-Decomposed Low-Rank
 * Adaptation» (arXiv:2402.09353), as PEFT computes it: with dropout, the first y is of the dropped x.
 *
 * The norms need no copy of the weight, in floating point or other: |V|^2 = |W|^2 + scale sum B (2 A^T W + scale A^T A B)
 * over the rank, and A^T W is the layer itself applied to A^T; of an embedding, whose columns are those of its table, it is the
 * product with the table.
 */
export function rescale(from: Adapted, magnitudes: Magnitudes, graph: Graph): { delta: Value; norm: Value } {
  const { layer, base, dropped, delta, compute } = from;
  const { emit, constant } = graph;
  const { node, kind, dtype } = layer;
  const cast = (x: Value, to: FloatDType) =>
    dtype === compute ? x : emit('Cast', [x], { to: dtypeCode(to) });
  /** The layer's product with something else. */
  const apply = (x: Value, attrs: AttrInit = Object.fromEntries(node.attrs)) => {
    const inputs = node.inputs.map((v, i) => (i === 0 ? cast(x, dtype) : i === BIAS[node.opType] ? null : v));
    while (!inputs.at(-1)) inputs.pop();
    if (kind === 'embedding') return cast(emit('MatMul', [cast(x, dtype), node.inputs[0]!]), compute);
    return cast(emit(node.opType, inputs, attrs, { domain: node.domain }), compute);
  };
  const perChannel = (x: Value) => {
    const shape = () => constant('lora_shape', Tensor.ints([1, -1, ...layer.kernel.map(() => 1)]));
    return kind === 'conv' ? emit('Reshape', [x, shape()]) : x;
  };
  const norm = normOf(from, magnitudes, graph, apply);
  const factor = perChannel(emit('Div', [magnitudes.magnitude, norm]));
  const less = emit('Sub', [factor, constant('lora_one', Tensor.filled(compute, [], 1))]);
  let product = dropped ? apply(dropped) : cast(base, compute);
  const bias = node.inputs[BIAS[node.opType] ?? -1];
  if (bias && !dropped) {
    const beta = node.attrs.get('beta');
    let added = cast(bias, compute);
    if (beta?.type === 'float' && beta.value !== 1)
      added = emit('Mul', [added, constant('lora_beta', Tensor.filled(compute, [], beta.value))]);
    product = emit('Sub', [product, perChannel(added)]);
  }
  return { delta: emit('Add', [emit('Mul', [delta, factor]), emit('Mul', [product, less])]), norm };
}

function normOf(
  { layer, a, b, scale, compute }: Adapted,
  { squares }: Magnitudes,
  { emit, constant, opset }: Graph,
  apply: (x: Value, attrs?: AttrInit) => Value,
): Value {
  const two = constant('lora_two', Tensor.filled(compute, [], 2));
  const isConv = layer.kind === 'conv';
  const matrix = (x: Value) =>
    isConv ? emit('Reshape', [x, constant('lora_shape', Tensor.ints([0, -1]))]) : x;
  // Kernels without strides and padding: each product covers all of them.
  const attrs = layer.node.attrs.has('kernel_shape') ? { kernel_shape: [...layer.kernel] } : {};
  // In training, what a MatMulNBits multiplies is not rounded to 8 bits: the norm that is exported is the same.
  const { accuracy_level: _, ...exact } = Object.fromEntries(layer.node.attrs);
  const rows = isConv ? a : emit('Transpose', [a], { perm: [1, 0] });
  const cross = isConv ? matrix(apply(a, attrs)) : apply(rows, exact);
  const gram = isConv ? matrix(emit('Conv', [a, a], attrs)) : emit('MatMul', [rows, a]);
  const right = isConv ? emit('Transpose', [matrix(b)], { perm: [1, 0] }) : b;
  const quadratic = emit('Mul', [emit('MatMul', [gram, right]), scale]);
  const sum = emit('Add', [emit('Mul', [cross, two]), quadratic]);
  const products = emit('Mul', [right, sum]);
  const change =
    opset >= 13
      ? emit('ReduceSum', [products, constant('lora_axes', Tensor.ints([0]))], { keepdims: 0 })
      : emit('ReduceSum', [products], { axes: [0], keepdims: 0 });
  const total = emit('Add', [squares, emit('Mul', [change, scale])]);
  const floor = constant('lora_tiny', Tensor.filled(compute, [], TINY));
  return emit('Sqrt', [emit('Max', [total, floor])]);
}
