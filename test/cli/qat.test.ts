import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { loadModel, saveModel } from '../../src/graph/files.js';
import { Tensor } from '../../src/graph/tensor.js';
import { QUANTIZATION_OPTIONS } from '../../src/passes/options/quantization.js';
import { writeNpz } from '../../src/runtime/data/npz.js';
import { ints, spread } from '../ops/vjp.js';
import { Sketch } from '../sample.js';
import { agdOnnx, workplace } from './run.js';

const LOSS = ['--loss', 'cross-entropy'];
const DATA = [...LOSS, '--data', 'train.npz', '--lr', '1e-2'];
let folder: string;
beforeAll(async () => {
  folder = await workplace();
});

const run = (...args: string[]) => {
  const outcome = agdOnnx(folder, ...args);
  expect(outcome.err).toBe('');
  return outcome.out;
};
const typesIn = async (file: string) =>
  new Map([...(await loadModel(join(folder, file))).graph.initializers].map(([v, t]) => [v.name, t.dtype]));
const bytes = (file: string) => readFileSync(join(folder, file));

describe('--qat', () => {
  it('trains a file of integers, which evaluate and predict run as it was validated', async () => {
    const qat = ['--qat', 'int8:reduce-range=true'];
    const out = run(
      'train',
      'model.onnx',
      ...DATA,
      '--val',
      'test.npz',
      ...qat,
      '--epochs',
      '3',
      '-o',
      'q.onnx',
    );
    const validated = Number(/epoch 3\/3 .* val loss ([\d.]+)/.exec(out)![1]);
    const types = await typesIn('q.onnx');
    expect(types.get('fc1.weight_quantized')).toBe('int8');
    expect(types.get('fc1.bias_quantized')).toBe('int32');
    expect(types.has('fc1.weight')).toBe(false);
    const evaluated = run('evaluate', 'q.onnx', ...LOSS, '--data', 'test.npz');
    expect(Number(/loss\s+([\d.]+)/.exec(evaluated)![1])).toBeCloseTo(validated, 2);
    run('predict', 'q.onnx', '--data', 'test.npz', '-o', 'predicted.npz');
  });

  it.each([
    ['int8:method=lsq', ['--accumulate', '2'], 'int8', 18],
    ['int8:method=ema', ['--accumulate', '2', '--ema', '0.9', '--checkpoint-activations'], 'int8', 18],
    ['int4', ['--optimizer', 'sgd'], 'int4', 21],
  ])('%s continues where it stopped (%j), and stores %s in opset %i', async (qat, more, dtype, opset) => {
    const args = [...DATA, '--qat', qat, ...more];
    run('train', 'model.onnx', ...args, '--epochs', '2', '-o', 'whole.onnx');
    run('train', 'model.onnx', ...args, '--epochs', '1', '--state', `${qat}.agd.onnx`, '-o', 'half.onnx');
    run('train', 'model.onnx', ...args, '--epochs', '2', '--state', `${qat}.agd.onnx`, '-o', 'rest.onnx');
    expect(bytes('rest.onnx').equals(bytes('whole.onnx'))).toBe(true);
    expect(bytes('half.onnx').equals(bytes('whole.onnx'))).toBe(false);
    run('export', `${qat}.agd.onnx`, '-o', 'exported.onnx');
    expect(bytes('exported.onnx').equals(bytes('whole.onnx'))).toBe(true);
    expect((await typesIn('whole.onnx')).get('fc1.weight_quantized')).toBe(dtype);
    expect((await loadModel(join(folder, 'whole.onnx'))).opset).toBe(opset);
    run('evaluate', 'whole.onnx', ...LOSS, '--data', 'test.npz');
  });

  it('is read from a configuration file, leaves what it is to skip, and freezes', async () => {
    const qat = { weights: 'int8', method: 'lsq', activations: 'int8', perChannel: false, skip: 'fc2.*' };
    writeFileSync(
      join(folder, 'qat.json'),
      JSON.stringify({ loss: 'cross-entropy', qat, freeze: ['fc1.*'] }),
    );
    run('train', 'model.onnx', '--config', 'qat.json', '--data', 'train.npz', '-o', 'config.onnx');
    const flag = 'int8:method=lsq,activations=int8,per-channel=false,skip=fc2.*';
    run(
      'train',
      'model.onnx',
      ...LOSS,
      '--data',
      'train.npz',
      '--qat',
      flag,
      '--freeze',
      'fc1.*',
      '-o',
      'f.onnx',
    );
    expect(bytes('config.onnx').equals(bytes('f.onnx'))).toBe(true);
    const types = await typesIn('f.onnx');
    expect(types.get('fc2.weight')).toBe('float32');
    expect(types.get('x_zero_point')).toBe('int8');
    expect(types.has('fc1.weight_quantized')).toBe(true);
  });

  it('is injected with data to calibrate on', async () => {
    run('inject', 'model.onnx', ...LOSS, '--qat', 'int8', '--calibrate', 'train.npz', '-o', 'step.agd.onnx');
    run('train', 'step.agd.onnx', '--data', 'train.npz', '-o', 'step.onnx');
    expect((await typesIn('step.onnx')).get('fc1.weight_quantized')).toBe('int8');
  });

  it.each([
    ['int8:rang=1', "Unknown setting 'rang'; expected one of method, activations"],
    ['int8:weights=int4', "Unknown setting 'weights'"],
    ['int8:method=max', "method must be one of lsq, ema, fixed, in 'method=max'"],
  ])('%s is rejected', (text, message) => {
    expect(() => QUANTIZATION_OPTIONS.qat.parse(text)).toThrow(message);
  });

  it('is compared like other training, with ranges of the samples to train on', () => {
    const compared = (out: string, ...flags: string[]) => {
      run(
        'compare',
        'model.onnx',
        ...LOSS,
        '--data',
        'train.npz',
        '--val-split',
        '0.25',
        ...flags,
        '-o',
        out,
      );
      return JSON.parse(bytes(join(out, 'results.json')).toString()).runs[0].losses as number[];
    };
    const one = ['--optimizers', 'adam', '--lr', '1e-3', '--seeds', '1'];
    const [float, rounded] = [compared('float', ...one), compared('rounded', ...one, '--qat', 'int8')];
    expect(rounded).toHaveLength(float.length);
    expect(rounded).not.toEqual(float);
    expect(Math.abs(rounded[0]! - float[0]!)).toBeLessThan(0.1);
  });

  it('calibrates with inputs that are computed from the tokens', async () => {
    const s = new Sketch();
    const ids = s.input('input_ids', ['n', 's'], 'int64');
    const mask = s.input('attention_mask', ['n', 's'], 'int64');
    const kept = s.add(
      'Unsqueeze',
      [s.add('Cast', [mask], 'm', { to: 1 }), s.weight('axis', ints([-1]))],
      'k',
    );
    const table = s.weight('table', spread([6, 4], [-1, 1], 3));
    const h = s.add('Mul', [s.add('Gather', [table, ids], 'e'), kept], 'h');
    const head = s.weight('head', spread([4, 6], [-1, 1], 5));
    await saveModel(s.model([s.add('MatMul', [h, head], 'logits')], 17), join(folder, 'tokens.onnx'));
    const tokens = ints([0, 1, 2, 3, 4, 5, 5, 4, 3, 2, 1, 0], [4, 3]);
    await writeNpz(
      join(folder, 'tokens.npz'),
      new Map([
        ['input_ids', tokens],
        ['target', tokens],
      ]),
    );
    const qat = [...LOSS, '--qat', 'int8'];
    run('train', 'tokens.onnx', ...qat, '--data', 'tokens.npz', '-o', 'out.onnx');
    expect((await typesIn('out.onnx')).get('head_quantized')).toBe('int8');
    const out = run('inject', 'tokens.onnx', ...qat, '--calibrate', 'tokens.npz', '-o', 'tokens.agd.onnx');
    expect(out).toContain("The data have no array for 'attention_mask' (ones): computed from the tokens.");
    run('train', 'tokens.agd.onnx', '--data', 'tokens.npz', '-o', 'out.onnx');
    expect((await typesIn('out.onnx')).get('head_quantized')).toBe('int8');
  });

  it("calibrates by the model's recipe", async () => {
    const rows = Array.from({ length: 24 }, (_, i) => `${i},${(i >> 1) % 3},${'pqr'[i % 3]}`);
    writeFileSync(join(folder, 'rows.csv'), `a,b,kind\n${rows.join('\n')}\n`);
    const columns = 'x=a:standardize,b:one-hot';
    const trained = ['--data', 'rows.csv', '--columns', columns, '--label', 'kind', ...LOSS];
    run('train', 'model.onnx', ...trained, '--epochs', '1', '-o', 'known.onnx');
    run('inject', 'known.onnx', ...LOSS, '--qat', 'int8', '--calibrate', 'rows.csv', '-o', 'known.agd.onnx');
    const { initializers } = (await loadModel(join(folder, 'known.agd.onnx'))).graph;
    const [, range] = [...initializers].find(([v]) => v.name === 'x_range')!;
    expect(range.numbers()[1]).toBeLessThan(2);
  });

  it.each([
    [['--qat', 'int9'], '--qat: weights must be one of int8, int4, not "int9"'],
    [
      ['--qat', 'int8:skip=*', '--calibrate', 'train.npz'],
      "Nothing to quantize: 'skip' leaves out all layers that could be, 'Gemm'",
    ],
    [
      ['--qat', 'int8:skip=fc9', '--calibrate', 'train.npz'],
      "--qat: skip 'fc9' matches no layer that is quantized; there are 'Gemm'",
    ],
    [['--qat', 'int8', '--prompt-tokens', '4'], '--qat cannot be combined with --prompt-tokens'],
    [['--qat', 'int8', '--lora', 'fc1'], '--qat cannot be combined with --lora'],
    [['--qat', 'int8'], 'initial ranges: with inject, --calibrate FILE'],
    [['--calibrate', 'train.npz'], '--calibrate needs --qat.'],
    [['--qat', 'int8', '--calibrate', 'nothing.npz'], 'nothing.npz'],
  ])('%j is refused in one line', (flags, message) => {
    const { code, err } = agdOnnx(folder, 'inject', 'model.onnx', ...LOSS, ...flags, '-o', 'x.onnx');
    expect(err).toContain(message);
    expect(err.trim().split('\n')).toHaveLength(1);
    expect(code).toBe(1);
  });

  it('takes no weights of 16 bits', async () => {
    const s = new Sketch();
    const w = s.weight('w', Tensor.filled('float16', [4, 3], 0.5));
    const y = s.add('MatMul', [s.add('Cast', [s.input('x', ['n', 4])], 'h', { to: 10 }), w], 'm');
    await saveModel(s.model([s.add('Cast', [y], 'y', { to: 1 })]), join(folder, 'half.onnx'));
    const { code, err } = agdOnnx(folder, 'train', 'half.onnx', ...DATA, '--qat', 'int8', '-o', 'x.onnx');
    expect(code).toBe(1);
    expect(err).toContain("--qat takes float32 models: 'w' of 'MatMul' (node 'm_node') is float16.");
  });
});
