/**
 * Training artifacts as ONNX Runtime's builder writes them, made by hand: x[4,1,6,6] -> Conv -> Relu -> MaxPool ->
 * times a frozen vector -> Gemm -> logits[4,3], with cross-entropy, gradients, and buffers that these are added up in.
 */
import { mkdtemp, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { saveModel } from '../../../src/graph/files.js';
import { Graph, Model, Node, type Shape, Value } from '../../../src/graph/ir.js';
import type { GraphExtra } from '../../../src/graph/proto/read.js';
import { Tensor } from '../../../src/graph/tensor.js';
import { type AttrInit, float, toAttrs } from '../../../src/ops/core/builder.js';
import type { Artifacts } from '../../../src/passes/import/lift-artifacts.js';
import { encodeCheckpoint } from '../../../src/runtime/formats/ort-checkpoint.js';
import { spread } from '../../ops/vjp.js';

const VALUES: Record<string, Tensor> = {
  'conv.weight': spread([2, 1, 3, 3], [-0.5, 0.5], 1),
  'conv.bias': spread([2], [-0.5, 0.5], 2),
  'fc.weight': spread([3, 8], [-0.5, 0.5], 3),
  'fc.bias': spread([3], [-0.5, 0.5], 4),
  scale: spread([8], [0.5, 1.5], 5),
};
const TRAINABLE = ['conv.weight', 'conv.bias', 'fc.weight', 'fc.bias'];

/** Four samples, and their classes. */
export const BATCH: Record<string, Tensor> = {
  x: spread([4, 1, 6, 6], [-1, 1], 6),
  labels: Tensor.from('int64', [4], BigInt64Array.of(2n, 0n, 1n, 2n)),
};

class Artifact {
  readonly graph = new Graph('artifact');
  readonly #values = new Map<string, Value>();

  value(name: string): Value {
    let value = this.#values.get(name);
    if (!value) {
      value = new Value(name);
      this.#values.set(name, value);
    }
    return value;
  }

  input(name: string, dtype: 'float32' | 'int64' | 'bool', shape: Shape): void {
    const value = this.value(name);
    value.type = { kind: 'tensor', dtype, shape };
    this.graph.inputs.push(value);
  }

  constant(name: string, tensor: Tensor): void {
    this.graph.initializers.set(this.value(name), tensor);
  }

  add(op: string, inputs: string, outputs: string, attrs: AttrInit = {}): void {
    const [domain, opType] = op.startsWith('ms.') ? ['com.microsoft', op.slice(3)] : ['', op];
    const values = (names: string) => names.split(' ').map(name => (name === '-' ? null : this.value(name)));
    const node = new Node(opType, values(inputs), values(outputs), toAttrs(attrs));
    node.domain = domain;
    this.graph.append(node);
  }

  model(outputs: readonly [name: string, dtype: 'float32' | 'bool', shape: Shape][]): Model {
    this.graph.outputs = outputs.map(([name, dtype, shape]) => {
      const value = this.value(name);
      value.type = { kind: 'tensor', dtype, shape };
      return value;
    });
    const model = new Model(this.graph);
    // Domains that no node is of are what the builder leaves behind.
    model.opsetImports = new Map([
      ['', 14],
      ['com.microsoft', 1],
      ['com.microsoft.nchwc', 1],
      ['ai.onnx.training', 1],
    ]);
    return model;
  }
}

const POOL = { kernel_shape: [2, 2], strides: [2, 2], pads: [0, 0, 0, 0] };
const CONV = { kernel_shape: [3, 3], strides: [1, 1], pads: [0, 0, 0, 0], dilations: [1, 1], group: 1 };
const LOSS: [string, 'float32', Shape] = ['onnx::loss::7', 'float32', []];

function forward(a: Artifact, indices: boolean): void {
  a.input('x', 'float32', [4, 1, 6, 6]);
  a.input('labels', 'int64', [4]);
  for (const [name, { dims }] of Object.entries(VALUES)) a.input(name, 'float32', dims);
  a.add('Conv', 'x conv.weight conv.bias', 'c', CONV);
  a.add('Relu', 'c', 'r');
  a.add('MaxPool', 'r', indices ? 'p p_mask' : 'p', POOL);
  a.constant('flat', Tensor.ints([-1, 8]));
  a.add('Reshape', 'p flat', 'f');
  a.add('Mul', 'f scale', 's');
  a.add('Gemm', 's fc.weight fc.bias', 'logits', { transB: 1 });
  a.add('SoftmaxCrossEntropyLoss', 'logits labels', 'onnx::loss::7 onnx::log_prob::8', { reduction: 'mean' });
}

/** The training model, the evaluation model, and the checkpoint's values, of which `scale` is frozen. */
export function artifacts(): Artifacts & { frozen: string[] } {
  const a = new Artifact();
  forward(a, true);
  for (const name of TRAINABLE) a.input(`${name}_grad.accumulation.buffer`, 'float32', VALUES[name]!.dims);
  a.input('lazy_reset_grad', 'bool', [1]);
  a.constant('onnx::loss::7_grad', Tensor.filled('float32', [], 1));
  a.add('ms.SoftmaxCrossEntropyLossGrad', 'onnx::loss::7_grad onnx::log_prob::8 labels', 'logits_grad', {
    reduction: 'mean',
  });
  a.constant('axes', Tensor.ints([0]));
  a.add('ReduceSum', 'logits_grad axes', 'dC', { keepdims: 0, noop_with_empty_axes: 0 });
  a.add('Identity', 'dC', 'fc.bias_grad');
  const product = { alpha: float(1), beta: float(0) };
  a.add('Gemm', 'logits_grad s', 'fc.weight_grad', { ...product, transA: 1 });
  a.add('Gemm', 'logits_grad fc.weight', 's_grad', product);
  a.add('Mul', 's_grad scale', 'f_grad');
  a.add('Shape', 'p', 'p_shape');
  a.add('Reshape', 'f_grad p_shape', 'p_grad');
  a.add('MaxPoolGrad', 'p_grad p_mask', 'r_grad', POOL);
  // The runtime of the artifacts cannot infer it.
  a.value('r_grad').type = { kind: 'tensor', dtype: 'float32', shape: [4, 2, 4, 4] };
  a.graph.extra = { rest: undefined, listed: ['r_grad'] } satisfies GraphExtra;
  a.add('ms.ReluGrad', 'r_grad r', 'c_grad');
  a.add('ms.ConvGrad', 'c_grad x conv.weight', '- conv.weight_grad conv.bias_grad', CONV);
  for (const name of TRAINABLE)
    a.add(
      'ms.InPlaceAccumulatorV2',
      `${name}_grad.accumulation.buffer ${name}_grad lazy_reset_grad`,
      `${name}_grad.accumulation.out`,
    );
  const flags = TRAINABLE.map(n => [`${n}_grad.accumulation.out`, 'bool', [1]] as [string, 'bool', Shape]);
  const training = a.model([LOSS, ...flags]);
  const e = new Artifact();
  forward(e, false);
  return {
    training,
    evaluation: e.model([LOSS]),
    values: new Map(Object.entries(VALUES)),
    frozen: ['scale'],
  };
}

/** A new folder with these artifacts, less those named. */
export async function artifactFolder(omit: string[] = []): Promise<string> {
  const { training, evaluation, values, frozen } = artifacts();
  const path = await mkdtemp(join(tmpdir(), 'agd-'));
  const isFrozen = ([name]: [string, Tensor]) => frozen.includes(name);
  const checkpoint = encodeCheckpoint({
    trainable: new Map([...values].filter(e => !isFrozen(e))),
    frozen: new Map([...values].filter(isFrozen)),
    optimizers: [],
    properties: new Map(),
  });
  if (!omit.includes('training')) await saveModel(training, join(path, 'training_model.onnx'));
  if (!omit.includes('evaluation')) await saveModel(evaluation!, join(path, 'eval_model.onnx'));
  if (!omit.includes('checkpoint')) await writeFile(join(path, 'checkpoint'), checkpoint);
  return path;
}
