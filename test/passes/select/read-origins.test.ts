/** Which tensors train where the file says what they are, and where rules must tell. */
import { expect, it } from 'vitest';
import type { Model, Value } from '../../../src/graph/ir.js';
import { decodeModel, encodeModel } from '../../../src/graph/proto/codec.js';
import { Tensor } from '../../../src/graph/tensor.js';
import { inject } from '../../../src/passes/inject.js';
import { inspect } from '../../../src/passes/inspect.js';
import { splitMergedInitializers } from '../../../src/passes/normalize/split-merged-initializers.js';
import { sessionShapes } from '../../../src/runtime/session.js';
import { floatsOf } from '../../ops/vjp.js';
import { Sketch } from '../../sample.js';

const entries = (props: Record<string, string>) =>
  Object.entries(props).map(([key, value]) => ({ key, value }));
const KIND = 'pkg.torch.export.graph_signature.InputSpec.kind';
const FOLDED = 'pkg.onnxscript.optimizer.folded_from';

/** What the file says of a value, of a node's call and of the program, as PyTorch's newer exporter writes it. */
function say(value: Value, props: Record<string, string>): Value {
  value.extra = { type: value.type, inner: { name: value.name, metadataProps: entries(props) } };
  return value;
}

function sign(s: Sketch, kinds: Record<string, 'PARAMETER' | 'BUFFER'>): void {
  const lines = Object.entries(kinds).map(
    ([name, kind]) => `${kind[0]!.toLowerCase()}_${name.replaceAll('.', '_')}: ${kind} target='${name}'`,
  );
  const signature = ['', '# inputs', ...lines, 'x: USER_INPUT', '', '# outputs', 'y: USER_OUTPUT'].join('\n');
  const key = 'pkg.torch.export.ExportedProgram.graph_signature';
  const named = [...s.graph.initializers.keys()].filter(v => v.extra).map(v => v.name);
  s.graph.extra = { rest: { metadataProps: entries({ [key]: signature }) }, listed: named };
}

/** `calls`: arguments of the call that a node, by its output, was made of. */
function byPyTorch(s: Sketch, y: Value, calls: Record<string, string> = {}): Model {
  for (const node of s.graph.nodes) {
    const args = calls[node.outputs[0]!.name];
    if (args)
      node.extra = { metadataProps: entries({ 'pkg.torch.onnx.fx_node': `%a = call(args = (${args}))` }) };
  }
  const model = s.model([y]);
  model.producerName = 'pytorch';
  return decodeModel(encodeModel(model));
}

async function chosen(model: Model) {
  const { parameters } = await inspect(model, {}, sessionShapes);
  return Object.fromEntries(parameters.map(p => [p.name, `${p.trains ? 'yes' : 'no'}, ${p.by}: ${p.why}`]));
}

it('reads what the file says of its tensors before any rule', async () => {
  const s = new Sketch();
  const x = s.input('x', ['batch', 3]);
  const alpha = say(s.weight('alpha', floatsOf([0.5], [])), { [KIND]: 'PARAMETER' });
  const mean = say(s.weight('mean', [3]), { [KIND]: 'BUFFER' });
  const weight = say(s.weight('val_0', [3, 3]), { [FOLDED]: "['weight']" });
  const soft = say(s.weight('softplus', [3]), { [FOLDED]: "['beta', 'decay', 'val_3']" });
  const mask = say(s.weight('where', [3]), { [FOLDED]: "['arange', 'pow_1']" });
  const frozen = say(s.weight('mul', [3]), { [FOLDED]: "['add_5', 'bn.running_var', 'bn.weight']" });
  const copy = say(s.weight('exp', [3]), { [FOLDED]: "['alpha']" });
  const half = s.weight('val_7', floatsOf([0.5, 0.25, 0.5]));
  sign(s, {
    alpha: 'PARAMETER',
    weight: 'PARAMETER',
    decay: 'PARAMETER',
    mean: 'BUFFER',
    'bn.running_var': 'BUFFER',
    'bn.weight': 'BUFFER',
  });
  const h = s.add('MatMul', [s.add('Mul', [x, alpha], 'ax'), weight], 'h');
  const y = [mean, soft, mask, frozen, copy, half].reduce((a, b, i) => s.add('Mul', [a, b], `h${i}`), h);
  expect(await chosen(byPyTorch(s, y))).toEqual({
    alpha: 'yes, file: the file says: a parameter',
    mean: 'no, file: the file says: a buffer',
    val_0: 'yes, file: folded from weight',
    softplus: 'yes, file: folded from decay: export with optimize=False',
    where: 'no, file: the file says: a constant of the program',
    mul: 'no, file: the file says: computed from buffers (bn.running_var, bn.weight)',
    exp: 'no, file: folded from alpha: export with optimize=False',
    val_7: 'no, file: the file says: a constant of the program',
  });
});

it('leaves what an exporter copied for each sample of a fixed batch, and tables of waves that it calls parameters', async () => {
  const s = new Sketch();
  const x = s.input('x', [2, 3, 4]);
  const row = [0.5, 0.25, 0.125, 1];
  const token = [...row, ...row];
  const positions = [1, 2, 3].flatMap(n => token.map(v => n * v));
  const folded = (name: string, values: number[], dims: number[], from: string) =>
    say(s.weight(name, floatsOf(values, dims)), { [FOLDED]: `['${from}']` });
  const waves = [0, 1, 2].flatMap(n => [n, n / 2].flatMap(v => [Math.sin(v), Math.cos(v)]));
  const seen = [
    folded('expand', token, [2, 1, 4], 'token'),
    folded('val_1', [...row, 1, 1, 1, 1], [2, 1, 4], 'other'),
    folded('val_2', [1, 1, 1, 1], [1, 1, 4], 'bias'),
    folded('embedding', waves, [3, 4], 'waves'),
  ];
  const repeated = folded('repeat', positions, [3, 2, 4], 'positions');
  const kinds = ['token', 'other', 'bias', 'waves', 'positions', 'own'].map(name => [name, 'PARAMETER']);
  sign(s, Object.fromEntries(kinds));
  const own = say(s.weight('own', floatsOf(token, [2, 1, 4])), { [KIND]: 'PARAMETER' });
  const sum = [...seen, own].reduce((a, b, i) => s.add('Add', [a, b], `h${i}`), x);
  const turned = s.add('Transpose', [sum], 't', { perm: [1, 0, 2] });
  const y = s.add('Add', [turned, repeated], 'y');
  const model = byPyTorch(s, y);
  const copied = 'no, rule: copied for each sample of the fixed batch: export with optimize=False';
  expect(await chosen(model)).toEqual({
    expand: copied,
    repeat: copied,
    val_1: 'yes, file: folded from other',
    val_2: 'yes, file: folded from bias',
    embedding: 'no, rule: sines and cosines, or their frequencies',
    own: 'yes, file: the file says: a parameter',
  });
  const { report } = await inject(model, { loss: { kind: 'mse' } }, sessionShapes);
  const why =
    "'expand', 'repeat' do not train: copied for each sample of the fixed batch: export with optimize=False";
  expect(report.warnings).toEqual([why]);
});

it('takes numbers of the older exporter in Constant nodes for constants, and single elements with names for state', async () => {
  const s = new Sketch();
  const x = s.input('x', [2, 3]);
  const bias = s.weight('cell.bias', floatsOf([0, 1, 0]));
  const grid = s.add('Constant', [], '/Constant_1_output_0', { value: floatsOf([0.3, 0.1, 0.4]) });
  const gate = s.add('Mul', [x, s.weight('gate', floatsOf([0.3]))], 'gated');
  const h = s.add('MatMul', [gate, s.weight('onnx::MatMul_4', [3, 3])], 'h');
  const y = s.add('Mul', [s.add('Add', [h, bias], 'hb'), grid], 'y');
  expect(await chosen(byPyTorch(s, y))).toEqual({
    'cell.bias': 'yes, rule: a weight',
    gate: 'yes, rule: a weight',
    'onnx::MatMul_4': 'yes, rule: a weight',
    '/Constant_1_output_0': 'no, file: the file says: a constant of the program',
  });
});

/** One product each with what is looked at, added up. */
async function ruleOf(build: (s: Sketch, x: Value) => Value): Promise<Record<string, string>> {
  const s = new Sketch();
  const x = s.input('x', ['batch', 4, 4]);
  const h = s.add('MatMul', [x, s.weight('weight', [4, 4])], 'h');
  const model = s.model([build(s, h)]);
  const { parameters } = await inspect(model, {}, sessionShapes);
  return Object.fromEntries(parameters.map(p => [p.name, p.why]));
}

it('leaves masks that decay, coordinates and bases', async () => {
  const decay = Array.from({ length: 16 }, (_, i) => (i % 4 > i >> 2 ? 0 : 0.9 ** ((i >> 2) - (i % 4))));
  const powers = Array.from({ length: 12 }, (_, i) => ((i % 4) / 3) ** (i >> 2));
  const waves = Array.from({ length: 24 }, (_, i) => {
    const angle = (2 * Math.PI * ((i / 6) | 0) * (i % 6)) / 6;
    return i < 12 ? Math.cos(angle) : Math.sin(angle - 2 * Math.PI * 2 * ((i % 6) / 6));
  });
  const why = await ruleOf((s, h) => {
    const masked = s.add('Mul', [h, s.weight('decay', floatsOf(decay, [4, 4]))], 'masked');
    const points = s.add('Mul', [masked, s.weight('grid', floatsOf([-1, -1 / 3, 1 / 3, 1]))], 'points');
    const moved = s.add(
      'Add',
      [points, s.weight('anchors', floatsOf([0.5, 1.5, 2.5, 3.5], [1, 1, 4]))],
      'moved',
    );
    const scaled = s.add('Mul', [moved, s.weight('strides', floatsOf([8, 8, 8, 8], [1, 1, 4]))], 'scaled');
    const bins = s.add('MatMul', [scaled, s.weight('bins', floatsOf([0, 1, 2, 3], [4, 1]))], 'bins_y');
    const trend = s.add(
      'MatMul',
      [
        s.add('MatMul', [scaled, s.weight('theta', [4, 3])], 't'),
        s.weight('trend', floatsOf(powers, [3, 4])),
      ],
      'trend_y',
    );
    const season = s.add('MatMul', [scaled, s.weight('season', floatsOf(waves, [4, 6]))], 'season_y');
    return s.add('Concat', [bins, trend, season], 'y', { axis: 2 });
  });
  expect(why).toEqual({
    ...{
      weight: 'a weight',
      theta: 'a weight',
      decay: 'a mask',
      season: 'sines and cosines, or their frequencies',
    },
    ...{
      grid: 'coordinates',
      anchors: 'coordinates',
      strides: 'coordinates',
      bins: 'coordinates',
      trend: 'coordinates',
    },
  });
});

it('takes a bias of zeros and ones, and evenly spaced biases of products, for weights', async () => {
  const why = await ruleOf((s, h) => {
    const forget = s.add('Add', [h, s.weight('forget', floatsOf([0, 1, 0, 0]))], 'f');
    const g = s.add('MatMul', [forget, s.weight('w', [4, 4])], 'g');
    return s.add('Add', [g, s.weight('spaced', floatsOf([0.1, 0.2, 0.3, 0.4]))], 'y');
  });
  expect(Object.values(why)).toEqual(Array(4).fill('a weight'));
});

it('follows zeros through movement to what they start or pad, and learned values too', async () => {
  const s = new Sketch();
  const x = s.input('x', [5, 2, 3]);
  const size = s.weight('size', Tensor.ints([1, 2, 4]));
  const state = (name: string, data: Tensor) => s.add('Expand', [s.weight(name, data), size], `${name}_e`);
  const [w, r] = [s.weight('w', [1, 16, 3]), s.weight('r', [1, 16, 4])];
  const h = s.add(
    'LSTM',
    [
      x,
      w,
      r,
      null,
      null,
      state('h0', Tensor.zeros('float32', [1, 1, 4])),
      state('c0', floatsOf([0.1, 0.2, 0.1, 0.3], [1, 1, 4])),
    ],
    'h',
    { hidden_size: 4 },
  );
  const token = s.weight('token', floatsOf([0.4, 0.1, 0.3, 0.2], [1, 1, 1, 4]));
  const padded = s.add('Concat', [s.weight('pad', Tensor.zeros('float32', [1, 1, 2, 4])), h], 'padded', {
    axis: 0,
  });
  const spread = s.add('Expand', [token, s.weight('shape', Tensor.ints([1, 1, 2, 4]))], 'spread');
  const model = s.model([s.add('Concat', [padded, spread], 'y', { axis: 0 })]);
  expect(await chosen(model)).toMatchObject({
    h0: 'no, rule: filled in the forward pass',
    pad: 'no, rule: filled in the forward pass',
    c0: 'yes, rule: a weight',
    token: 'yes, rule: a weight',
  });
});

it('knows the mean and deviation of an input, which may be moved and cast before', async () => {
  const s = new Sketch();
  const moved = s.add(
    'Transpose',
    [s.add('Cast', [s.input('x', ['batch', 4, 4, 3], 'uint8')], 'f', { to: 1 })],
    't',
    {
      perm: [0, 3, 1, 2],
    },
  );
  const channels = (name: string, data: number[]) => s.weight(name, floatsOf(data, [1, 3, 1, 1]));
  const centered = s.add('Sub', [moved, channels('mean', [124, 116, 104])], 'centered');
  const normal = s.add('Div', [centered, channels('std', [58, 57, 59])], 'normal');
  const scaled = s.add('Mul', [normal, channels('scale', [0.9, 1.1, 1.2])], 'scaled');
  const y = s.add('Conv', [scaled, s.weight('weight', [2, 3, 3, 3])], 'y');
  expect(await chosen(s.model([y]))).toEqual({
    mean: 'no, rule: normalizes an input',
    std: 'no, rule: normalizes an input',
    scale: 'yes, rule: a weight',
    weight: 'yes, rule: a weight',
  });
});

it('prints what no operator reads, and the addend of a product that is multiplied by zero', async () => {
  const s = new Sketch();
  const direct = s.weight('direct', [2]);
  const zero = s.weight('addend', floatsOf([0], []));
  const y = s.add('Gemm', [s.input('x', ['batch', 3]), s.weight('w', [3, 3]), zero], 'y', {
    beta: { type: 'float', value: 0 },
  });
  const { parameters } = await inspect(s.model([y, direct]), {}, sessionShapes);
  const why = Object.fromEntries(parameters.map(p => [p.name, p.why]));
  expect(why.w).toBe('a weight');
  expect(why.addend).toBe('multiplied by zero in Gemm');
  expect(parameters.find(p => p.name === 'direct')!.trains).toBe(false);
});

it('gives parameters that the program names, but the file does not have, back their names', async () => {
  const s = new Sketch();
  const x = s.input('x', ['batch', 3]);
  const [one, zero] = [
    say(s.weight('a.weight', floatsOf([1, 1, 1])), { [KIND]: 'PARAMETER' }),
    say(s.weight('a.bias', floatsOf([0, 0, 0])), { [KIND]: 'PARAMETER' }),
  ];
  sign(s, { 'a.weight': 'PARAMETER', 'a.bias': 'PARAMETER', 'b.weight': 'PARAMETER', 'b.bias': 'PARAMETER' });
  const h = s.add('LayerNormalization', [x, one, zero], 'h');
  const again = s.add('LayerNormalization', [h, one, zero], 'again');
  const y = s.add('LayerNormalization', [again, one, zero], 'y');
  const model = byPyTorch(s, y, {
    h: '%x, [3], %p_a_weight, %p_a_bias',
    again: '%h, [3], %p_a_weight, %p_a_bias',
    y: '%again, [3], %p_b_weight, %p_b_bias',
  });
  expect(await chosen(model)).toEqual(
    Object.fromEntries(
      ['a.weight', 'a.bias', 'b.weight', 'b.bias'].map(n => [n, 'yes, file: the file says: a parameter']),
    ),
  );
});

it('leaves the bias of a layer with one output one, though the layer is used twice', () => {
  const s = new Sketch();
  const [w, b] = [s.weight('head.weight', [8, 1]), s.weight('head.bias', floatsOf([0.3]))];
  const outputs = ['a', 'b'].map(name => s.add('Gemm', [s.input(name, [4, 8]), w, b], `${name}_y`));
  expect(splitMergedInitializers(s.model(outputs))).toBe(false);
});

it('takes merged scales and biases of fused layers apart', () => {
  const s = new Sketch();
  const [one, zero] = [s.weight('scale', floatsOf([1, 1, 1, 1])), s.weight('bias', floatsOf([0, 0, 0, 0]))];
  const fused = (op: string, inputs: Value[], name: string) => {
    const y = s.add(op, inputs, name);
    s.graph.nodes.at(-1)!.domain = 'com.microsoft';
    return y;
  };
  let h = s.input('x', ['batch', 2, 4]);
  for (const layer of ['a', 'b']) {
    const m = s.add('MatMul', [h, s.weight(`${layer}.weight`, [4, 4])], `${layer}_m`);
    h = fused(
      'SkipLayerNormalization',
      [fused('BiasGelu', [m, zero], `${layer}_g`), h, one, zero],
      `${layer}_n`,
    );
  }
  expect(splitMergedInitializers(s.model([h]))).toBe(true);
  const names = [...s.graph.initializers.keys()].map(v => v.name).sort();
  expect(names).toEqual(['a.weight', 'b.weight', 'bias', 'bias_1', 'bias_2', 'bias_3', 'scale', 'scale_1']);
});

it('leaves a layer its weights if the exporter folded a batch normalization into it', async () => {
  const s = new Sketch();
  const x = s.input('x', ['batch', 4]);
  const [weight, bias] = [s.weight('0.weight', [4, 4]), s.weight('0.bias', [4])];
  const [scale, shift] = [1, 0].map((fill, i) =>
    s.weight(`2.${i ? 'bias' : 'weight'}`, Tensor.filled('float32', [4], fill)),
  );
  sign(s, {
    '0.weight': 'PARAMETER',
    '0.bias': 'PARAMETER',
    '1.weight': 'PARAMETER',
    '1.bias': 'PARAMETER',
    ...{
      '2.weight': 'PARAMETER',
      '2.bias': 'PARAMETER',
      '1.running_mean': 'BUFFER',
      '1.running_var': 'BUFFER',
    },
  });
  const h = s.add('Gemm', [x, weight, bias], 'h');
  const y = s.add('LayerNormalization', [h, scale!, shift!], 'y');
  const call = '%linear, %p_1_weight, %p_1_bias, %b_1_running_mean, %b_1_running_var, 0.1, 1e-05';
  const model = byPyTorch(s, y, { h: call, y: '%a, [4], %p_2_weight, %p_2_bias, 1e-05, False' });
  expect(Object.keys(await chosen(model))).toEqual(['0.weight', '0.bias', '2.weight', '2.bias']);
});
