/**
 * The operators of ONNX Runtime's training against the last runtime that had them: `ort-training/operators.json` holds
 * small graphs, their inputs, and what ort-training-wasm of onnxruntime-web 1.19.2 made of these.
 */
import { describe, expect, it } from 'vitest';
import { Tensor } from '../../../src/graph/tensor.js';
import { ORT_OPERATORS } from '../../../src/ops/ort-gradients/index.js';
import { lowerOrtGradients } from '../../../src/passes/import/lower-ort-gradients.js';
import { gradients } from '../../../src/runtime/gradients.js';
import { sessionShapes } from '../../../src/runtime/session.js';
import { spread } from '../../ops/vjp.js';
import { buildCase, type Case, readCases, runCase, type Stored, type StoredNode, tensorOf } from './case.js';

const CASES = readCases('ort-operators.json');

describe.each([
  ['extents known', true, false],
  ['settings fed', false, false],
  ['extents unknown', true, true],
] as const)('with %s', (_, constants, symbolic) => {
  it.each(CASES.map(c => [c.name, c] as const))('%s gives what it gave', async (name, c) => {
    const model = buildCase(c, constants, symbolic);
    await lowerOrtGradients(model, sessionShapes);
    expect(model.graph.nodes.map(n => n.domain).filter(Boolean)).toEqual([]);
    const results = await runCase(model, c);
    for (const [output, [dtype, dims, data]] of Object.entries(c.outputs)) {
      const got = results[output]!;
      expect([output, got.dtype, got.dims]).toEqual([output, dtype, dims]);
      const largest = Math.max(1, ...data.map(Math.abs));
      const numbers = got.numbers();
      // Axes may come in any order.
      if (dtype === 'int64') for (const list of [numbers, data]) list.sort((a, b) => a - b);
      numbers.forEach((x, i) => {
        expect(
          Math.abs(x - data[i]!) / largest,
          `${name} ${output}[${i}]: ${x}, not ${data[i]}`,
        ).toBeLessThan(2e-6);
      });
    }
  });
});

type Fed = Record<string, Tensor>;

/** What a graph gives, written down as a case with these inputs; integers are initializers. */
async function outputsOf(nodes: StoredNode[], fed: Fed, outputs: string[]): Promise<Record<string, Tensor>> {
  const inputs = Object.fromEntries(
    Object.entries(fed).map(([name, t]): [string, Stored] => [name, [t.dtype, [...t.dims], t.numbers()]]),
  );
  const c: Case = {
    name: '',
    nodes,
    inputs,
    outputs: Object.fromEntries(outputs.map(o => [o, ['float32', [], []]])),
  };
  const model = buildCase(c, true, false);
  await lowerOrtGradients(model, sessionShapes);
  const results = await runCase(model, c);
  for (const [op] of nodes) compared.add(op);
  return results;
}

/** What was compared with a number of the runtime, of its definition, or of a backward pass of our own. */
const compared = new Set(CASES.flatMap(c => c.nodes.map(([op]) => op)));

describe('what only CUDA could run there', () => {
  const state = { hidden_size: 2, direction: 'bidirectional' };
  const lstm = { x: spread([3, 2, 2]), w: spread([2, 8, 2]), r: spread([2, 8, 2]), b: spread([2, 16]) };
  const gru = { x: spread([3, 2, 2]), w: spread([2, 6, 2]), r: spread([2, 6, 2]), b: spread([2, 12]) };
  const conv = { kernel_shape: [3], strides: [2] };
  const resize = { mode: 'linear', coordinate_transformation_mode: 'half_pixel' };
  const scales = Tensor.from('float32', [4], Float32Array.of(1, 1, 2, 2));

  it.each<[string, Fed, StoredNode, StoredNode, string[]]>([
    [
      'ConvTransposeGrad',
      { x: spread([2, 2, 3]), w: spread([2, 4, 3]), b: spread([4]) },
      ['ConvTranspose', ['x', 'w', 'b'], ['y'], conv],
      ['com.microsoft.ConvTransposeGrad', ['dy', 'x', 'w'], ['dx', 'dw', 'db'], conv],
      ['x', 'w', 'b'],
    ],
    [
      'ResizeGrad',
      { x: spread([1, 2, 2, 3]), scales },
      ['Resize', ['x', '', 'scales'], ['y'], resize],
      ['com.microsoft.ResizeGrad', ['dy', 'x', '', 'scales'], ['dx'], resize],
      ['x'],
    ],
    [
      'GatherNDGrad',
      { x: spread([2, 3]), shape: Tensor.ints([2, 3]), at: tensorOf(['int64', [3, 1], [1, 1, 0]]) },
      ['GatherND', ['x', 'at'], ['y'], {}],
      ['com.microsoft.GatherNDGrad', ['shape', 'at', 'dy'], ['dx'], {}],
      ['x'],
    ],
    [
      'LSTMGrad in both directions',
      lstm,
      ['com.microsoft.LSTMTraining', ['x', 'w', 'r', 'b'], ['y', 'h', 'c', 'all', 'gates'], state],
      [
        'com.microsoft.LSTMGrad',
        ['x', 'w', 'r', '', '', '', 'y', 'all', 'gates', 'dy'],
        ['dx', 'dw', 'dr', 'db'],
        state,
      ],
      ['x', 'w', 'r', 'b'],
    ],
    [
      'GRUGrad in both directions',
      gru,
      ['com.microsoft.GRUTraining', ['x', 'w', 'r', 'b'], ['y', 'h', 'gates'], state],
      [
        'com.microsoft.GRUGrad',
        ['x', 'w', 'r', 'b', '', '', 'y', 'gates', 'dy'],
        ['dx', 'dw', 'dr', 'db'],
        state,
      ],
      ['x', 'w', 'r', 'b'],
    ],
  ])('%s gives what a backward pass of our own gives', async (_, fed, forward, back, wrt) => {
    const [op, ins, outs, attrs] = forward;
    const plain: StoredNode = [op.replace(/^.*\.(\w+)Training$/, '$1'), ins, outs.slice(0, 1), attrs];
    const c: Case = { name: '', nodes: [plain], inputs: {}, outputs: { y: ['float32', [], []] } };
    for (const [name, t] of Object.entries(fed)) c.inputs[name] = [t.dtype, [...t.dims], t.numbers()];
    const model = buildCase(c, true, false);
    const y = (await runCase(model, c)).y!;
    const dy = spread(y.dims, [-1, 1], 9);
    const own = await gradients(model, { cotangents: ['y'], wrt }, { ...fed, y_cotangent: dy });
    const wanted = back[2].filter(Boolean);
    const got = await outputsOf([forward, back], { ...fed, dy }, ['y', ...wanted]);
    expect(got.y!.dims).toEqual(y.dims);
    wrt.forEach((name, i) => {
      const [a, b] = [got[wanted[i]!]!.numbers(), own.gradients.get(name)!.numbers()];
      expect(Math.max(...b.map(Math.abs))).toBeGreaterThan(0.01);
      a.forEach((x, k) => {
        expect(x).toBeCloseTo(b[k]!, 5);
      });
    });
  });

  const x = tensorOf(['float32', [2, 3], [1, 2, 3, 4, 5, 6]]);
  const ratio = tensorOf(['float32', [], [0.5]]);

  it.each<[string, string[], Fed, Record<string, unknown>, Record<string, number[]>]>([
    [
      'ScaledSum',
      ['x', 'x'],
      { x },
      { scale_0: { float: 2 }, scale_1: { float: -0.5 } },
      { y: [1.5, 3, 4.5, 6, 7.5, 9] },
    ],
    [
      'BatchScale',
      ['x'],
      { x },
      { scale0: { float: 2 }, scale1: { float: 0.5 } },
      { y: [2, 4, 6, 8, 10, 12], z: [0.5, 1, 1.5, 2, 2.5, 3] },
    ],
    [
      'PadAndUnflatten',
      ['x', 'at', 'dims'],
      { x, at: Tensor.ints([2, 1]), dims: Tensor.ints([2, 2]) },
      {},
      { y: [0, 0, 0, 4, 5, 6, 1, 2, 3, 0, 0, 0] },
    ],
    [
      'FlattenAndUnpad',
      ['x', 'at'],
      { x: tensorOf(['float32', [2, 2, 1], [1, 2, 3, 4]]), at: Tensor.ints([3, 0]) },
      {},
      { y: [4, 1], dims: [2, 2] },
    ],
    [
      'BiasDropout',
      ['x', 'b', 'x', 'ratio', 'off'],
      { x, b: tensorOf(['float32', [3], [1, 0, -1]]), ratio, off: tensorOf(['bool', [], [0]]) },
      {},
      { y: [3, 4, 5, 9, 10, 11] },
    ],
    [
      'BitmaskBiasDropout',
      ['x', 'b', '', 'ratio', 'off'],
      { x, b: tensorOf(['float32', [3], [1, 0, -1]]), ratio, off: tensorOf(['bool', [], [0]]) },
      {},
      { y: [2, 2, 2, 5, 5, 5] },
    ],
    ['TransposeMatMul', ['x', 'x'], { x }, { transB: 1, alpha: { float: 2 } }, { y: [28, 64, 64, 154] }],
  ])('%s gives what its definition says', async (op, inputs, fed, attrs, outputs) => {
    const results = await outputsOf(
      [[`com.microsoft.${op}`, inputs, Object.keys(outputs), attrs]],
      fed,
      Object.keys(outputs),
    );
    for (const [name, values] of Object.entries(outputs)) expect(results[name]!.numbers()).toEqual(values);
  });

  it('a dropout with a mask of bits and its gradient drop the same elements', async () => {
    const ones = Tensor.filled('float32', [40], 1);
    const nodes: StoredNode[] = [
      ['com.microsoft.BitmaskDropout', ['x', 'ratio', 'on'], ['y', 'mask'], { seed: 5 }],
      ['com.microsoft.BitmaskDropoutGrad', ['dy', 'mask', 'ratio', 'on'], ['dx'], {}],
    ];
    const on = tensorOf(['bool', [], [1]]);
    const { y, dx } = await outputsOf(nodes, { x: ones, dy: ones, ratio, on }, ['y', 'dx']);
    expect(dx!.numbers()).toEqual(y!.numbers());
    expect(new Set(y!.numbers())).toEqual(new Set([0, 2]));
  });
});

it('binds the running statistics that were updated in place', async () => {
  const c = CASES.find(({ name }) => name === 'BatchNormInternal')!;
  const model = buildCase(c, true, false);
  await lowerOrtGradients(model, sessionShapes);
  expect(model.trainingInfo[0]!.updates).toEqual([
    { state: 'm', value: 'rm' },
    { state: 'v', value: 'rv' },
  ]);
});

it.each<[string, StoredNode[], RegExp]>([
  [
    'a node without what it needs',
    [['com.microsoft.ReluGrad', ['dy'], ['dx'], {}]],
    /'com.microsoft.ReluGrad' .* lacks inputs that its operator needs/,
  ],
  [
    'indices of no MaxPool',
    [['MaxPoolGrad', ['dy', 'at'], ['dx'], { kernel_shape: [2] }]],
    /Cannot write 'MaxPoolGrad' .*indices that do not come from a MaxPool/,
  ],
  [
    'an input that has no name to be found by',
    [['AveragePoolGrad', ['dy'], ['other'], { kernel_shape: [2] }]],
    /'AveragePoolGrad' .*cannot be found by its name/,
  ],
  [
    'gates that something else reads',
    [
      ['com.microsoft.GRUTraining', ['x', 'w', 'w'], ['y', 'h', 'gates'], { hidden_size: 1 }],
      ['Neg', ['gates'], ['z'], {}],
      ['com.microsoft.ReluGrad', ['z', 'z'], ['dx'], {}],
    ],
    /'Neg' .* reads 'gates', which no standard operator computes/,
  ],
])('refuses %s', async (_, nodes, message) => {
  const fed = {
    dy: spread([1, 1, 2]),
    at: tensorOf(['int64', [1, 1, 2], [0, 1]]),
    x: spread([2, 1, 1]),
    w: spread([1, 3, 1]),
  };
  const last = nodes.at(-1)![2][0]!;
  await expect(outputsOf(nodes, fed, [last])).rejects.toThrow(message);
});

/** Those of ONNX Runtime's training, but for what only the frame of its sessions consists of. */
const LISTED = [
  ...['AveragePoolGrad', 'BatchNormInternal', 'BatchNormalizationGrad', 'BatchScale', 'BiasDropout'],
  ...['BiasFastGeluGrad_dX', 'BiasGeluGrad_dX', 'BitmaskBiasDropout', 'BitmaskDropout', 'BitmaskDropoutGrad'],
  ...['BroadcastGradientArgs', 'ConcatTraining', 'ConvGrad', 'ConvTransposeGrad', 'DivGrad', 'DropoutGrad'],
  ...['FakeQuant', 'FakeQuantGrad', 'FastGeluGrad', 'FlattenAndUnpad', 'FusedMatMul', 'GRUGrad'],
  ...['GRUTraining', 'GatherElementsGrad', 'GatherGrad', 'GatherNDGrad', 'GeluGrad'],
  ...['InvertibleLayerNormalizationGrad', 'LSTMGrad', 'LSTMTraining', 'LayerNormalizationGrad'],
  ...['LeakyReluGrad', 'LogSoftmaxGrad', 'LogSoftmaxGrad_13', 'MaxPoolGrad', 'PadAndUnflatten'],
  ...['QuickGeluGrad', 'ReduceSumTraining', 'ReluGrad', 'ResizeGrad', 'Scale', 'ScaledSum'],
  ...['ShrunkenGather', 'SigmoidGrad', 'SimplifiedLayerNormalizationGrad', 'SliceGrad', 'SoftmaxGrad'],
  ...['SoftmaxGrad_13', 'SoftmaxCrossEntropyLossGrad', 'SoftmaxCrossEntropyLossInternal'],
  ...['SoftmaxCrossEntropyLossInternalGrad', 'SplitTraining', 'TanhGrad', 'TransposeMatMul'],
];

it('knows all operators of the training builds, and has compared each', () => {
  expect([...ORT_OPERATORS].sort()).toEqual([...LISTED].sort());
  const names = new Set([...compared].map(op => op.replace('com.microsoft.', '')));
  expect(LISTED.filter(op => !names.has(op))).toEqual([]);
});

it.each(['PythonOp', 'PythonOpGrad', 'AdamWOptimizer', 'SGDOptimizerV2', 'InplaceClipGradNorm', 'NewGrad_8'])(
  'says in a line that it cannot write %s',
  async op => {
    await expect(
      outputsOf([[`com.microsoft.${op}`, ['x'], ['y'], {}]], { x: spread([2]) }, ['y']),
    ).rejects.toMatchObject({
      code: 'unsupported-op',
      message: `'com.microsoft.${op}' (node 'y') of ONNX Runtime's training has no equivalent in standard operators.`,
    });
  },
);
