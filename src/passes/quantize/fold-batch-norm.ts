import type { Graph, Model, Node } from '../../graph/ir.js';
import { Value } from '../../graph/ir.js';
import type { Names } from '../../graph/names.js';
import { Tensor } from '../../graph/tensor.js';
import { isAttachedNode } from '../normalize/attached.js';

/**
 * Merges each inference-mode BatchNormalization into the convolution or Gemm before it, as ONNX Runtime does when it
 * optimizes: W' = W gamma / sqrt(var + eps), b' = (b - mean) gamma / sqrt(var + eps) + beta. Those after something else,
 * or whose values are computed, stay.
 */
export function foldBatchNorm({ graph }: Model, names: Names): void {
  for (const norm of [...graph.nodes])
    if (norm.opType === 'BatchNormalization' && !isAttachedNode(norm)) fold(graph, names, norm);
}

function fold(graph: Graph, names: Names, norm: Node): void {
  const [x, ...parameters] = norm.inputs;
  const layer = x?.producer;
  const isOnly =
    x?.readers.length === 1 && !x.outputOf.length && norm.outputs.slice(1).every(v => !v?.isUsed);
  if (!layer || !isOnly || !/^(Conv|ConvTranspose|Gemm)$/.test(layer.opType) || layer.domain !== '') return;
  const [, weight, bias] = layer.inputs;
  const w = weight && graph.initializers.get(weight);
  const b = bias && graph.initializers.get(bias);
  const tensors = parameters.map(v => v && graph.initializers.get(v));
  if (w?.dtype !== 'float32' || (bias && !b) || tensors.some(t => t?.dtype !== 'float32')) return;
  if (layer.opType === 'Gemm' && !isPlainGemm(layer)) return;
  const [gamma, beta, mean, variance] = tensors.map(t => t!.numbers());
  const attr = norm.attrs.get('epsilon');
  const epsilon = attr?.type === 'float' ? attr.value : 1e-5;
  const factor = gamma!.map((g, c) => g / Math.sqrt(variance![c]! + epsilon));
  // One number of a Gemm's bias may count for all channels; rows of its own have no place in the folded one.
  const before = b?.numbers() ?? [0];
  const isPerChannel = b?.dims.at(-1) === factor.length && before.length === factor.length;
  if (!isPerChannel && before.length !== 1) return;
  const shift = factor.map((f, c) => (before[isPerChannel ? c : 0]! - mean![c]!) * f + beta![c]!);
  const channel = outputChannel(layer, w);
  const folded = w.numbers().map((value, i) => value * factor[channel(i)]!);
  const constant = (old: Value | null | undefined, hint: string, tensor: Tensor) => {
    const isShared = !old || old.readers.length > 1;
    const type = { kind: 'tensor', dtype: tensor.dtype, shape: tensor.dims } as const;
    const value = isShared ? new Value(names.fresh(hint)) : old;
    value.type = type;
    graph.initializers.set(value, tensor);
    return value;
  };
  layer.setInput(1, constant(weight, `${weight!.name}_folded`, Tensor.ofNumbers('float32', w.dims, folded)));
  const added = Tensor.ofNumbers('float32', [shift.length], shift);
  layer.setInput(2, constant(bias, `${weight!.name}_bias`, added));
  const [output] = norm.outputs;
  graph.remove([norm]);
  layer.setOutput(0, output!);
}

function isPlainGemm({ attrs }: Node): boolean {
  return ['alpha', 'beta'].every(name => {
    const attr = attrs.get(name);
    return attr?.type !== 'float' || attr.value === 1;
  });
}

/** The output channel of each element of a layer's weight. */
function outputChannel(layer: Node, { dims }: Tensor): (element: number) => number {
  const int = (name: string, otherwise: number) => {
    const attr = layer.attrs.get(name);
    return attr?.type === 'int' ? Number(attr.value) : otherwise;
  };
  const inner = dims.slice(1).reduce((n, d) => n * d, 1);
  if (layer.opType === 'Conv' || (layer.opType === 'Gemm' && int('transB', 0)))
    return i => Math.floor(i / inner);
  if (layer.opType === 'Gemm') return i => i % dims[1]!;
  // [in, out / group, ...kernel]
  const [inputs, perGroup] = [dims[0]!, dims[1]!];
  const kernel = inner / perGroup;
  const inGroup = inputs / int('group', 1);
  return i => {
    const group = Math.floor(Math.floor(i / inner) / inGroup);
    return group * perGroup + (Math.floor(i / kernel) % perGroup);
  };
}
