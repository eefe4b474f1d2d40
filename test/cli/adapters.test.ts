import { rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { loadModel } from '../../src/graph/files.js';
import { Tensor } from '../../src/graph/tensor.js';
import { readDescription } from '../../src/passes/file/step-metadata.js';
import { writeNpz } from '../../src/runtime/data/npz.js';
import { evaluate } from '../../src/runtime/evaluate/evaluate-model.js';
import { exportFrom } from '../../src/runtime/formats/export-from.js';
import { readOnnxAdapter, writeOnnxAdapter } from '../../src/runtime/formats/onnx-adapter.js';
import { Sketch } from '../sample.js';
import { agdOnnx, commandsIn, workplace } from './run.js';

const LOSS = ['--loss', 'cross-entropy'];
let folder: string;
beforeAll(async () => {
  folder = await workplace();
});

const names = async (file: string) =>
  [...(await loadModel(join(folder, file))).graph.initializers.keys()].map(v => v.name);

/** What Python's onnxruntime.AdapterFormat wrote: A of fc1 as arange(8) / 8, and B as arange(16) / 16. */
const RECORDED =
  'DAAAAFRPUlQAAAAAXP///wEAAAADAAAAAgAAAAQAAAACAAAAmAAAAAQAAAB8////aAAAAFAAAAABAAAABAAAAEAAAAAAAAAAAACAPQAAAD4AAEA+AACAPgAA' +
  'oD4AAMA+AADgPgAAAD8AABA/AAAgPwAAMD8AAEA/AABQPwAAYD8AAHA/AgAAAAIAAAAAAAAACAAAAAAAAAARAAAAZmMxLndlaWdodC5sb3JhX0IAAAAMABQA' +
  'BAAIAAwAEAAMAAAASAAAADAAAAABAAAABAAAACAAAAAAAAAAAAAAPgAAgD4AAMA+AAAAPwAAID8AAEA/AABgPwIAAAAEAAAAAAAAAAIAAAAAAAAAEQAAAGZj' +
  'MS53ZWlnaHQubG9yYV9BAAAA';

describe('an .onnx_adapter', () => {
  const values = async (file: string) =>
    new Map(
      [...(await loadModel(join(folder, file))).graph.initializers].map(([v, t]) => [v.name, t.numbers()]),
    );
  const run = (...args: string[]) => {
    const { code, err, out } = agdOnnx(folder, ...args);
    expect(err).toBe('');
    expect(code).toBe(0);
    return out;
  };
  const adapted = (name: string, spec: string) => {
    run('inject', 'model.onnx', ...LOSS, '--lora', spec, '-o', `${name}.agd.onnx`);
    run('export', `${name}.agd.onnx`, '--adapters-only', '-o', `${name}.onnx`);
  };
  beforeAll(() => {
    const recorded = Buffer.from(RECORDED, 'base64');
    writeFileSync(join(folder, 'fc1.onnx_adapter'), recorded);
    writeFileSync(join(folder, 'cut.onnx_adapter'), recorded.subarray(0, 150));
    adapted('adapted', 'fc1:r=2');
    adapted('other', 'fc2:r=2');
    adapted('rank1', 'fc1:r=1');
  }, 60_000);

  it('is merged into the weights', async () => {
    run('export', 'adapted.onnx', '--adapter', 'fc1.onnx_adapter', '-o', 'sum.onnx');
    const [before, after] = [await values('model.onnx'), await values('sum.onnx')];
    const a = (i: number, k: number) => (2 * i + k) / 8;
    const b = (k: number, o: number) => (8 * k + o) / 16;
    after.get('fc1.weight')!.forEach((w, at) => {
      const [i, o] = [Math.floor(at / 8), at % 8];
      const product = a(i, 0) * b(0, o) + a(i, 1) * b(1, o);
      expect(w - before.get('fc1.weight')![at]!).toBeCloseTo(product, 5);
    });
  });

  it('goes on training, and is written again', async () => {
    run('inject', 'adapted.onnx', ...LOSS, '--adapter', 'fc1.onnx_adapter', '-o', 'begun.agd.onnx');
    run('export', 'begun.agd.onnx', '--onnx-adapter', 'again.onnx_adapter');
    const read = (file: string) => readOnnxAdapter(join(folder, file));
    const [recorded, again] = [await read('fc1.onnx_adapter'), await read('again.onnx_adapter')];
    expect([...again.keys()].sort()).toEqual([...recorded.keys()].sort());
    for (const [name, tensor] of recorded) expect(again.get(name)!.numbers()).toEqual(tensor.numbers());
    // The weights are not as they were before, though no step was done.
    expect(run('export', 'begun.agd.onnx', '-o', 'begun.onnx')).not.toContain('step 0');
    expect(run('export', 'adapted.agd.onnx', '-o', 'new.onnx')).toContain('step 0');
    const merged = (await values('begun.onnx')).get('fc1.weight')!;
    expect(merged).not.toEqual((await values('model.onnx')).get('fc1.weight'));
    run(
      'train',
      'adapted.onnx',
      ...LOSS,
      '--adapter',
      'fc1.onnx_adapter',
      '--data',
      'train.npz',
      '-o',
      'on.onnx',
    );
    expect((await values('on.onnx')).get('fc1.weight')).not.toEqual(merged);
  });

  it.each([
    [
      'model.onnx',
      'fc1.onnx_adapter',
      "fc1.onnx_adapter is an adapter of another model: it has values for 'fc1.weight.lora_A', but the model has no adapters: use the file that export --adapters-only wrote beside it.",
    ],
    [
      'other.onnx',
      'fc1.onnx_adapter',
      "it has values for 'fc1.weight.lora_A', but the model's are 'fc2.weight.lora_A', 'fc2.weight.lora_B'.",
    ],
    [
      'rank1.onnx',
      'fc1.onnx_adapter',
      "its 'fc1.weight.lora_A' is of shape [4,2], which the model takes as [4,1].",
    ],
    ['adapted.onnx', 'cut.onnx_adapter', 'cut.onnx_adapter is damaged: '],
    [
      'adapted.onnx',
      'train.npz',
      'train.npz is not an .onnx_adapter of ONNX Runtime; --adapter takes such a file, or a folder of PEFT.',
    ],
  ])('%s does not take %s', (model, adapter, message) => {
    const { code, err } = agdOnnx(folder, 'export', model, '--adapter', adapter, '-o', 'x.onnx');
    expect(code).toBe(1);
    expect(err).toContain(message);
    expect(err.trim().split('\n')).toHaveLength(1);
  });
});

/** What the commands do that are not what a test is about, without a process for each. */
const apart = (where: string, state: string) =>
  exportFrom(join(where, state), join(where, 'apart.onnx'), { adaptersOnly: true });
const loss = async (where: string, file: string, data = 'test.npz') =>
  (await evaluate(join(where, file), join(where, data), { loss: { kind: 'cross-entropy' } })).loss;

describe('adapters', () => {
  it('is read from a configuration file, and may be repeated', async () => {
    const lora = [{ match: ['fc1', 'fc2'], r: 2, rslora: true }];
    writeFileSync(join(folder, 'lora.json'), JSON.stringify({ loss: 'cross-entropy', lora }));
    const read = agdOnnx(folder, 'inject', 'model.onnx', '--config', 'lora.json', '-o', 'config.onnx');
    expect(read.err).toBe('');
    const flags = ['--lora', 'fc1:r=2', '--lora', 'fc2:r=1,alpha=2,rslora'];
    const given = agdOnnx(folder, 'inject', 'model.onnx', ...LOSS, ...flags, '-o', 'flags.onnx');
    expect(given.err).toBe('');
    for (const file of ['config.onnx', 'flags.onnx'])
      expect(await names(file)).toEqual(expect.arrayContaining(['fc1.weight.lora_A', 'fc2.weight.lora_B']));
    expect((await loadModel(join(folder, 'flags.onnx'))).metadata.get('agd.adapters')).toContain(
      '"r":1,"alpha":2,"dropout":0,"rslora":true',
    );
  });

  it('before a text resume, and are evaluated inside the model and apart', async () => {
    const s = new Sketch();
    const ids = s.input('input_ids', ['batch', 'length'], 'int64');
    const found = s.add('Gather', [s.weight('embed.weight', [9, 4]), ids], 'found');
    const mean = s.add('ReduceMean', [found], 'mean', { axes: [1], keepdims: 0 });
    const own = await workplace(s.model([s.add('MatMul', [mean, s.weight('head.weight', [4, 3])], 'y')], 17));
    const rows = (n: number, dims: number[]) =>
      Tensor.from(
        'int64',
        dims,
        BigInt64Array.from({ length: n }, (_, i) => BigInt((i * i) % 3)),
      );
    await writeNpz(
      join(own, 'text.npz'),
      new Map([
        ['input_ids', rows(160, [32, 5])],
        ['target', rows(32, [32])],
      ]),
    );
    const flags = [
      ...LOSS,
      '--prompt-tokens',
      '2',
      '--data',
      'text.npz',
      '--batch-size',
      '8',
      '--accumulate',
      '2',
    ];
    const train = (epochs: number, ...more: string[]) =>
      agdOnnx(own, 'train', 'model.onnx', ...flags, '--epochs', `${epochs}`, ...more);
    const whole = train(2, '-o', 'whole.onnx');
    expect(whole.err).toBe('');
    expect(whole.out).toContain('trains 8 parameters');
    expect(train(1, '--state', 's.agd.onnx', '-o', 'half.onnx').err).toBe('');
    await apart(own, 's.agd.onnx');
    expect(await loss(own, 'half.onnx', 'text.npz')).toBe(await loss(own, 'apart.onnx', 'text.npz'));
    expect(train(2, '--state', 's.agd.onnx', '-o', 'resumed.onnx').err).toBe('');
    const [a, b] = await Promise.all(
      ['whole.onnx', 'resumed.onnx'].map(async file =>
        [...(await loadModel(join(own, file))).graph.initializers.values()].map(t => t.numbers()),
      ),
    );
    expect(a).toEqual(b);
    const again = agdOnnx(own, 'inject', 'whole.onnx', ...LOSS, '-o', 'again.onnx');
    expect(again.out).toContain('1 tensor, 32 B: prompt_embeddings');
    const wrong = agdOnnx(own, 'inject', 'model.onnx', ...LOSS, '--prefix-tokens', '2', '-o', 'x.onnx');
    expect(wrong).toMatchObject({
      code: 1,
      err: expect.stringMatching(/^agd-onnx: No virtual tokens: .*\n$/),
    });
  });

  it('of biases alone leave everything else, and have state for biases only', async () => {
    const flags = [...LOSS, '--freeze', '*', '--train', '*.bias', '--data', 'train.npz'];
    const run = agdOnnx(
      folder,
      'train',
      'model.onnx',
      ...flags,
      '--state',
      'bias.agd.onnx',
      '-o',
      'bias.onnx',
    );
    expect(run.err).toBe('');
    expect(run.out).toContain('trains 11 parameters');
    const values = async (file: string) =>
      new Map(
        [...(await loadModel(join(folder, file))).graph.initializers].map(([v, t]) => [v.name, t.numbers()]),
      );
    const [before, after] = [await values('model.onnx'), await values('bias.onnx')];
    const moved = [...before].filter(([name, x]) => `${x}` !== `${after.get(name)}`).map(([name]) => name);
    expect(moved).toEqual(['fc1.bias', 'fc2.bias']);
    const state = readDescription(await loadModel(join(folder, 'bias.agd.onnx'))).parameters;
    expect(state.map(p => p.name)).toEqual(['fc1.bias', 'fc2.bias']);
    const sizes = state.flatMap(p => Object.values(p.state));
    const stored = await names('bias.agd.onnx');
    expect(stored.filter(name => sizes.includes(name))).toHaveLength(sizes.length);
    expect(stored.filter(name => /weight.+exp_avg|weight.+moment/.test(name))).toEqual([]);
  });

  it('are of several methods, each of which PEFT has in a folder', async () => {
    const both = ['--lora', 'fc1,fc2:r=2', '--ia3', 'fc2', '--data', 'train.npz', '--accumulate', '2'];
    const { run, fail } = commandsIn(folder);
    for (const epochs of ['1', '2'])
      run('train', 'model.onnx', ...LOSS, ...both, '--state', 's.onnx', '--epochs', epochs, '-o', 'm.onnx');
    expect(await names('m.onnx')).toEqual(await names('model.onnx'));
    expect(run('export', 's.onnx', '--peft', 'several')).toContain(
      'load several/lora, then several/ia3, with merge_and_unload() before each of the others',
    );
    const at = (name: string) => join(folder, name);
    await exportFrom(at('model.onnx'), at('again.onnx'), { adapter: at('several') });
    const values = async (file: string) => [
      ...(await loadModel(join(folder, file))).graph.initializers.values(),
    ];
    const [merged, again] = [await values('m.onnx'), await values('again.onnx')];
    merged.forEach((tensor, i) => {
      const other = again[i]!.numbers();
      tensor.numbers().forEach((x, at) => {
        expect(x).toBeCloseTo(other[at]!, 6);
      });
    });
    run('train', 'model.onnx', ...LOSS, '--adapter', 'several', '--data', 'train.npz', '-o', 'on.onnx');
    await writeOnnxAdapter(await loadModel(at('s.onnx')), at('both.onnx_adapter'));
    await apart(folder, 's.onnx');
    await exportFrom(at('apart.onnx'), at('set.onnx'), { adapter: at('both.onnx_adapter') });
    run('inject', 'model.onnx', ...LOSS, '--lora', 'fc1:r=2', '-o', 'one.onnx');
    expect(fail('export', 'one.onnx', '--peft', 'several')).toMatch(
      /^agd-onnx: 'several' has lora.adapter_config.json, of other adapters than the model's: choose another folder/,
    );
  });

  it('goes on with the adapters of a file, and merges them', async () => {
    const step = agdOnnx(folder, 'inject', 'model.onnx', ...LOSS, '--lora', 'fc1:r=2', '-o', 'a.onnx');
    expect(step.err).toBe('');
    expect(agdOnnx(folder, 'export', 'a.onnx', '--adapters-only', '-o', 'apart.onnx').err).toBe('');
    const run = agdOnnx(folder, 'train', 'apart.onnx', ...LOSS, '--data', 'train.npz', '-o', 'merged.onnx');
    expect(run.err).toBe('');
    expect(run.out).toContain('trains 24 parameters');
    expect(await names('merged.onnx')).toEqual(await names('model.onnx'));
    const twice = agdOnnx(folder, 'inject', 'apart.onnx', ...LOSS, '--lora', 'fc1', '-o', 'b.onnx');
    expect(twice.err).toContain('The model already has adapters, which continue training without --lora');
  });

  it.each([
    ['--lora', 'fc1,fc2:r=2,dora,dropout=0.1', 57],
    ['--ia3', 'fc1,fc2:feedforward', 12],
  ])('%s %s resumes, accumulates, merges, and evaluates apart', async (flag, text, count) => {
    const flags = [...LOSS, flag, text, '--accumulate', '2'];
    const data = ['--data', 'train.npz', '--batch-size', '32', '--seed', '3'];
    rmSync(join(folder, 'half.agd.onnx'), { force: true });
    const whole = agdOnnx(
      folder,
      'train',
      'model.onnx',
      ...flags,
      ...data,
      '--epochs',
      '2',
      '-o',
      'whole.onnx',
    );
    expect(whole.err).toBe('');
    expect(whole.out).toContain(`trains ${count} parameters`);
    const half = ['--epochs', '1', '--state', 'half.agd.onnx', '-o', 'half.onnx'];
    expect(agdOnnx(folder, 'train', 'model.onnx', ...flags, ...data, ...half).err).toBe('');
    await apart(folder, 'half.agd.onnx');
    const rest = ['--epochs', '2', '--state', 'half.agd.onnx', '-o', 'resumed.onnx'];
    expect(agdOnnx(folder, 'train', 'model.onnx', ...flags, ...data, ...rest).err).toBe('');
    const values = async (file: string) =>
      [...(await loadModel(join(folder, file))).graph.initializers.values()].map(t => t.numbers());
    expect(await values('resumed.onnx')).toEqual(await values('whole.onnx'));
    expect(await names('whole.onnx')).toEqual(await names('model.onnx'));
    expect(await values('whole.onnx')).not.toEqual(await values('model.onnx'));
    const [merged, beside] = [await loss(folder, 'half.onnx'), await loss(folder, 'apart.onnx')];
    expect(beside).toBeCloseTo(merged, 5);
  });

  it.each([
    [
      'fc9:r=2',
      "--lora 'fc9' matches no layer that multiplies with a weight; there are 'fc1' (Gemm, 4 to 8), 'fc2' (Gemm, 8 to 3).",
    ],
    ['fc1:r=5', "--lora: rank 5 is above that of layer 'fc1' (Gemm, 4 to 8), which is at most 4."],
    ['fc1:rank=5', "unknown setting 'rank' of adapters; expected one of r, alpha, dropout, rslora, dora."],
    ['fc1:r=0', 'r must be a whole number of at least 1'],
    ['fc1:rank', "--lora 'fc1:rank' matches no layer", '--lora'],
    [
      'fc9:feedforward',
      "--ia3 'fc9' matches no layer that multiplies with a weight; there are 'fc1'",
      '--ia3',
    ],
    ['fc1:r=5', "unknown setting 'r' of adapters; expected one of feedforward.", '--ia3'],
  ])('%s is refused in one line', (text, message, flag = '--lora') => {
    const { code, err } = agdOnnx(folder, 'inject', 'model.onnx', ...LOSS, flag, text, '-o', 'x.onnx');
    expect(code).toBe(1);
    expect(err).toContain(message);
    expect(err.trim().split('\n')).toHaveLength(1);
  });

  it.each([
    [['--peft', 'p'], 'The model has no adapters: train it with --lora first.'],
    [['--onnx-adapter', 'p.onnx_adapter'], 'The model has no adapters: train it with --lora first.'],
    [['--adapter', 'nothing'], 'Cannot read '],
  ])('export %j of a model without', (flags, message) => {
    const { code, err } = agdOnnx(folder, 'export', 'model.onnx', ...flags);
    expect(code).toBe(1);
    expect(err).toContain(message);
  });
});
