import { mkdtempSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import * as ort from 'onnxruntime-node';
import { describe, expect, it } from 'vitest';
import { withInitializers } from '../../../src/graph/clone.js';
import { loadModel } from '../../../src/graph/files.js';
import type { Model, Value } from '../../../src/graph/ir.js';
import { encodeModel } from '../../../src/graph/proto/codec.js';
import { Tensor } from '../../../src/graph/tensor.js';
import { readOriginal } from '../../../src/passes/file/embed-original.js';
import { inject } from '../../../src/passes/inject.js';
import { attachModels } from '../../../src/passes/normalize/attach-models.js';
import type { QatSpec, Ranges } from '../../../src/passes/options/quantization.js';
import type { InjectOptions } from '../../../src/passes/options.js';
import { groupsOfScales } from '../../../src/passes/quantize/learned-scales.js';
import { readQuantizers } from '../../../src/passes/quantize/quantization-record.js';
import { quantizeModel, valuesToCalibrate } from '../../../src/passes/quantize/quantize-model.js';
import { integers } from '../../../src/passes/quantize/quantizer-nodes.js';
import { storeIntegers } from '../../../src/passes/quantize/store-integers.js';
import { checkExport, trainedModel } from '../../../src/runtime/export.js';
import { Session, sessionShapes } from '../../../src/runtime/session.js';
import { Trainer } from '../../../src/runtime/train/trainer.js';
import { spread } from '../../ops/vjp.js';
import { Sketch } from '../../sample.js';

const floats = (dims: readonly number[], numbers: readonly number[]) =>
  Tensor.ofNumbers('float32', dims, numbers);

/** Convolutions with a residual sum, pooling, linear layers and normalizations. */
function network(opset = 17): Model {
  const s = new Sketch();
  const x = s.input('x', ['n', 1, 8, 8]);
  const pads = { pads: [1, 1, 1, 1] };
  const c1 = s.add('Conv', [x, s.weight('w1', [4, 1, 3, 3]), s.weight('b1', [4])], 'c1', pads);
  const r1 = s.add('Relu', [c1], 'r1');
  const c2 = s.add('Conv', [r1, s.weight('w2', [4, 4, 3, 3]), s.weight('b2', [4])], 'c2', pads);
  const r2 = s.add('Relu', [s.add('Add', [c2, r1], 'a1')], 'r2');
  const p = s.add('MaxPool', [r2], 'p', { kernel_shape: [2, 2], strides: [2, 2] });
  const f = s.add('Flatten', [p], 'f');
  const g = s.add('Gemm', [f, s.weight('wg', [10, 64]), s.weight('bg', [10])], 'g', { transB: 1 });
  const m = s.add('MatMul', [s.add('Sigmoid', [g], 's'), s.weight('wm', [10, 10])], 'm');
  const y0 = s.add('Add', [m, s.weight('ba', [10])], 'y0');
  const l = s.add('LayerNormalization', [y0, s.weight('lg', [10]), s.weight('lb', [10])], 'l');
  const model = s.model([s.add('Softmax', [l], 'y')], opset);
  model.irVersion = 8;
  return model;
}

const INPUT = { x: spread([16, 1, 8, 8], [-1, 1], 7) };

/** The ranges of a model's values for the input above. */
async function rangesOf(source: Model, spec: QatSpec): Promise<Ranges> {
  const { model, values } = valuesToCalibrate(source, spec);
  const { graph } = model;
  const inner = graph.nodes.flatMap(n => n.outputs).filter((v): v is Value => !!v && values.includes(v.name));
  graph.outputs = inner;
  const session = await Session.create(model);
  const results = { ...INPUT, ...(await session.run(INPUT)) };
  await session.release();
  return new Map(
    Object.entries(results).map(([name, t]) => {
      const numbers = t.numbers();
      return [name, [Math.min(...numbers), Math.max(...numbers)] as const];
    }),
  );
}

async function quantized(source: Model, spec: QatSpec) {
  return quantizeModel(source, spec, spec.weights === 'int4' ? undefined : await rangesOf(source, spec));
}

/** What rounds which value with which scale, as `VALUE SCALE` or `VALUE SCALE AXIS`. */
const rounding = ({ graph }: Model) =>
  graph.nodes
    .filter(n => n.opType === 'DequantizeLinear' && graph.initializers.get(n.inputs[0]!)?.dtype !== 'int32')
    .map(({ inputs: [x, scale], attrs }) => {
      const axis = attrs.get('axis');
      return [x!.name, scale!.name, ...(axis?.type === 'int' ? [axis.value] : [])].join(' ');
    });

/** The operators of the model after ONNX Runtime has optimized it. */
async function kernels(model: Model): Promise<Set<string>> {
  const path = join(mkdtempSync(join(tmpdir(), 'agd-onnx-test-')), 'optimized.onnx');
  const options = {
    optimizedModelFilePath: path,
    graphOptimizationLevel: 'all',
    logSeverityLevel: 4,
  } as const;
  await (await ort.InferenceSession.create(encodeModel(model), options)).release();
  return new Set((await loadModel(path)).graph.nodes.map(n => n.opType));
}

async function outputs(model: Model, optimize: boolean) {
  const session = await Session.create(model, { optimize });
  const { y } = await session.run(INPUT);
  await session.release();
  return y!.numbers();
}

describe('a model in quantization-aware training', () => {
  // Recorded from quantize_static of onnxruntime 1.30 (Python) with per_channel=True and activation_type=QUInt8.
  const RECORDED = [
    'w1_quantized w1_scale 0',
    'w2_quantized w2_scale 0',
    'wg_quantized wg_scale 0',
    'wm_quantized wm_scale 1',
    'ba_quantized ba_scale',
    ...['x', 'r1', 'c2', 'r2'].map(name => `${name}_QuantizeLinear_Output ${name}_scale`),
    ...['p', 'f'].map(name => `${name}_QuantizeLinear_Output r2_scale`),
    ...['g', 's', 'm', 'y0', 'l', 'y'].map(name => `${name}_QuantizeLinear_Output ${name}_scale`),
  ];

  it.each(['ema', 'lsq', 'fixed'] as const)(
    "rounds what ONNX Runtime's quantizer does (%s)",
    async method => {
      const stored = storeIntegers(await quantized(network(), { weights: 'int8', method }));
      expect(rounding(stored).sort()).toEqual([...RECORDED].sort());
      expect(stored.opset).toBe(17);
      const types = new Map([...stored.graph.initializers].map(([v, t]) => [v.name, t.dtype]));
      expect(types.get('w1_quantized')).toBe('int8');
      expect(types.get('b1_quantized')).toBe('int32');
      expect(types.get('r1_zero_point')).toBe('uint8');
      expect(types.has('w1')).toBe(false);
    },
  );

  it('has the scales of its ranges', async () => {
    const ranges = new Map([
      ...(await rangesOf(network(), { weights: 'int8' })),
      ['x', [-1.5, 2.325] as const],
    ]);
    for (const method of ['ema', 'lsq', 'fixed'] as const) {
      const model = storeIntegers(quantizeModel(network(), { weights: 'int8', method }, ranges));
      const value = (name: string) =>
        [...model.graph.initializers].find(([v]) => v.name === name)![1].numbers();
      expect(value('x_scale')[0]).toBeCloseTo(0.015, 8);
      expect(value('x_zero_point')).toEqual([100]);
    }
  });

  it('runs with integer kernels, and as it was trained but for a step of rounding', async () => {
    for (const spec of [
      { weights: 'int8', reduceRange: true },
      { weights: 'int8', reduceRange: true, method: 'lsq' },
      { weights: 'int8', reduceRange: true, perChannel: false },
    ] as const) {
      const trained = await quantized(network(), spec);
      const stored = storeIntegers(trained);
      expect([...(await kernels(stored))]).toEqual(
        expect.arrayContaining(['QLinearConv', 'QLinearAdd', 'QGemm', 'QLinearMatMul', 'QLinearSigmoid']),
      );
      const before = await outputs(trained, false);
      // Biases are whole steps too, which may move a number over the bound between two steps.
      for (const optimize of [false, true]) {
        const after = await outputs(stored, optimize);
        const off = after.map((y, i) => Math.round(Math.abs(y - before[i]!) * 255));
        expect(Math.max(...off)).toBeLessThanOrEqual(1);
        expect(off.filter(n => n > 0).length / off.length).toBeLessThan(optimize ? 0.15 : 0.02);
      }
    }
  });
});

/** What a linear layer is where its exporter folds no constants. */
function transposedLayer(): Model {
  const s = new Sketch();
  const x = s.input('x', ['n', 1, 8, 8]);
  const w = s.weight('w', [10, 8]);
  const m = s.add('MatMul', [x, s.add('Transpose', [w], 't', { perm: [1, 0] })], 'm');
  return s.model([s.add('Sigmoid', [m], 'y')]);
}

describe('a weight behind a Transpose', () => {
  it.each([{ weights: 'int8', reduceRange: true }, { weights: 'int4' }] as const)(
    'is stored as integers (%j)',
    async spec => {
      const source = transposedLayer();
      const trained = await quantized(source, spec);
      const stored = storeIntegers(trained);
      const types = [...stored.graph.initializers].map(([v, t]) => `${v.name} ${t.dtype} ${t.dims}`);
      expect(types).toContain(`w_quantized ${spec.weights} 8,10`);
      expect(types.some(t => t.startsWith('w float'))).toBe(false);
      const [float, rounded] = [await outputs(source, false), await outputs(stored, false)];
      const off = rounded.map((y, i) => Math.abs(y - float[i]!));
      expect(Math.max(...off)).toBeLessThan(spec.weights === 'int4' ? 0.1 : 0.02);
    },
  );
});

describe('a model that is quantized already', () => {
  const again = (source: Model, method: 'fixed' | 'lsq' | 'ema') =>
    storeIntegers(quantizeModel(source, { weights: 'int8', method }, undefined));

  it.each(['fixed', 'lsq'] as const)('has the same integers before it trains (%s)', async method => {
    const stored = storeIntegers(await quantized(network(), { weights: 'int8', reduceRange: true }));
    expect(rounding(again(stored, method)).sort()).toEqual(rounding(stored).sort());
    expect(await outputs(again(stored, method), true)).toEqual(await outputs(stored, true));
  });

  it.each(['fixed', 'lsq'] as const)('may have operators on integers (%s)', async method => {
    const s = new Sketch();
    const scale = (name: string, value: number) => s.weight(name, Tensor.filled('float32', [], value));
    const zero = (name: string, value: number) => s.weight(name, Tensor.filled('uint8', [], value));
    const [xs, xz, ys, yz] = [scale('xs', 0.01), zero('xz', 128), scale('ys', 0.02), zero('yz', 120)];
    const w = s.weight('w', Tensor.from('int8', [2, 1, 1, 1], Int8Array.from([90, -41])));
    const ws = s.weight('ws', floats([2], [0.01, 0.02]));
    const wz = s.weight('wz', Tensor.filled('int8', [2], 0));
    const b = s.weight('b', Tensor.from('int32', [2], Int32Array.from([500, -800])));
    const q = s.add('QuantizeLinear', [s.input('x', ['n', 1, 8, 8]), xs, xz], 'q');
    const c = s.add('QLinearConv', [q, xs, xz, w, ws, wz, ys, yz, b], 'c');
    const p = s.add('MaxPool', [c], 'p', { kernel_shape: [2, 2] });
    const model = s.model([s.add('DequantizeLinear', [p, ys, yz], 'y')]);
    expect(await outputs(again(model, method), true)).toEqual(await outputs(model, true));
    const trained = quantizeModel(model, { weights: 'int8', method }, undefined);
    expect([...trained.graph.initializers].find(([v]) => v.name === 'w_float')![1].numbers()[1]).toBeCloseTo(
      -0.82,
    );
    const [before, averaged] = [await outputs(model, false), await outputs(again(model, 'ema'), false)];
    for (const [i, y] of before.entries()) expect(Math.abs(averaged[i]! - y)).toBeLessThan(0.021);
  });

  it('is refused with a bias on integers that is computed', () => {
    const s = new Sketch();
    const scale = s.weight('scale', Tensor.filled('float32', [], 0.01));
    const zero = s.weight('zero', Tensor.filled('uint8', [], 128));
    const w = s.weight('w', Tensor.from('int8', [2, 1, 1, 1], Int8Array.of(90, -41)));
    const wz = s.weight('wz', Tensor.filled('int8', [], 0));
    const b = s.add('Neg', [s.weight('b', Tensor.from('int32', [2], Int32Array.of(500, -800)))], 'minus');
    const q = s.add('QuantizeLinear', [s.input('x', ['n', 1, 8, 8]), scale, zero], 'q');
    const c = s.add('QLinearConv', [q, scale, zero, w, scale, wz, scale, zero, b], 'c');
    const model = s.model([s.add('DequantizeLinear', [c, scale, zero], 'y')]);
    expect(() => quantizeModel(model, { weights: 'int8' }, undefined)).toThrow(
      /--qat: the bias or a scale of .*QLinearConv.* is not a constant: start from the model before it was quantized/,
    );
  });

  it.each([true, false])(
    'gives the same but for a step with averaged ranges (reduce-range %s)',
    async reduceRange => {
      const stored = storeIntegers(await quantized(network(), { weights: 'int8', reduceRange }));
      const [before, after] = [await outputs(stored, false), await outputs(again(stored, 'ema'), false)];
      const off = after.map((y, i) => Math.round(Math.abs(y - before[i]!) * 255));
      expect(Math.max(...off)).toBeLessThanOrEqual(1);
    },
  );

  it.each([
    ['int4', 'fixed'],
    ['int4', 'ema'],
    ['uint4', 'fixed'],
    ['uint4', 'lsq'],
  ] as const)('may have weights of type %s (%s)', async (dtype, method) => {
    const s = new Sketch();
    const levels = dtype === 'int4' ? [-7, 7, 3, -8, 0, 5] : [0, 15, 3, 8, 9, 5];
    const w = s.weight('w', integers(dtype, [3, 2], levels));
    const scale = s.weight('scale', floats([2], [0.1, 0.2]));
    const zero = s.weight('zero', integers(dtype, [2], dtype === 'int4' ? [0, 0] : [7, 8]));
    const d = s.add('DequantizeLinear', [w, scale, zero], 'd', { axis: 1 });
    const m = s.add('MatMul', [s.input('x', ['n', 3]), d], 'm');
    const model = s.model([s.add('Identity', [m], 'y')], 21);
    const stored = again(model, method);
    const after = [...stored.graph.initializers].find(([v]) => v.name === 'w')![1];
    expect(after.dtype).toBe(dtype);
    // The averaged scale of a channel follows its largest magnitude, of which -8 has no counterpart.
    if (method !== 'ema') expect(after.numbers()).toEqual(levels);
  });

  it('keeps the Relu that its quantizer left to rounding', async () => {
    // Outputs of a layer of which only zero and above has levels.
    const s = new Sketch();
    const zero = s.weight('yz', Tensor.filled('uint8', [], 0));
    const w = s.weight(
      'w',
      Tensor.from(
        'int8',
        [4, 3],
        Int8Array.from({ length: 12 }, (_, i) => 10 * i - 60),
      ),
    );
    const ws = s.weight('ws', Tensor.filled('float32', [], 0.01));
    const d = s.add('DequantizeLinear', [w, ws, s.weight('wz', Tensor.filled('int8', [], 0))], 'd');
    const m = s.add('MatMul', [s.input('x', ['n', 4]), d], 'm');
    const ys = s.weight('ys', Tensor.filled('float32', [], 0.01));
    const q = s.add('QuantizeLinear', [m, ys, zero], 'q');
    const source = s.model([s.add('DequantizeLinear', [q, ys, zero], 'y')]);
    const { model } = await inject(
      source,
      {
        loss: { kind: 'mse' },
        qat: { weights: 'int8', method: 'ema' },
        optimizer: { name: 'sgd', lr: 1e-9 },
      },
      sessionShapes,
    );
    const trainer = await Trainer.create(model);
    const x = spread([8, 4], [-1, 1], 5);
    for (let i = 0; i < 5; i++) await trainer.step({ x, target: floats([8, 3], Array(24).fill(0)) });
    const trained = await trainedModel(trainer.snapshot());
    await trainer.release();
    const session = await Session.create(trained);
    const y = (await session.run({ x })).y!.numbers();
    await session.release();
    expect(Math.min(...y)).toBe(0);
    expect(Math.max(...y)).toBeGreaterThan(0.1);
  });

  it('decides what its method does not', async () => {
    const stored = storeIntegers(await quantized(network(), { weights: 'int8' }));
    expect(() => quantizeModel(stored, { weights: 'int8', skip: 'w1' }, undefined)).toThrow(
      "--qat: 'skip' is decided by the model, which is quantized already",
    );
  });
});

it('a model in training is not quantized again, and is exported only with its zero points', async () => {
  const model = await quantized(network(), { weights: 'int8', method: 'fixed' });
  expect(() => quantizeModel(model, { weights: 'int8' }, undefined)).toThrow(
    'The model already contains quantization-aware training: leave out --qat.',
  );
  const { zero } = readQuantizers(model)[0]!;
  for (const value of model.graph.initializers.keys()) if (value.name === zero) value.name = 'other';
  expect(() => storeIntegers(model)).toThrow(
    `The model lacks '${zero}' of its quantization: use the file as agd-onnx wrote it.`,
  );
});

describe('gradients', () => {
  const w = [0.51, -0.32, 0.14, 0.77, -0.25, 0.93, -0.61, 0.08, 1.4, 0.02, -0.36, 0.45];
  const x = [0.31, -0.42, 1.27, 0.05, -1.9, 0.77, -0.13, 2.6, 0.9, -0.66, 0.28, -1.1];
  const target = floats([3, 3], [0.5, 0.1, -0.3, 0.2, -0.7, 0.9, -0.4, 0.6, 0.3]);
  function layer(): Model {
    const s = new Sketch();
    const weights = [s.weight('w', floats([3, 4], w)), s.weight('b', floats([3], [0.1, -0.2, 0.05]))];
    return s.model([s.add('Gemm', [s.input('x', ['n', 4]), ...weights], 'y', { transB: 1 })]);
  }
  const ranges = new Map([
    ['x', [-1.5, 2.325] as const],
    ['y', [-2.4, 2.7] as const],
  ]);
  /** The change of each parameter in a step of gradient descent. */
  async function step(method: 'lsq' | 'fixed' | 'ema', weights: 'int8' | 'int4' = 'int8') {
    const qat = { weights, method } as const;
    const optimizer = { name: 'sgd', lr: 1 } as const;
    const { model } = await inject(layer(), { loss: { kind: 'mse' }, qat, ranges, optimizer }, sessionShapes);
    const scale = floats([3], weights === 'int8' ? [0.005, 0.006, 0.01] : [0.08, 0.07, 0.15]);
    const trainer = await Trainer.create(withInitializers(model, n => (n === 'w_scale' ? scale : undefined)));
    const before = trainer.state;
    const { loss } = await trainer.step({ x: floats([3, 4], x), target });
    const change = (name: string) => {
      const now = trainer.state.get(name)!.numbers();
      return before
        .get(name)!
        .numbers()
        .map((old, i) => old - now[i]!);
    };
    await trainer.release();
    return { loss, change, names: trainer.description.parameters.map(p => p.name) };
  }
  // Recorded from PyTorch 2: fake_quantize_per_channel_affine and _fake_quantize_learnable_per_tensor_affine.
  const RECORDED = {
    loss: 1.285688877105713,
    w: [
      -0.002333328127861023, -0.027799997478723526, 0.05106665566563606, 0, -1.0329333543777466, 0,
      -0.5836666822433472, 1.3070000410079956, 0, -0.34786665439605713, 0.15193332731723785,
      -0.9124666452407837,
    ],
    b: [0.21333330869674683, -0.3422222137451172, -0.2355556],
    scales: {
      w: [6.366933345794678, 87.9364013671875, 79.2056655883789],
      x: [38.8605842590332],
      y: [-0.3332545],
    },
  };
  const close = (actual: readonly number[], expected: readonly number[], digits: number) =>
    actual.forEach((a, i) => {
      expect(a).toBeCloseTo(expected[i]!, digits);
    });

  it.each(['lsq', 'fixed'] as const)("are PyTorch's (%s)", async method => {
    const { loss, change } = await step(method);
    expect(loss).toBeCloseTo(RECORDED.loss, 5);
    close(change('w'), RECORDED.w, 5);
    close(change('b'), RECORDED.b, 5);
  });

  it("of learned scales are PyTorch's, scaled as of the paper", async () => {
    const { change } = await step('lsq');
    const { scales } = RECORDED;
    const by = (numbers: readonly number[], count: number, most: number) =>
      numbers.map(n => n / Math.sqrt(count * most));
    close(change('w_scale'), by(scales.w, 4, 127), 4);
    close(change('x_scale'), by(scales.x, 4, 255), 4);
    close(change('y_scale'), by(scales.y, 3, 255), 5);
  });

  // Recorded in the same way with quant_min -8 and quant_max 7; the scales of ema are the largest magnitudes over 7.
  const FOUR_BITS = {
    loss: 1.1346116065979004,
    w: [
      0.04763197898864746, -0.0643182247877121, 0.06276978552341461, 0, -1.114036202430725, 0, 0,
      1.3403922319412231, 0, -0.3265378177165985, 0.14394444227218628, -0.9700778126716614,
    ],
    scale: [-0.2569693922996521, 8.902228355407715, 5.251669883728027],
    ema: [
      -0.1631859838962555, 0.03439998999238014, 0.0323113352060318, 0.2441032975912094, -1.4168620109558105,
      0.8097681999206543, -0.6400765180587769, 1.711161494255066, 1.1329243183135986, -0.5085465908050537,
      0.1818888634443283, -1.5057332515716553,
    ],
  };
  it.each(['lsq', 'fixed', 'ema'] as const)("of 4-bit weights are PyTorch's (%s)", async method => {
    const { loss, change } = await step(method, 'int4');
    expect(loss).toBeCloseTo(method === 'ema' ? 1.9802600145339966 : FOUR_BITS.loss, 5);
    close(change('w'), method === 'ema' ? FOUR_BITS.ema : FOUR_BITS.w, 5);
    if (method === 'lsq')
      close(
        change('w_scale'),
        FOUR_BITS.scale.map(n => n / Math.sqrt(4 * 7)),
        5,
      );
  });

  it('of fixed scales there are none', async () => {
    expect((await step('fixed')).names).toEqual(['w', 'b']);
  });
});

describe('a step with 4-bit weights', () => {
  /** A network of which the runtime computes parts of the backward pass late. */
  async function trainingStep(method: 'ema' | 'lsq' | 'fixed') {
    const { model } = await inject(
      await loadModel(join(import.meta.dirname, '../../../models/lenet.onnx')),
      {
        loss: { kind: 'cross-entropy' },
        qat: { weights: 'int4', method },
        optimizer: { name: 'sgd', lr: 1 },
      },
      sessionShapes,
    );
    return model;
  }

  it('computes no values of 4 bits, whose memory the runtime overruns', async () => {
    for (const method of ['ema', 'lsq', 'fixed'] as const) {
      const { graph } = await trainingStep(method);
      const types = graph.nodes.filter(n => n.opType === 'QuantizeLinear').map(n => n.inputs[2]!.dtype);
      expect([...new Set(types)]).toEqual(['int8']);
    }
  });

  it('has the same gradients in each of many runs', async () => {
    const bytes = encodeModel(await trainingStep('ema'));
    const session = await ort.InferenceSession.create(bytes, { logSeverityLevel: 4 });
    const target = BigInt64Array.from({ length: 32 }, (_, i) => BigInt(i % 10));
    const bias = [...(await trainingStep('ema')).graph.initializers].find(([v]) => v.name === 'fc3.bias')![1];
    for (let seed = 1; seed < 5; seed++) {
      const x = spread([32, 1, 28, 28], [0, 1], seed).floats() as Float32Array;
      const feeds = {
        input: new ort.Tensor('float32', x, [32, 1, 28, 28]),
        target: new ort.Tensor('int64', target, [32]),
      };
      const results = await session.run(feeds);
      // The gradient of the last bias follows from the logits: the mean of softmax - onehot.
      const logits = results.logits!.data as Float32Array;
      const wanted = new Float64Array(10);
      for (let i = 0; i < 32; i++) {
        const row = [...logits.subarray(10 * i, 10 * i + 10)].map(Math.exp);
        const sum = row.reduce((a, b) => a + b, 0);
        for (const [c, e] of row.entries()) wanted[c] += (e / sum - Number(i % 10 === c)) / 32;
      }
      const updated = results['fc3.bias_new']!.data as Float32Array;
      for (const [c, b] of bias.numbers().entries()) expect(b - updated[c]!).toBeCloseTo(wanted[c]!, 5);
    }
    await session.release();
  });
});

describe('what trains', () => {
  const trained = async (options: InjectOptions) => {
    const { report } = await inject(
      network(),
      { loss: { kind: 'cross-entropy' }, ...options },
      sessionShapes,
    );
    return report.parameters.flatMap(p => (p.trains ? [p.value.name] : [])).sort();
  };

  it.each(['ema', 'fixed'] as const)('is what trains without (%s)', async method => {
    for (const reduceRange of [false, true]) {
      const qat = { weights: 'int8', method, reduceRange } as const;
      const ranges = await rangesOf(network(), qat);
      const plain = await trained({});
      expect(await trained({ qat, ranges })).toEqual(plain);
      expect(await trained({ qat, ranges, train: ['*'] })).toEqual(plain);
    }
  });
});

describe('biases', () => {
  it.each(['ema', 'lsq', 'fixed'] as const)(
    'of channels with small weights are stored (%s)',
    async method => {
      for (const perChannel of [true, false]) {
        const s = new Sketch();
        const weight = floats([3, 1, 1, 1], perChannel ? [0.5, 0, 1e-9] : [1e-9, 0, -1e-9]);
        const operands = [s.weight('w', weight), s.weight('b', floats([3], [0.25, 3, -2]))];
        const c = s.add('Conv', [s.input('x', ['n', 1, 8, 8]), ...operands], 'c');
        const model = s.model([s.add('Identity', [c], 'y')]);
        const trained = await quantized(model, { weights: 'int8', method, perChannel });
        const before = await outputs(trained, false);
        for (const optimize of [false, true]) {
          const after = await outputs(storeIntegers(trained), optimize);
          // A step of the output, which is rounded to 8 bits.
          after.forEach((y, i) => {
            expect(Math.abs(y - before[i]!)).toBeLessThan(0.025);
          });
        }
      }
    },
  );
});

describe('what only the loss reads', () => {
  /** A model that computes its loss beside its output. */
  function withLoss(): Model {
    const s = new Sketch();
    const h = s.add('MatMul', [s.input('x', ['n', 4]), s.weight('w', [4, 3])], 'h');
    const off = s.add('Sub', [h, s.input('t', ['n', 3])], 'off');
    const scaled = s.add('MatMul', [s.add('Mul', [off, off], 'squares'), s.weight('v', [3, 3])], 'scaled');
    return s.model([h, s.add('ReduceMean', [scaled], 'loss', { keepdims: 0 })], 17);
  }

  it('is not rounded, and export leaves it out', async () => {
    const loss = { kind: 'output', output: 'loss' } as const;
    const qat = { weights: 'int8' } as const;
    const ranges = new Map(['x', 'h', 'off', 'squares', 'scaled', 't'].map(name => [name, [-3, 3] as const]));
    const { model } = await inject(withLoss(), { loss, qat, ranges, exports: ['h'] }, sessionShapes);
    expect(readQuantizers(model).map(q => q.source)).toEqual(['w', 'x_range', 'h_range']);
    await checkExport(model);
    expect((await trainedModel(model)).graph.outputs.map(v => v.name)).toEqual(['h']);
  });
});

describe('a teacher', () => {
  it('is fed what it would be without quantization, and is not exported', async () => {
    const teacherModel = network();
    const options = {
      loss: { kind: 'cross-entropy' },
      teacherModel,
      distill: ['mse:alpha=0.5'],
      qat: { weights: 'int8' },
    } as unknown as InjectOptions;
    const attached = await attachModels(network(), options);
    const ranges = await rangesOf(network(), { weights: 'int8' });
    const { model } = await inject(attached.model, { ...attached.options, ranges }, sessionShapes);
    const original = readOriginal(model);
    const first = original.graph.nodes.find(n => n.outputs[0]?.name === 'teacher::c1');
    expect(first?.inputs.map(v => v?.name)).toEqual(['x', 'teacher::w1', 'teacher::b1']);
    await checkExport(model);
    const names = [...(await trainedModel(model)).graph.initializers.keys()].map(v => v.name);
    expect(names.filter(name => name.startsWith('teacher'))).toEqual([]);
  });
});

describe('the learning rate of a learned scale', () => {
  it('is that of its group or layer times the scale', async () => {
    const qat = { weights: 'int8', method: 'lsq' } as const;
    const model = await quantized(network(), qat);
    const [value, tensor] = [...model.graph.initializers].find(([v]) => v.name === 'w1_scale')!;
    const scales = tensor.numbers();
    const mean = scales.reduce((sum, s) => sum + s, 0) / scales.length;
    const rate = (own: { lr?: number }, name = 'adamw') => {
      const base = { name, settings: { lr: 0.01 } };
      return (groupsOfScales(model, [value], [{ ...own, weightDecay: 0.1 }], base)[0] as { lr?: number }).lr;
    };
    expect(rate({})).toBeCloseTo(0.01 * mean, 10);
    expect(rate({ lr: 0.005 })).toBeCloseTo(0.005 * mean, 10);
    expect(rate({ lr: 0.005 }, 'sgd')).toBe(0.005);
    expect(
      groupsOfScales(model, [value], [{ weightDecay: 0.1 }], { name: 'sgd', settings: { lr: 1 } }),
    ).toEqual([{ weightDecay: 0 }]);
  });

  it('is that of a group that names it', async () => {
    const qat = { weights: 'int8', method: 'lsq' } as const;
    const ranges = await rangesOf(network(), qat);
    const optionsOf = async (match: string | readonly string[]) => {
      const groups = [{ match, options: { lr: 0.005, weightDecay: 0.1 } }];
      const optimizer = { name: 'adamw', lr: 0.01 } as const;
      const loss = { kind: 'cross-entropy' } as const;
      const { report } = await inject(network(), { loss, qat, ranges, optimizer, groups }, sessionShapes);
      return report.description.parameters.find(p => p.name === 'w1_scale')?.options;
    };
    expect(await optionsOf(['w1', 'w1_scale'])).toEqual({ lr: 0.005, weightDecay: 0.1 });
    const { lr, weightDecay } = (await optionsOf('w1*')) as { lr: number; weightDecay: number };
    expect(lr).toBeLessThan(0.0005);
    expect(weightDecay).toBe(0);
  });
});
