/** Small models for tests. */
import type { DType } from '../src/graph/dtype.js';
import { Graph, Model, Node, type Shape, Value } from '../src/graph/ir.js';
import { Tensor } from '../src/graph/tensor.js';
import { type AttrInit, toAttrs } from '../src/ops/core/builder.js';
import { spread } from './ops/vjp.js';

/** A graph written down node by node: `add` returns the node's output. */
export class Sketch {
  readonly graph = new Graph('sketch');

  input(name: string, shape: Shape, dtype: DType = 'float32'): Value {
    const value = new Value(name, { kind: 'tensor', dtype, shape });
    this.graph.inputs.push(value);
    return value;
  }

  weight(name: string, data: readonly number[] | Tensor): Value {
    const tensor =
      data instanceof Tensor ? data : spread(data, [-0.5, 0.5], name.length + this.graph.initializers.size);
    const value = new Value(name, { kind: 'tensor', dtype: tensor.dtype, shape: tensor.dims });
    this.graph.initializers.set(value, tensor);
    return value;
  }

  add(opType: string, inputs: readonly (Value | null)[], output: string, attrs: AttrInit = {}): Value {
    const value = new Value(output);
    const node = new Node(opType, [...inputs], [value], toAttrs(attrs));
    node.name = `${output}_node`;
    this.graph.append(node);
    return value;
  }

  model(outputs: readonly Value[], opset = 18): Model {
    this.graph.outputs = [...outputs];
    const model = new Model(this.graph);
    model.opsetImports = new Map([['', opset]]);
    return model;
  }
}

/** x[batch,4] -> 8 tanh units -> logits[batch,3]. */
export function mlp(): Model {
  const s = new Sketch();
  const x = s.input('x', ['batch', 4]);
  const hidden = s.add('Gemm', [x, s.weight('fc1.weight', [4, 8]), s.weight('fc1.bias', [8])], 'h');
  const active = s.add('Tanh', [hidden], 'a');
  return s.model([
    s.add('Gemm', [active, s.weight('fc2.weight', [8, 3]), s.weight('fc2.bias', [3])], 'logits'),
  ]);
}

/** x[batch,4] -> batch normalization (-> Dropout) -> logits[batch,3]. */
export function normalized({ dropout = false } = {}): Model {
  const s = new Sketch();
  const x = s.input('x', ['batch', 4]);
  const h = s.add('Gemm', [x, s.weight('fc1.weight', [4, 8]), s.weight('fc1.bias', [8])], 'h');
  const [one, zero] = [1, 0].map(n => spread([8], [n, n + 0.5], 3));
  const stats = ['scale', 'bias', 'mean', 'var'].map((name, i) =>
    s.weight(`bn.${name}`, i % 2 ? zero! : one!),
  );
  const r = s.add('Relu', [s.add('BatchNormalization', [h, ...stats], 'y')], 'r');
  return s.model([
    s.add(
      'Gemm',
      [dropout ? s.add('Dropout', [r], 'd') : r, s.weight('fc2.weight', [8, 3]), s.weight('fc2.bias', [3])],
      'logits',
    ),
  ]);
}

/** `count` samples for `mlp`, whose class is the position of the largest of the first three features. */
export function mlpData(count: number, seed = 1): Map<string, Tensor> {
  const x = spread([count, 4], [-1, 1], seed);
  const values = x.numbers();
  const labels = Array.from({ length: count }, (_, i) => {
    const row = values.slice(4 * i, 4 * i + 3);
    return row.indexOf(Math.max(...row));
  });
  return new Map([
    ['x', x],
    ['target', Tensor.from('int64', [count], BigInt64Array.from(labels, BigInt))],
  ]);
}

/** All that comes, in its order. */
export async function collect<T>(from: AsyncIterable<T>): Promise<T[]> {
  const all: T[] = [];
  for await (const item of from) all.push(item);
  return all;
}
