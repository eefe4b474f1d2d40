/**
 * Writes lenet.onnx: LeNet-5 (LeCun et al. 1998) with ReLU and max-pooling for 28x28 digits, 44,426
 * parameters, untrained. Run after `npm run build`: node models/make-lenet.mjs
 */
import { writeFileSync } from 'node:fs';
import { encodeModel, Graph, Model, Node, Tensor, Value } from 'agd-onnx/ir';

const SEED = 1;

/** Uniform numbers in [0, 1) from the top 24 bits of a 32-bit Weyl sequence, mixed by MurmurHash3's finalizer. */
function uniform(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x9e3779b9) >>> 0;
    let x = state;
    x = Math.imul(x ^ (x >>> 16), 0x85ebca6b);
    x = Math.imul(x ^ (x >>> 13), 0xc2b2ae35);
    return ((x ^ (x >>> 16)) >>> 8) / 2 ** 24;
  };
}

/** Appends nodes one after the other; the weights are PyTorch's defaults: uniform in +-1/sqrt(fan-in). */
class Builder {
  constructor(graph, input) {
    this.graph = graph;
    this.last = input;
    this.random = uniform(SEED);
  }

  conv(name, channels, inChannels, size) {
    const parameters = this.parameters(name, [channels, inChannels, size, size]);
    return this.node('Conv', name, parameters, { kernel_shape: [size, size] });
  }

  relu(name) {
    return this.node('Relu', name);
  }

  pool(name) {
    return this.node('MaxPool', name, [], { kernel_shape: [2, 2], strides: [2, 2] });
  }

  flatten(name) {
    return this.node('Flatten', name);
  }

  linear(name, features, inFeatures) {
    return this.node('Gemm', name, this.parameters(name, [features, inFeatures]), { transB: 1 });
  }

  /** `<name>.weight` of shape `dims` and `<name>.bias` of its first extent. */
  parameters(name, dims) {
    const bound = 1 / Math.sqrt(dims.slice(1).reduce((a, b) => a * b));
    return [
      [`${name}.weight`, dims],
      [`${name}.bias`, [dims[0]]],
    ].map(([fullName, shape]) => {
      const value = new Value(fullName, { kind: 'tensor', dtype: 'float32', shape });
      const size = shape.reduce((a, b) => a * b);
      const data = Float32Array.from({ length: size }, () => bound * (2 * this.random() - 1));
      this.graph.initializers.set(value, Tensor.from('float32', shape, data));
      return value;
    });
  }

  node(opType, name, parameters = [], attributes = {}) {
    const attrs = new Map(
      Object.entries(attributes).map(([key, value]) => [
        key,
        { type: Array.isArray(value) ? 'ints' : 'int', value },
      ]),
    );
    const output = new Value(`${name}_output`);
    const node = new Node(opType, [this.last, ...parameters], [output], attrs);
    node.name = name;
    this.graph.append(node);
    this.last = output;
    return this;
  }

  end(name, shape) {
    this.last.name = name;
    this.last.type = { kind: 'tensor', dtype: 'float32', shape };
    this.graph.outputs = [this.last];
  }
}

const graph = new Graph('lenet');
const input = new Value('input', { kind: 'tensor', dtype: 'float32', shape: ['batch', 1, 28, 28] });
graph.inputs = [input];
new Builder(graph, input)
  .conv('conv1', 6, 1, 5)
  .relu('relu1')
  .pool('pool1')
  .conv('conv2', 16, 6, 5)
  .relu('relu2')
  .pool('pool2')
  .flatten('flatten')
  .linear('fc1', 120, 256)
  .relu('relu3')
  .linear('fc2', 84, 120)
  .relu('relu4')
  .linear('fc3', 10, 84)
  .end('logits', ['batch', 10]);

const model = new Model(graph);
model.irVersion = 8;
model.opsetImports.set('', 18);
model.producerName = 'agd-onnx';
writeFileSync(new URL('lenet.onnx', import.meta.url), encodeModel(model));
