/** The models of the GPU benchmark, with random weights, and a batch for each; `tiny` ones have the same operators. */
import { Graph, Model, Node, Tensor, toAttrs, Value } from '../../dist/node/ir.js';

/** A graph in the making: `op` adds a node and returns its first output. */
class Net {
  graph = new Graph('net');
  #state = 1;
  #count = 0;

  random() {
    this.#state = (Math.imul(this.#state, 1664525) + 1013904223) >>> 0;
    return this.#state / 2 ** 31 - 1;
  }

  input(name, shape, dtype = 'float32') {
    const value = new Value(name, { kind: 'tensor', dtype, shape });
    this.graph.inputs.push(value);
    return value;
  }

  constant(tensor, name = `c${this.#count++}`) {
    const value = new Value(name, { kind: 'tensor', dtype: tensor.dtype, shape: tensor.dims });
    this.graph.initializers.set(value, tensor);
    return value;
  }

  ints = values => this.constant(Tensor.from('int64', [values.length], BigInt64Array.from(values, BigInt)));
  scalar = value => this.constant(Tensor.filled('float32', [], value));
  filled = (name, dims, value) => this.constant(Tensor.filled('float32', dims, value), name);

  /** Uniform numbers below `scale`. */
  weight(name, dims, scale) {
    const size = dims.reduce((n, d) => n * d, 1);
    const data = Float32Array.from({ length: size }, () => this.random() * scale);
    return this.constant(Tensor.from('float32', dims, data), name);
  }

  op(opType, inputs, attrs = {}, outputs = 1) {
    const values = Array.from({ length: outputs }, () => new Value(`v${this.#count++}`));
    this.graph.append(new Node(opType, inputs, values, toAttrs(attrs)));
    return outputs === 1 ? values[0] : values;
  }

  linear(x, name, from, to) {
    const product = this.op('MatMul', [x, this.weight(`${name}.weight`, [from, to], from ** -0.5)]);
    return this.op('Add', [product, this.filled(`${name}.bias`, [to], 0)]);
  }

  model(output) {
    output.name = 'output';
    this.graph.addOutputs(output);
    return Object.assign(new Model(this.graph), { irVersion: 8, opsetImports: new Map([['', 18]]) });
  }
}

function mlp({ widths }) {
  const net = new Net();
  let x = net.input('x', ['batch', widths[0]]);
  for (let i = 1; i < widths.length; i++) {
    x = net.linear(x, `fc${i}`, widths[i - 1], widths[i]);
    if (i < widths.length - 1) x = net.op('Relu', [x]);
  }
  return net.model(x);
}

function convolution(net, x, name, [from, to], kernel, stride = 1) {
  const pad = (kernel - 1) >> 1;
  const scale = (from * kernel * kernel) ** -0.5;
  const weight = net.weight(`${name}.weight`, [to, from, kernel, kernel], scale);
  const y = net.op('Conv', [x, weight], {
    kernel_shape: [kernel, kernel],
    pads: [pad, pad, pad, pad],
    strides: [stride, stride],
  });
  const [one, zero] = [1, 0].map(value => i => net.filled(`${name}.bn.${i}`, [to], value));
  return net.op('BatchNormalization', [y, one('weight'), zero('bias'), zero('mean'), one('var')]);
}

/** ResNet-50 for `stages` of [width, blocks] with bottlenecks; ResNet-20 without them, and with a stem for small images. */
function resnet({ stages, stem, bottleneck, classes, size }) {
  const net = new Net();
  const relu = x => net.op('Relu', [x]);
  let x = relu(
    convolution(
      net,
      net.input('x', ['batch', 3, size, size]),
      'stem',
      [3, stem],
      bottleneck ? 7 : 3,
      bottleneck ? 2 : 1,
    ),
  );
  if (bottleneck) x = net.op('MaxPool', [x], { kernel_shape: [3, 3], pads: [1, 1, 1, 1], strides: [2, 2] });
  let c = stem;
  for (const [stage, [width, blocks]] of stages.entries())
    for (let i = 0; i < blocks; i++) {
      const name = `s${stage}.${i}`;
      const stride = stage > 0 && i === 0 ? 2 : 1;
      const to = bottleneck ? 4 * width : width;
      let y = x;
      if (bottleneck) {
        y = relu(convolution(net, y, `${name}.a`, [c, width], 1));
        y = relu(convolution(net, y, `${name}.b`, [width, width], 3, stride));
        y = convolution(net, y, `${name}.c`, [width, to], 1);
      } else {
        y = relu(convolution(net, y, `${name}.a`, [c, width], 3, stride));
        y = convolution(net, y, `${name}.b`, [width, width], 3);
      }
      const short = c === to && stride === 1 ? x : convolution(net, x, `${name}.short`, [c, to], 1, stride);
      x = relu(net.op('Add', [y, short]));
      c = to;
    }
  const pooled = net.op('Flatten', [net.op('GlobalAveragePool', [x])]);
  return net.model(net.linear(pooled, 'fc', c, classes));
}

/** GPT-2: normalized before its parts, with tied embeddings. */
function gpt({ words, width, layers, heads, length }) {
  const net = new Net();
  const tokens = net.input('x', ['batch', length], 'int64');
  const embedding = net.weight('wte', [words, width], 0.03);
  let x = net.op('Add', [net.op('Gather', [embedding, tokens]), net.weight('wpe', [length, width], 0.03)]);
  const mask = Float32Array.from({ length: length ** 2 }, (_, i) =>
    i % length > Math.floor(i / length) ? -1e4 : 0,
  );
  const causal = net.constant(Tensor.from('float32', [1, 1, length, length], mask));
  const [split, join, third] = [
    [0, 0, heads, width / heads],
    [0, 0, width],
    [width, width, width],
  ].map(net.ints);
  const [scale, half, one, root] = [(width / heads) ** -0.5, 0.5, 1, Math.SQRT1_2].map(net.scalar);
  const normalized = (y, name) =>
    net.op('LayerNormalization', [
      y,
      net.filled(`${name}.weight`, [width], 1),
      net.filled(`${name}.bias`, [width], 0),
    ]);
  for (let i = 0; i < layers; i++) {
    const name = `h${i}`;
    const parts = net.op(
      'Split',
      [net.linear(normalized(x, `${name}.ln1`), `${name}.qkv`, width, 3 * width), third],
      { axis: 2 },
      3,
    );
    const [q, k, v] = parts.map((part, j) =>
      net.op('Transpose', [net.op('Reshape', [part, split])], {
        perm: j === 1 ? [0, 2, 3, 1] : [0, 2, 1, 3],
      }),
    );
    const scores = net.op('Add', [net.op('Mul', [net.op('MatMul', [q, k]), scale]), causal]);
    const mixed = net.op('MatMul', [net.op('Softmax', [scores], { axis: -1 }), v]);
    const joined = net.op('Reshape', [net.op('Transpose', [mixed], { perm: [0, 2, 1, 3] }), join]);
    x = net.op('Add', [x, net.linear(joined, `${name}.proj`, width, width)]);
    const h = net.linear(normalized(x, `${name}.ln2`), `${name}.fc`, width, 4 * width);
    const erf = net.op('Add', [net.op('Erf', [net.op('Mul', [h, root])]), one]);
    const active = net.op('Mul', [net.op('Mul', [h, half]), erf]);
    x = net.op('Add', [x, net.linear(active, `${name}.out`, 4 * width, width)]);
  }
  const head = net.op('Transpose', [embedding], { perm: [1, 0] });
  return net.model(net.op('MatMul', [normalized(x, 'ln'), head]));
}

/** Deep & Cross: embeddings of categories, three cross layers, two dense ones. */
function dcn({ tables, rows, width, dense, hidden }) {
  const net = new Net();
  const [ids, x] = [net.input('x', ['batch', tables], 'int64'), net.input('x1', ['batch', dense])];
  const looked = Array.from({ length: tables }, (_, i) => {
    const column = net.op(
      'Gather',
      [ids, net.constant(Tensor.from('int64', [], BigInt64Array.of(BigInt(i))))],
      { axis: 1 },
    );
    return net.op('Gather', [net.weight(`e${i}`, [rows, width], 1), column]);
  });
  const size = tables * width + dense;
  const x0 = net.op('Concat', [...looked, x], { axis: 1 });
  let crossed = x0;
  for (let i = 0; i < 3; i++) {
    const product = net.op('MatMul', [crossed, net.weight(`w${i}`, [size, 1], size ** -0.5)]);
    const sum = net.op('Add', [net.op('Mul', [x0, product]), net.filled(`b${i}`, [size], 0)]);
    crossed = net.op('Add', [sum, crossed]);
  }
  let deep = x0;
  for (const [i, to] of hidden.entries())
    deep = net.op('Relu', [net.linear(deep, `m${i}`, i ? hidden[i - 1] : size, to)]);
  const both = net.op('Concat', [crossed, deep], { axis: 1 });
  const logit = net.linear(both, 'o', size + hidden.at(-1), 1);
  return net.model(net.op('Squeeze', [logit, net.ints([1])]));
}

const STAGES_50 = [
  [64, 3],
  [128, 4],
  [256, 6],
  [512, 3],
];
const STAGES_20 = [
  [16, 3],
  [32, 3],
  [64, 3],
];
const image = ({ size, classes }) => ({ x: [[3, size, size]], target: [[], classes] });
const text = ({ words, length }) => ({ x: [[length], words], target: [[length], words] });

/** `inputs`: dims of a sample, and the number of classes of integers; `sizes` are read by PyTorch's models too. */
const KINDS = {
  mlp: {
    make: mlp,
    inputs: ({ widths }) => ({ x: [[widths[0]]], target: [[], widths.at(-1)] }),
    loss: 'cross-entropy',
  },
  resnet: { make: resnet, inputs: image, loss: 'cross-entropy' },
  gpt: { make: gpt, inputs: text, loss: 'cross-entropy' },
  dcn: {
    make: dcn,
    inputs: ({ tables, rows, dense }) => ({ x: [[tables], rows], x1: [[dense]], target: [[]] }),
    loss: 'bce-with-logits',
  },
};

export const WORKLOADS = [
  {
    name: 'mlp',
    title: 'MLP 784-512-512-10, batch 128',
    kind: 'mlp',
    batch: 128,
    sizes: { widths: [784, 512, 512, 10] },
    tiny: { widths: [16, 8, 4] },
  },
  {
    name: 'gpt2',
    title: 'GPT-2 small, 124 M, sequence 256, batch 4',
    kind: 'gpt',
    batch: 4,
    sizes: { words: 50_257, width: 768, layers: 12, heads: 12, length: 256 },
    tiny: { words: 50, width: 16, layers: 1, heads: 2, length: 8 },
  },
  {
    name: 'resnet50',
    title: 'ResNet-50, 224 x 224, batch 32',
    kind: 'resnet',
    batch: 32,
    sizes: { stages: STAGES_50, stem: 64, bottleneck: true, classes: 1000, size: 224 },
    tiny: {
      stages: [
        [4, 1],
        [8, 1],
      ],
      stem: 4,
      bottleneck: true,
      classes: 10,
      size: 16,
    },
  },
  {
    name: 'dcn',
    title: 'Deep & Cross, 26 tables of 100,000 x 8, batch 1024',
    kind: 'dcn',
    batch: 1024,
    sizes: { tables: 26, rows: 100_000, width: 8, dense: 13, hidden: [256, 128] },
    tiny: { tables: 3, rows: 20, width: 4, dense: 2, hidden: [8, 4] },
  },
];

/** Of one epoch each, on data that can be learned; LeNet is models/lenet.onnx. */
export const EPOCHS = {
  resnet20: {
    kind: 'resnet',
    sizes: { stages: STAGES_20, stem: 16, bottleneck: false, classes: 10, size: 32 },
    tiny: { stages: [[4, 1]], stem: 4, bottleneck: false, classes: 10, size: 8 },
  },
  gpt: {
    kind: 'gpt',
    sizes: { words: 256, width: 128, layers: 4, heads: 4, length: 128 },
    tiny: { words: 256, width: 16, layers: 1, heads: 2, length: 8 },
  },
};

/** The model, its loss, and a function that makes `steps` batches. */
export function build({ kind, sizes, tiny, batch }, isTiny) {
  const chosen = isTiny ? tiny : sizes;
  const samples = isTiny ? Math.min(batch ?? 4, 4) : batch;
  const { make, inputs, loss } = KINDS[kind];
  const net = new Net();
  const batches = steps =>
    Object.fromEntries(
      Object.entries(inputs(chosen)).map(([name, [dims, below]]) => {
        const shape = [steps, samples, ...dims];
        const length = shape.reduce((n, d) => n * d, 1);
        const unit = () => (net.random() + 1) / 2;
        return below === undefined
          ? [
              name,
              Tensor.from(
                'float32',
                shape,
                Float32Array.from({ length }, name === 'target' ? () => Math.round(unit()) : unit),
              ),
            ]
          : [
              name,
              Tensor.from(
                'int64',
                shape,
                BigInt64Array.from({ length }, () => BigInt(Math.floor(unit() * below))),
              ),
            ];
      }),
    );
  return { model: make(chosen), loss: { kind: loss }, batches, batch: samples, sizes: chosen };
}
