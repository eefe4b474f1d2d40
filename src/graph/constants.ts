import type { Attr, Node } from './ir.js';
import { Tensor } from './tensor.js';

/** Tensors made from attributes that are not stored as tensors: one per attribute, so that its identity is stable. */
const made = new WeakMap<Attr, Tensor>();

/** The contents of a Constant node (a tensor or floating-point numbers) and the attribute that stores them. */
export function constantOf({ opType, domain, attrs }: Node): { key: string; tensor: Tensor } | undefined {
  if (opType !== 'Constant' || domain !== '') return undefined;
  const value = attrs.get('value');
  if (value?.type === 'tensor') return { key: 'value', tensor: value.value };
  for (const key of ['value_floats', 'value_float']) {
    const attr = attrs.get(key);
    if (attr?.type !== 'floats' && attr?.type !== 'float') continue;
    let tensor = made.get(attr);
    if (!tensor) {
      const numbers = attr.type === 'floats' ? attr.value : [attr.value];
      const dims = attr.type === 'floats' ? [numbers.length] : [];
      tensor = Tensor.from('float32', dims, Float32Array.from(numbers));
      made.set(attr, tensor);
    }
    return { key, tensor };
  }
  return undefined;
}
