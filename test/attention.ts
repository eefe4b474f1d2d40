/** A layer of attention in single operators, or as ONNX Runtime fuses it. */
import type { Model, Value } from '../src/graph/ir.js';
import { Tensor } from '../src/graph/tensor.js';
import { ints } from './ops/vjp.js';
import { Sketch } from './sample.js';

/** One layer of attention; the mask of later tokens is written out. */
export function attention(
  form: string,
  length: number,
  extra: (s: Sketch, x: Value) => Value = (_, x) => x,
): Model {
  const s = new Sketch();
  const ids = s.input('input_ids', ['batch', 'length'], 'int64');
  const x = extra(s, s.add('Gather', [s.weight('table', [10, 8]), ids], 'x'));
  const part = (name: string) => s.add('MatMul', [x, s.weight(`${name}.weight`, [8, 8])], name);
  const [q, k, v] = [part('q'), part('k'), part('v')];
  const later = Float32Array.from({ length: length * length }, (_, i) =>
    i % length > Math.floor(i / length) ? -1e9 : 0,
  );
  const causal = (dims: readonly number[]) => s.weight('causal', Tensor.from('float32', dims, later));
  const out = (y: Value) => s.model([s.add('MatMul', [y, s.weight('head.weight', [8, 10])], 'logits')]);
  if (form === 'com.microsoft') {
    const bias = causal([1, 1, length, length]);
    const y = s.add('MultiHeadAttention', [q, k, v, null, null, bias], 'y', { num_heads: 2 });
    y.producer!.domain = form;
    const model = out(y);
    model.opsetImports.set(form, 1);
    return model;
  }
  if (!form) {
    const scores = s.add('MatMul', [q, s.add('Transpose', [k], 'kt', { perm: [0, 2, 1] })], 'scores');
    const masked = s.add('Add', [scores, causal([length, length])], 'masked');
    return out(s.add('MatMul', [s.add('Softmax', [masked], 'weights', { axis: -1 }), v], 'y'));
  }
  const split = s.weight('split', ints([0, 0, 2, 4]));
  const turned = (y: Value, perm: readonly number[]) =>
    s.add('Transpose', [s.add('Reshape', [y, split], `${y.name}.split`)], `${y.name}.heads`, { perm });
  const scores = s.add('MatMul', [turned(q, [0, 2, 1, 3]), turned(k, [0, 2, 3, 1])], 'scores');
  const scaled = s.add('Mul', [scores, s.weight('scale', Tensor.filled('float32', [], 0.5))], 'scaled');
  const masked = s.add('Add', [scaled, causal([length, length])], 'masked');
  const y = s.add(
    'MatMul',
    [s.add('Softmax', [masked], 'weights', { axis: 3 }), turned(v, [0, 2, 1, 3])],
    'y',
  );
  const merged = s.add('Transpose', [y], 'merged', { perm: [0, 2, 1, 3] });
  return out(s.add('Reshape', [merged, s.weight('join', ints([0, 0, 8]))], 'joined'));
}
