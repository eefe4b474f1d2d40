/** ONNX Runtime's attention on integers, with its product apart, so that adapters can be added to it. */
import { dtypeCode, isFloat } from '../../graph/dtype.js';
import { AgdError } from '../../graph/errors.js';
import { Node, Value } from '../../graph/ir.js';
import type { Names } from '../../graph/names.js';
import { Tensor } from '../../graph/tensor.js';
import { type AttrInit, toAttrs } from '../../ops/core/builder.js';
import { storedAt } from '../select/find-head.js';

/** The Mul that ends the product, and the features that are rounded for it. */
export type OpenedProduct = { node: Node; input: Value };

/**
 * Replaces a QAttention by the product of the same integers (MatMulInteger, Cast, Mul by both scales, Add of the bias) and
 * MultiHeadAttention of its thirds, which compute the same. Throws `unsupported-op` for forms that MultiHeadAttention lacks, and
 * if the graph does not have the features before they are rounded.
 */
export function openQAttention(node: Node, names: Names, opset: number): OpenedProduct {
  const graph = node.graph!;
  const [y, present] = node.outputs;
  const [x, weight, bias, scaleX, scaleW, mask, zeroX, zeroW, past] = node.inputs;
  const name = node.name || y!.name;
  const refuse = (why: string) =>
    new AgdError('unsupported-op', `No adapter for QAttention '${name}': ${why}.`);
  for (const attr of ['do_rotary', 'past_present_share_buffer']) {
    const set = node.attrs.get(attr);
    if (set?.type === 'int' && Number(set.value)) throw refuse(`${attr} is set`);
  }
  const rounding = x?.producer;
  const input = /^(Dynamic)?QuantizeLinear$/.test(rounding?.opType ?? '') && rounding?.inputs[0];
  if (!input)
    throw refuse('the graph does not compute the features that it multiplies before they are rounded');
  const dtype = storedAt(graph, scaleX!)?.tensor.dtype ?? scaleX!.dtype ?? 'float32';
  const made: Node[] = [];
  const emit = (
    opType: string,
    inputs: (Value | null)[],
    outputs: (Value | null)[] = [new Value(names.fresh(`${y!.name}_${opType.toLowerCase()}`))],
    attrs: AttrInit = {},
    domain = '',
  ): Value => {
    const each = new Node(opType, inputs, outputs, toAttrs(attrs));
    each.name = names.fresh(`${name}/${opType}`);
    each.domain = domain;
    made.push(each);
    return outputs[0]!;
  };
  const fresh = (hint: string) => new Value(names.fresh(`${y!.name}_${hint}`));
  const constant = (hint: string, tensor: Tensor) => {
    const value = new Value(names.fresh(hint), { kind: 'tensor', dtype: 'int64', shape: tensor.dims });
    graph.initializers.set(value, tensor);
    return value;
  };
  const integers = emit('MatMulInteger', [x!, weight!, zeroX ?? null, zeroW ?? null]);
  const cast = emit('Cast', [integers], undefined, { to: dtypeCode(isFloat(dtype) ? dtype : 'float32') });
  const product = emit('Mul', [cast, emit('Mul', [scaleX!, scaleW!])]);
  const mul = made.at(-1)!;
  const projected = bias ? emit('Add', [product, bias]) : product;
  const thirds = ['q', 'k', 'v'].map(fresh);
  const width = storedAt(graph, weight!)!.tensor.dims[1]! / 3;
  const sizes = [width, width, width];
  if (opset >= 13)
    emit('Split', [projected, constant('qkv_sizes', Tensor.ints(sizes))], thirds, { axis: -1 });
  else emit('Split', [projected], thirds, { axis: -1, split: sizes });
  const at = (i: number) =>
    past
      ? emit('Gather', [past, constant('past_index', Tensor.filled('int64', [], i))], undefined, { axis: 0 })
      : null;
  const [key, value] = [at(0), at(1)];
  const presents = present ? ['key', 'value'].map(fresh) : [];
  const { num_heads, unidirectional, mask_filter_value, scale } = Object.fromEntries(node.attrs);
  node.outputs = [];
  const inputs = [...thirds, null, mask ?? null, null, key, value];
  emit(
    'MultiHeadAttention',
    inputs,
    [y!, ...presents],
    { num_heads, unidirectional, mask_filter_value, scale },
    'com.microsoft',
  );
  if (present) {
    const axes = opset >= 13 ? constant('present_axis', Tensor.ints([0])) : undefined;
    const parts = presents.map(p =>
      axes ? emit('Unsqueeze', [p, axes]) : emit('Unsqueeze', [p], undefined, { axes: [0] }),
    );
    emit('Concat', parts, [present], { axis: 0 });
  }
  for (const each of made) graph.insertBefore(node, each);
  graph.remove([node]);
  return { node: mul, input };
}
