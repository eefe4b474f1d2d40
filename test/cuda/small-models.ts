/** Small models of the kinds that are trained, with weights of no meaning: they show where nodes run. */
import type { Model, Shape, Value } from '../../src/graph/ir.js';
import { Tensor } from '../../src/graph/tensor.js';
import type { AttrInit } from '../../src/ops/core/builder.js';
import type { InjectOptions } from '../../src/passes/options.js';
import { attention } from '../attention.js';
import { decoder } from '../decoder.js';
import { ints } from '../ops/vjp.js';
import { mlp, Sketch } from '../sample.js';

class Layers extends Sketch {
  #count = 0;

  /** A node with an output of a name of its own. */
  on(opType: string, inputs: readonly (Value | null)[], attrs: AttrInit = {}): Value {
    return this.add(opType, inputs, `${opType}.${++this.#count}`, attrs);
  }
  w(dims: readonly number[]): Value {
    return this.weight(`w${++this.#count}`, dims);
  }
  list(...values: number[]): Value {
    return this.weight(`ints${++this.#count}`, ints(values));
  }
  number(value: number): Value {
    return this.weight(`number${++this.#count}`, Tensor.filled('float32', [], value));
  }
  conv(x: Value, dims: readonly number[], attrs: AttrInit = {}): Value {
    return this.on('Conv', [x, this.w(dims), this.w([dims[0]!])], { kernel_shape: dims.slice(2), ...attrs });
  }
  batchNorm(x: Value, channels: number): Value {
    const variance = this.weight(`var${++this.#count}`, Tensor.filled('float32', [channels], 1));
    const settings = [this.w([channels]), this.w([channels]), this.w([channels]), variance];
    return this.on('BatchNormalization', [x, ...settings]);
  }
  linear(x: Value, inner: number, outer: number): Value {
    return this.on('Add', [this.on('MatMul', [x, this.w([inner, outer])]), this.w([outer])]);
  }
  norm(x: Value, size: number): Value {
    return this.on('LayerNormalization', [x, this.w([size]), this.w([size])], { axis: -1 });
  }
  reshape(x: Value, ...extents: number[]): Value {
    return this.on('Reshape', [x, this.list(...extents)]);
  }
  turned(x: Value, ...perm: number[]): Value {
    return this.on('Transpose', [x], { perm });
  }
  /** Logits of three classes from the mean over positions. */
  head(x: Value, channels: number): Value {
    return this.classes(this.on('Flatten', [this.on('GlobalAveragePool', [x])]), channels);
  }
  classes(x: Value, size: number): Value {
    return this.on('Gemm', [x, this.w([size, 3]), this.w([3])]);
  }
  /** Two heads on [batch, length, 8]. */
  attention(x: Value, { bias, size = 8 }: { bias?: Value; size?: number } = {}): Value {
    const part = (...perm: number[]) =>
      this.turned(this.reshape(this.linear(x, size, size), 0, -1, 2, size / 2), ...perm);
    const scores = this.on('Mul', [
      this.on('MatMul', [part(0, 2, 1, 3), part(0, 2, 3, 1)]),
      this.number(0.5),
    ]);
    const weights = this.on('Softmax', [bias ? this.on('Add', [scores, bias]) : scores], { axis: -1 });
    const mixed = this.turned(this.on('MatMul', [weights, part(0, 2, 1, 3)]), 0, 2, 1, 3);
    return this.linear(this.reshape(mixed, 0, -1, size), size, size);
  }
  /** A layer of a transformer, which normalizes first. */
  block(x: Value, bias?: Value): Value {
    const y = this.on('Add', [x, this.attention(this.norm(x, 8), { ...(bias && { bias }) })]);
    const inner = this.on('Gelu', [this.linear(this.norm(y, 8), 8, 16)]);
    return this.on('Add', [y, this.linear(inner, 16, 8)]);
  }
  mean(x: Value, axis: number): Value {
    return this.on('ReduceMean', [x, this.list(axis)], { keepdims: 0 });
  }
}

type Small = {
  /** Extents of the input after the batch. */
  dims: readonly number[];
  layers: (s: Layers, x: Value) => Value;
  /** `mse` for outputs other than logits. */
  loss?: 'mse';
  /** Whether the input is of indices. */
  ids?: true;
};

const IMAGE = [4, 8, 8];
const same = { pads: [1, 1, 1, 1] };

const KINDS: Record<string, Small> = {
  'mobilenet-like': {
    dims: IMAGE,
    layers: (s, x) => {
      const cut = (y: Value) => s.on('Clip', [y, s.number(0), s.number(6)]);
      const y = cut(s.batchNorm(s.conv(x, [8, 4, 3, 3], { ...same, strides: [2, 2] }), 8));
      const deep = cut(s.batchNorm(s.conv(y, [8, 1, 3, 3], { ...same, group: 8 }), 8));
      return s.head(s.on('Add', [y, s.batchNorm(s.conv(deep, [8, 8, 1, 1]), 8)]), 8);
    },
  },
  'shufflenet-like': {
    dims: IMAGE,
    layers: (s, x) => {
      const y = s.reshape(s.conv(x, [8, 2, 1, 1], { group: 2 }), 0, 2, 4, 8, 8);
      const mixed = s.reshape(s.turned(y, 0, 2, 1, 3, 4), 0, 8, 8, 8);
      return s.head(s.on('Concat', [mixed, x], { axis: 1 }), 12);
    },
  },
  'efficientnet-like': {
    dims: IMAGE,
    layers: (s, x) => {
      const y = s.conv(x, [8, 4, 3, 3], same);
      const silu = s.on('Mul', [y, s.on('Sigmoid', [y])]);
      const gate = s.on('HardSigmoid', [s.conv(s.on('GlobalAveragePool', [silu]), [8, 8, 1, 1])]);
      return s.head(s.on('HardSwish', [s.on('Mul', [silu, gate])]), 8);
    },
  },
  'densenet-like': {
    dims: IMAGE,
    layers: (s, x) => {
      const y = s.on('Relu', [s.conv(x, [4, 4, 3, 3], same)]);
      const both = s.on('Concat', [x, y], { axis: 1 });
      return s.head(s.on('AveragePool', [both], { kernel_shape: [2, 2], strides: [2, 2] }), 8);
    },
  },
  'vgg-like': {
    dims: IMAGE,
    layers: (s, x) => {
      const y = s.on('Relu', [s.conv(x, [8, 4, 3, 3], same)]);
      const pooled = s.on('MaxPool', [y], { kernel_shape: [2, 2], strides: [2, 2] });
      const flat = s.on('Gemm', [s.on('Flatten', [pooled]), s.w([128, 8]), s.w([8])]);
      return s.classes(s.on('Dropout', [s.on('Relu', [flat])]), 8);
    },
  },
  'convnext-like': {
    dims: IMAGE,
    layers: (s, x) => {
      const y = s.conv(x, [4, 1, 7, 7], { pads: [3, 3, 3, 3], group: 4 });
      const inner = s.on('Gelu', [s.linear(s.norm(s.turned(y, 0, 2, 3, 1), 4), 4, 16)]);
      const scaled = s.on('Mul', [s.linear(inner, 16, 4), s.w([4])]);
      return s.head(s.on('Add', [x, s.turned(scaled, 0, 3, 1, 2)]), 4);
    },
  },
  'group norm': {
    dims: IMAGE,
    layers: (s, x) =>
      s.head(s.on('GroupNormalization', [s.conv(x, [8, 4, 3, 3]), s.w([8]), s.w([8])], { num_groups: 2 }), 8),
  },
  'instance norm': {
    dims: IMAGE,
    layers: (s, x) => {
      const y = s.on('InstanceNormalization', [s.conv(x, [8, 4, 3, 3]), s.w([8]), s.w([8])]);
      return s.head(s.on('LeakyRelu', [y]), 8);
    },
  },
  'unet-like, Resize': {
    dims: IMAGE,
    loss: 'mse',
    layers: (s, x) => {
      const down = s.on('MaxPool', [s.conv(x, [4, 4, 3, 3], same)], {
        kernel_shape: [2, 2],
        strides: [2, 2],
      });
      const scales = s.weight('scales', Tensor.ofNumbers('float32', [4], [1, 1, 2, 2]));
      const up = s.on('Resize', [s.conv(down, [4, 4, 3, 3], same), null, scales], { mode: 'nearest' });
      return s.conv(s.on('Concat', [x, up], { axis: 1 }), [2, 8, 3, 3], same);
    },
  },
  'unet-like, ConvTranspose': {
    dims: IMAGE,
    loss: 'mse',
    layers: (s, x) => {
      const down = s.on('Relu', [s.conv(x, [8, 4, 2, 2], { strides: [2, 2] })]);
      const attrs = { strides: [2, 2], kernel_shape: [2, 2] };
      const up = s.on('ConvTranspose', [down, s.w([8, 4, 2, 2]), s.w([4])], attrs);
      return s.conv(s.on('Concat', [x, up], { axis: 1 }), [2, 8, 1, 1]);
    },
  },
  'dilated segmentation': {
    dims: IMAGE,
    loss: 'mse',
    layers: (s, x) => {
      const y = s.conv(x, [4, 4, 3, 3], { pads: [2, 2, 2, 2], dilations: [2, 2] });
      const scales = s.weight('scales', Tensor.ofNumbers('float32', [4], [1, 1, 2, 2]));
      return s.on('Resize', [y, null, scales], { mode: 'linear' });
    },
  },
  'super-resolution': {
    dims: IMAGE,
    loss: 'mse',
    layers: (s, x) => {
      const y = s.on('PRelu', [s.conv(x, [8, 4, 3, 3], same), s.w([8, 1, 1])]);
      return s.on('DepthToSpace', [s.conv(y, [4, 8, 3, 3], same)], { blocksize: 2 });
    },
  },
  'vit-like': {
    dims: IMAGE,
    layers: (s, x) => {
      const patches = s.reshape(s.conv(x, [8, 4, 4, 4], { strides: [4, 4] }), 0, 8, 4);
      const y = s.block(s.on('Add', [s.turned(patches, 0, 2, 1), s.w([4, 8])]));
      return s.classes(s.mean(s.norm(y, 8), 1), 8);
    },
  },
  'swin-like': {
    dims: IMAGE,
    layers: (s, x) => {
      const patches = s.turned(s.conv(x, [8, 4, 2, 2], { strides: [2, 2] }), 0, 2, 3, 1);
      const windows = s.turned(s.reshape(patches, -1, 2, 2, 2, 2, 8), 0, 1, 3, 2, 4, 5);
      const y = s.block(s.reshape(windows, -1, 4, 8), s.w([2, 4, 4]));
      return s.classes(s.mean(s.reshape(y, -1, 16, 8), 1), 8);
    },
  },
  'mlp-mixer-like': {
    dims: [4, 8],
    layers: (s, x) => {
      const tokens = s.linear(s.turned(s.norm(x, 8), 0, 2, 1), 4, 4);
      const y = s.on('Add', [x, s.turned(s.on('Gelu', [tokens]), 0, 2, 1)]);
      return s.classes(s.mean(s.linear(s.norm(y, 8), 8, 8), 1), 8);
    },
  },
  'convolution, 1-d': {
    dims: [4, 16],
    layers: (s, x) => s.head(s.on('Relu', [s.conv(x, [8, 4, 3], { strides: [2] })]), 8),
  },
  'temporal convolution': {
    dims: [4, 16],
    layers: (s, x) => {
      const padded = s.on('Pad', [x, s.list(0, 0, 4, 0, 0, 0)]);
      return s.head(s.on('Add', [x, s.conv(padded, [4, 4, 3], { dilations: [2] })]), 4);
    },
  },
  'convolution, 3-d': {
    dims: [2, 4, 6, 6],
    layers: (s, x) => s.head(s.on('Relu', [s.batchNorm(s.conv(x, [4, 2, 3, 3, 3]), 4)]), 4),
  },
  'lstm, both directions': {
    dims: [6, 4],
    layers: (s, x) => {
      const cells = [s.w([2, 32, 4]), s.w([2, 32, 8]), s.w([2, 64])];
      const attrs = { hidden_size: 8, direction: 'bidirectional' };
      const y = s.on('LSTM', [s.turned(x, 1, 0, 2), ...cells], attrs);
      return s.classes(s.reshape(s.mean(y, 0), -1, 16), 16);
    },
  },
  gru: {
    dims: [6, 4],
    layers: (s, x) => {
      const cells = [s.w([1, 24, 4]), s.w([1, 24, 8]), s.w([1, 48])];
      const attrs = { hidden_size: 8, linear_before_reset: 1 };
      const y = s.on('GRU', [s.turned(x, 1, 0, 2), ...cells], attrs);
      return s.classes(s.reshape(s.mean(y, 0), -1, 8), 8);
    },
  },
  'bert-like': {
    dims: [6],
    ids: true,
    layers: (s, ids) => {
      const words = s.on('Gather', [s.w([20, 8]), ids]);
      const y = s.norm(s.on('Add', [words, s.w([6, 8])]), 8);
      const attended = s.norm(s.on('Add', [y, s.attention(y)]), 8);
      const inner = s.linear(s.on('Gelu', [s.linear(attended, 8, 16)]), 16, 8);
      const first = s.on(
        'Gather',
        [s.norm(s.on('Add', [attended, inner]), 8), s.weight('at', ints([0], []))],
        {
          axis: 1,
        },
      );
      return s.classes(s.on('Tanh', [s.linear(first, 8, 8)]), 8);
    },
  },
  'llama-like': {
    dims: [6],
    ids: true,
    layers: (s, ids) => {
      const x = s.on('Gather', [s.w([20, 8]), ids]);
      const rms = (y: Value) => {
        const square = s.on('ReduceMean', [s.on('Mul', [y, y]), s.list(-1)]);
        const root = s.on('Sqrt', [s.on('Add', [square, s.number(1e-5)])]);
        return s.on('Mul', [s.on('Div', [y, root]), s.w([8])]);
      };
      const later = Float32Array.from({ length: 36 }, (_, i) => (i % 6 > Math.floor(i / 6) ? -1e9 : 0));
      const bias = s.weight('causal', Tensor.from('float32', [6, 6], later));
      const y = s.on('Add', [x, s.attention(rms(x), { bias })]);
      const gate = s.linear(rms(y), 8, 16);
      const inner = s.on('Mul', [s.on('Mul', [gate, s.on('Sigmoid', [gate])]), s.linear(rms(y), 8, 16)]);
      return s.classes(s.mean(s.on('Add', [y, s.linear(inner, 16, 8)]), 1), 8);
    },
  },
  'einsum attention': {
    dims: [6, 8],
    layers: (s, x) => {
      const scores = s.on('Einsum', [s.linear(x, 8, 8), s.linear(x, 8, 8)], { equation: 'bqd,bkd->bqk' });
      const weights = s.on('Softmax', [scores], { axis: -1 });
      return s.classes(s.mean(s.on('Einsum', [weights, x], { equation: 'bqk,bkd->bqd' }), 1), 8);
    },
  },
  'dlrm-like': {
    dims: [3],
    ids: true,
    layers: (s, ids) => {
      const rows = [0, 1, 2].map(i => {
        const column = s.on('Gather', [ids, s.weight(`column${i}`, ints([i]))], { axis: 1 });
        return s.on('Gather', [s.w([20, 4]), column]);
      });
      const all = s.on('Concat', rows, { axis: 1 });
      const pairs = s.on('MatMul', [all, s.turned(all, 0, 2, 1)]);
      const both = s.on('Concat', [s.reshape(pairs, -1, 9), s.reshape(all, -1, 12)], { axis: 1 });
      return s.classes(s.on('Relu', [s.linear(both, 21, 8)]), 8);
    },
  },
  autoencoder: {
    dims: [8],
    loss: 'mse',
    layers: (s, x) => s.on('Sigmoid', [s.linear(s.on('Selu', [s.linear(x, 8, 2)]), 2, 8)]),
  },
  'highway, maxout': {
    dims: [8],
    layers: (s, x) => {
      const gate = s.on('Sigmoid', [s.linear(x, 8, 8)]);
      const kept = s.on('Mul', [x, s.on('Sub', [s.number(1), gate])]);
      const y = s.on('Add', [s.on('Mul', [gate, s.on('Max', [s.linear(x, 8, 8), s.linear(x, 8, 8)])]), kept]);
      return s.classes(s.on('Softplus', [y]), 8);
    },
  },
};

const OPSET = 21;

function made({ dims, layers, ids }: Small): Model {
  const s = new Layers();
  const shape: Shape = ['batch', ...dims];
  return s.model([layers(s, s.input('x', shape, ids ? 'int64' : 'float32'))], OPSET);
}

const TOKENS = { loss: { kind: 'cross-entropy', output: 'logits' } } as const;

const DECODER = { deriveInputs: ['past*', 'attention_mask'], freeze: ['*cache'] };

/** The decoder with the extents that the other models have. */
function batched(model: Model): Model {
  const names = new Map([
    ['batch_size', 'batch'],
    ['sequence_length', 'length'],
  ]);
  for (const v of model.graph.inputs)
    v.type = { ...v.type!, shape: v.shape!.map(d => names.get(d as string) ?? d) } as typeof v.type;
  return model;
}

/** Models by name, each with a free extent `batch`. */
export const smallModels: readonly {
  name: string;
  options: InjectOptions;
  make: () => Model | Promise<Model>;
}[] = [
  ...Object.entries(KINDS).map(([name, kind]) => ({
    name,
    options: { loss: { kind: kind.loss ?? ('cross-entropy' as const) } },
    make: () => made(kind),
  })),
  { name: 'fused attention', options: TOKENS, make: () => attention('com.microsoft', 6) },
  { name: '4-bit decoder', options: { ...TOKENS, ...DECODER }, make: () => batched(decoder()) },
  {
    name: '4-bit decoder, LoRA',
    options: { ...TOKENS, ...DECODER, lora: [{ match: '*', r: 4 }] },
    make: () => batched(decoder()),
  },
  { name: 'qat, int8', options: { ...TOKENS, qat: { weights: 'int8', activations: 'none' } }, make: mlp },
];
