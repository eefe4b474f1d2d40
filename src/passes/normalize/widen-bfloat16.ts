/** Converts models of bfloat16 to float32, as ONNX Runtime has few bfloat16 kernels on the CPU. */
import { dtypeCode } from '../../graph/dtype.js';
import { type Attr, allGraphs, type Model, type Value, type ValueType } from '../../graph/ir.js';
import { Tensor } from '../../graph/tensor.js';

/** The tensors of the file by those that were made of them. */
const narrow = new WeakMap<Tensor, Tensor>();

/** The bfloat16 tensor of the file that this one was widened from. */
export const beforeWidening = (tensor: Tensor): Tensor | undefined => narrow.get(tensor);

/**
 * Makes a model of bfloat16 one of float32: ONNX Runtime has few kernels of bfloat16 on the CPU, and its JavaScript
 * interface has no tensors of it. float32 holds each of its numbers. Returns whether there were any.
 */
export function widenBfloat16(model: Model): boolean {
  let changed = false;
  const seen = new Map<Tensor, Tensor>();
  const widen = (tensor: Tensor): Tensor => {
    if (tensor.dtype !== 'bfloat16') return tensor;
    changed = true;
    let wide = seen.get(tensor);
    if (!wide) {
      wide = new Tensor('float32', tensor.dims, () => widened(tensor.bytes));
      narrow.set(wide, tensor);
      seen.set(tensor, wide);
    }
    return wide;
  };
  const retype = (value: Value | null) => {
    const type = value?.type && withFloat(value.type);
    if (!type || type === value.type) return;
    value.type = type;
    changed = true;
  };
  for (const graph of allGraphs(model.graph)) {
    graph.inputs.forEach(retype);
    for (const [value, tensor] of graph.initializers) {
      retype(value);
      if (tensor.dtype === 'bfloat16') graph.initializers.set(value, widen(tensor));
    }
    graph.outputs.forEach(retype);
    graph.nodes.forEach(node => {
      node.outputs.forEach(retype);
      if (!node.attrs.size) return;
      for (const [name, attr] of node.attrs) {
        const next = wideAttr(name, attr, widen);
        if (next === attr) continue;
        node.setAttr(name, next);
        changed = true;
      }
    });
  }
  return changed;
}

function withFloat(type: ValueType): ValueType {
  if (type.kind === 'tensor') return type.dtype === 'bfloat16' ? { ...type, dtype: 'float32' } : type;
  if (type.kind === 'other') return type;
  const elem = withFloat(type.elem);
  return elem === type.elem ? type : { ...type, elem };
}

/** Attributes with the number of an element type. Numbers that came from a file are written back as they were: `extra` goes. */
const TYPES = ['to', 'dtype', 'output_dtype', 'stash_type'];

function wideAttr(name: string, attr: Attr, widen: (tensor: Tensor) => Tensor): Attr {
  if (attr.type === 'tensor') {
    const value = widen(attr.value);
    return value === attr.value ? attr : { ...attr, value };
  }
  const isType = attr.type === 'int' && TYPES.includes(name);
  return isType && Number(attr.value) === dtypeCode('bfloat16')
    ? { type: 'int', value: dtypeCode('float32') }
    : attr;
}

/** bfloat16 is the upper half of float32. */
function widened(bytes: Uint8Array): Uint8Array {
  const wide = new Uint8Array(2 * bytes.length);
  for (let i = 0; i < bytes.length; i += 2) {
    wide[2 * i + 2] = bytes[i]!;
    wide[2 * i + 3] = bytes[i + 1]!;
  }
  return wide;
}
