import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { RunRecord } from '../../cli/run-record.js';
import { renderRun } from '../../cli/run-report.js';
import { loadModel, saveModel } from '../../src/graph/files.js';
import { decodeModel, encodeModel } from '../../src/graph/proto/codec.js';
import { Tensor } from '../../src/graph/tensor.js';
import { readDescription } from '../../src/passes/file/step-metadata.js';
import { decodeSafetensors, encodeSafetensors } from '../../src/runtime/data/safetensors.js';
import { spread } from '../ops/vjp.js';
import { mlp, mlpData, Sketch } from '../sample.js';
import { agdOnnx, start, workplace } from './run.js';

let folder: string;
beforeAll(async () => {
  folder = await workplace();
});
const file = (name: string) => join(folder, name);
const run = (...args: string[]) => agdOnnx(folder, ...args);
const ok = (...args: string[]) => {
  const result = run(...args);
  expect(result).toMatchObject({ code: 0, err: '' });
  return result.out;
};

describe('help', () => {
  it.each(['inspect', 'inject', 'train', 'compare', 'export', 'grad', 'landscapes', 'demo'])(
    'of %s tells its options',
    command => {
      const out = ok(command, '--help');
      expect(out).toContain(`agd-onnx ${command}`);
      expect(out).toContain('--help');
    },
  );
  it('lists the commands', () => {
    expect(ok('--help')).toMatch(/train.*inspect.*inject.*export.*grad.*demo/s);
  });
  it('tells the version', () => {
    expect(ok('--version').trim()).toBe(JSON.parse(readFileSync('package.json', 'utf8')).version);
  });
});

describe('inspect', () => {
  it('prints what a model is made of', () => {
    const out = ok('inspect', 'model.onnx');
    expect(out).toContain('forward model');
    expect(out).toMatch(/fc1\.weight\s+float32\[4,8\]\s+32\s+128 B\s+yes/);
    expect(out).toMatch(/Gemm\s+2\s+yes\s+yes/);
    expect(out).toContain('--loss KIND');
  });
  it('prints JSON', () => {
    const found = JSON.parse(
      ok('inspect', 'model.onnx', '--json', '--freeze', 'fc1.*', '--output', 'logits'),
    );
    expect(
      found.parameters.filter((p: { trains: boolean }) => p.trains).map((p: { name: string }) => p.name),
    ).toEqual(['fc2.weight', 'fc2.bias']);
  });
});

describe('inject', () => {
  it('tells which optimizer has which option, and its default', () => {
    const help = ok('inject', '--help-all').replace(/\s+/g, ' ');
    expect(help).toContain('Optimizer: agd, sgd, adam');
    expect(help).toMatch(/--lr Learning rate \[0\.001;[^\]]* adahessian: 0\.15[;\]]/);
    expect(help).toContain('Momentum dampening [sgd: 0]');
    expect(help).toMatch(/--momentum Momentum \[sgd, rmsprop[^\]]*: 0/);
    expect(help).toContain('[agd, adabelief: on]');
    expect(help).toMatch(
      /\[adam, [^\]]*adabound, [^\]]*: 1e-8; adahessian, shampoo: 0\.0001; [^\]]*adabelief: 1e-16[;\]]/,
    );
  });
  it('writes the graph for the execution provider that --for names', async () => {
    ok('inject', 'model.onnx', '--loss', 'mse', '--for', 'cuda', '-o', 'cuda.agd.onnx');
    const model = await loadModel(file('cuda.agd.onnx'));
    expect(readDescription(model).provider).toBe('cuda');
    expect([...model.graph.initializers.values()].some(t => t.dtype === 'float64')).toBe(false);
    const refused = run('inject', 'model.onnx', '--loss', 'mse', '--for', 'gpu', '-o', 'gpu.agd.onnx');
    expect(refused.code).toBe(1);
    expect(refused.err).toContain('--for must be one of cpu, cuda, webgpu');
  });
  it('writes the optimizer that is named, as inspect shows', () => {
    const group = ['--group', '*.bias: weight_decay=0'];
    ok('inject', 'model.onnx', '--loss', 'mse', '--optimizer', 'adamw', ...group, '-o', 'w.agd.onnx');
    const out = ok('inspect', 'w.agd.onnx');
    expect(out).toContain('outputs  logits float32[batch,3], loss float32[]\n');
    expect(out).toContain('update   adamw: lr 0.001, betas 0.9,0.999, eps 1e-8, weightDecay 0.01\n');
    expect(out).toContain('group    fc1.bias, fc2.bias: weightDecay 0\n');
    expect(out).toContain('state    13 tensors');
  });
  it('writes a training step and says what it did', async () => {
    const out = ok(
      'inject',
      'model.onnx',
      '--loss',
      'cross-entropy',
      '-o',
      'a.agd.onnx',
      '--lr',
      '0.01',
      '--delta',
      '1e-4',
      '--betas',
      '0.8,0.99',
      '--weight-decay',
      '0.1',
    );
    expect(out).toMatch(/trains\s+4 tensors, 268 B: fc1\.weight, fc1\.bias, fc2\.weight, fc2\.bias/);
    expect(out).toMatch(/nodes\s+3 before, \d+ after/);
    expect(out).toMatch(/state\s+5\d\d B/);
    const { optimizer } = readDescription(await loadModel(file('a.agd.onnx')));
    expect(optimizer).toMatchObject({
      name: 'agd',
      options: { lr: 0.01, delta: 1e-4, betas: [0.8, 0.99], weightDecay: 0.1 },
    });
  });
  it('takes its globs', async () => {
    ok(
      'inject',
      'model.onnx',
      '--loss',
      'cross-entropy',
      '-o',
      'b.agd.onnx',
      '--train',
      '*',
      '--freeze',
      '*.bias',
    );
    const { parameters } = readDescription(await loadModel(file('b.agd.onnx')));
    expect(parameters.map(p => p.name)).toEqual(['fc1.weight', 'fc2.weight']);
  });
  it('writes ONNX’s own form of training, which train reads', async () => {
    ok('inject', 'model.onnx', '--loss', 'cross-entropy', '--format', 'training-info', '-o', 'info.onnx');
    const { graph, trainingInfo } = await loadModel(file('info.onnx'));
    expect(graph.outputs.map(v => v.name)).toEqual(['logits']);
    expect(trainingInfo[0]!.updates.length).toBeGreaterThan(4);
    const out = ok(
      'train',
      'info.onnx',
      '--data',
      'train.npz',
      '--verbose',
      '--val',
      'test.npz',
      '-o',
      'info.t.onnx',
    );
    expect(out).toContain('update   as the model brings it');
    const other = run('train', 'info.onnx', '--data', 'train.npz', '--optimizer', 'adam');
    expect([other.code, other.err]).toEqual([1, expect.stringContaining('or --replace-optimizer')]);
    // The gradients come from no Gradient operator, so that no other optimizer can follow them.
    const { code, err } = run('train', 'info.onnx', '--data', 'train.npz', '--replace-optimizer');
    expect([code, err]).toEqual([1, expect.stringContaining('neither a Gradient nor an optimizer operator')]);
  });
  it('keeps the options of the loss', async () => {
    const options = [
      '--label-smoothing',
      '0.1',
      '--ignore-index',
      '2',
      '--class-weights',
      '1,2,0.5',
      '--class-axis',
      '1',
      '--target',
      'labels',
      '--output',
      'logits',
    ];
    ok('inject', 'model.onnx', '--loss', 'cross-entropy', '-o', 'c.agd.onnx', ...options);
    expect(readDescription(await loadModel(file('c.agd.onnx'))).loss).toMatchObject({
      kind: 'cross-entropy',
      labelSmoothing: 0.1,
      ignoreIndex: 2,
      classWeights: [1, 2, 0.5],
      classAxis: 1,
      target: 'labels',
    });
  });
});

describe('train', () => {
  const train = (out: string, seed = 5, ...more: string[]) =>
    ok(
      'train',
      'model.onnx',
      '--loss',
      'cross-entropy',
      '--data',
      'train.npz',
      '--val',
      'test.npz',
      '--epochs',
      '3',
      '--batch-size',
      '32',
      '--lr',
      '0.02',
      '--seed',
      String(seed),
      '-o',
      out,
      ...more,
    );

  it('trains a plain model and puts the weights back into it', async () => {
    const out = train('t.onnx', 5, '--log', 'log.jsonl');
    expect(out).toMatch(/epoch 3\/3\s+train loss [\d.]+\s+val loss [\d.]+\s+val accuracy [\d.]+ %/);
    expect(out).toContain('done after 24 steps');
    const [before, after] = [readFileSync(file('model.onnx')), readFileSync(file('t.onnx'))];
    expect(after.length).toBe(before.length);
    expect(after.equals(before)).toBe(false);
    const events = readFileSync(file('log.jsonl'), 'utf8')
      .trim()
      .split('\n')
      .map(line => JSON.parse(line));
    expect(events.filter(e => e.type === 'step')).toHaveLength(24);
    expect(events.at(-1)).toMatchObject({ type: 'end', stopped: false, steps: 24 });
  });
  it('writes a page with the curves and the command that made it', () => {
    expect(train('r.onnx', 5, '--report', 'report.html', '--telemetry', '4')).toContain('wrote report.html');
    const page = readFileSync(file('report.html'), 'utf8');
    for (const title of [
      'Loss of each step',
      'Accuracy after each epoch',
      'Share of coordinates in steps of SGD',
    ])
      expect(page).toContain(title);
    expect(page).toContain('Trained on 256 samples of train.npz.');
    expect(page.replace(/<.?span>/g, '')).toMatch(/agd-onnx train model\.onnx .*--report report\.html/);
    expect(page).not.toMatch(/(src|href)="http/);
    expect(page).not.toContain('largest of');
  });
  it('draws the largest tensors where there are more than colours, and says so', () => {
    const record = new RunRecord();
    const parameters = Array.from({ length: 10 }, (_, i) => ({ name: `p${i}`, size: i === 3 ? 1 : 5 + i }));
    const row = ({ name }: { name: string }) => ({
      parameter: name,
      values: { update: 1, grad_norm: 1, update_norm: 1 },
    });
    record.telemetry.push(parameters.map(row));
    record.losses.push(1);
    const types = parameters.map(({ name, size }) => {
      return { name, dtype: 'float32', shape: [size], trains: true, why: '' };
    });
    const description = readDescription(decodeModel(readFileSync(file('a.agd.onnx'))));
    const counts = { nodes: { before: 1, after: 2 }, bytes: { parameters: 1, state: 1 } };
    record.injected = { type: 'injected', time: 0, parameters: types, warnings: [], ...counts, description };
    const page = renderRun(record, { title: 't', subtitle: 's', code: 'c' });
    expect(page).toContain('The 8 largest of 10 tensors; --log writes all.');
    for (const [i, { name }] of parameters.entries())
      expect(page.includes(`>${name}</text>`), name).toBe(i !== 3 && i !== 0);
  });
  it('makes zero of numbers too small to be normal', async () => {
    const model = mlp();
    const bias = () => [...model.graph.initializers].find(([v]) => v.name === 'fc1.bias')![1];
    bias().data[0] = 1e-40;
    await saveModel(model, file('tiny.onnx'));
    ok(
      'train',
      'tiny.onnx',
      '--data',
      'train.npz',
      '--loss',
      'cross-entropy',
      '--lr',
      '0',
      '-o',
      'same.onnx',
    );
    const trained = await loadModel(file('same.onnx'));
    const after = [...trained.graph.initializers].find(([v]) => v.name === 'fc1.bias')![1];
    expect(after.numbers()).toEqual([0, ...bias().numbers().slice(1)]);
  });
  it('computes activations again, with the same result', () => {
    const losses = (...more: string[]) => train('k.onnx', 3, ...more).match(/loss [\d.]+/g);
    const plain = losses();
    expect(plain?.length).toBeGreaterThan(1);
    expect(losses('--checkpoint-activations')).toEqual(plain);
    expect(losses('--checkpoint-segments', '2')).toEqual(plain);
  });
  it('ends a schedule with the run, where it does not say when it ends', () => {
    const learning = (...more: string[]) =>
      /learning rate .*/.exec(train('c.onnx', 5, '--verbose', ...more))?.[0];
    expect(learning('--schedule', 'cosine:warmup=2')).toBe('learning rate cosine warmup=2 total=24');
    expect(learning('--schedule', 'one-cycle', '--accumulate', '4')).toMatch('one-cycle total=6;');
    expect(learning('--schedule', 'linear:total=50')).toBe('learning rate linear total=50');
    expect(learning('--schedule', 'cosine:period=5')).toBe('learning rate cosine period=5');
  });
  it('gives the same bytes for the same seed, and others for another', () => {
    train('s1.onnx');
    train('s2.onnx');
    train('s3.onnx', 6);
    const bytes = (name: string) => readFileSync(file(name));
    expect(bytes('s2.onnx').equals(bytes('s1.onnx'))).toBe(true);
    expect(bytes('s3.onnx').equals(bytes('s1.onnx'))).toBe(false);
  });
  it('goes on from a state as if it had not stopped', () => {
    train('whole.onnx');
    const some = [
      'train',
      'model.onnx',
      '--loss',
      'cross-entropy',
      '--data',
      'train.npz',
      '--batch-size',
      '32',
      '--lr',
      '0.02',
      '--seed',
      '5',
    ];
    ok(...some, '--epochs', '1', '--state', 'half.agd.onnx', '-o', 'half.onnx');
    ok(
      'train',
      'half.agd.onnx',
      '--data',
      'train.npz',
      '--batch-size',
      '32',
      '--seed',
      '5',
      '--epochs',
      '3',
      '-o',
      'rest.onnx',
    );
    expect(readFileSync(file('rest.onnx')).equals(readFileSync(file('whole.onnx')))).toBe(true);
  });
  it('stops at Ctrl-C with a state that training goes on from', async () => {
    const args = ['--data', 'train.npz', '--batch-size', '4', '--epochs', '2000'];
    const child = start(
      folder,
      'train',
      'model.onnx',
      '--loss',
      'cross-entropy',
      ...args,
      '-o',
      'c.onnx',
      '--state',
      'stopped.agd.onnx',
    );
    let out = '';
    let err = '';
    child.stderr.on('data', text => {
      err += text;
    });
    let asked = false;
    child.stdout.on('data', text => {
      out += text;
      if (/epoch\s+1\//.test(out) && !asked) asked = child.kill('SIGINT');
    });
    const code = await new Promise(resolve => child.on('close', resolve));
    expect({ code, err }).toEqual({ code: 130, err: '' });
    expect(out).toContain('saved state to stopped.agd.onnx');
    expect(out).toContain(
      'resume with: agd-onnx train stopped.agd.onnx --data train.npz --epochs 2000 --batch-size 4 ',
    );
    expect(out).toMatch(/stopped after [\d,]+ steps/);
    decodeModel(readFileSync(file('c.onnx')));
    const done = Number(/stopped after ([\d,]+) steps/.exec(out)![1]!.replace(',', ''));
    const more = ok(
      'train',
      'stopped.agd.onnx',
      '--data',
      'train.npz',
      '--batch-size',
      '64',
      '--epochs',
      String(Math.ceil(done / 4) + 1),
      '-o',
      'd.onnx',
    );
    expect(more).toMatch(/done after/);
  });
  it('takes arrays under other names, and a scale', async () => {
    const { x, target } = Object.fromEntries(mlpData(64));
    writeFileSync(
      file('other.safetensors'),
      encodeSafetensors(
        new Map([
          ['features', x!],
          ['labels', target!],
        ]),
      ),
    );
    const args = [
      '--loss',
      'cross-entropy',
      '--data',
      'other.safetensors',
      '--map',
      'x=features',
      '--map',
      'target=labels',
    ];
    ok(
      'train',
      'model.onnx',
      ...args,
      '-o',
      'm.onnx',
      '--scale',
      'x=1/2',
      '--threads',
      '1',
      '--device',
      'cpu',
    );
    expect(existsSync(file('m.onnx'))).toBe(true);
  });
});

describe('export', () => {
  it('takes the trained model out of a state, byte for byte what train wrote', () => {
    const args = ['--loss', 'cross-entropy', '--data', 'train.npz', '--epochs', '2'];
    ok('train', 'model.onnx', ...args, '-o', 'e.onnx', '--state', 'e.agd.onnx');
    ok('export', 'e.agd.onnx', '-o', 'e2.onnx');
    expect(readFileSync(file('e2.onnx')).equals(readFileSync(file('e.onnx')))).toBe(true);
  });
  it('gives the original back before any training', async () => {
    ok('inject', 'model.onnx', '--loss', 'cross-entropy', '-o', 'o.agd.onnx');
    ok('export', 'o.agd.onnx', '-o', 'o.onnx');
    expect(readFileSync(file('o.onnx')).equals(readFileSync(file('model.onnx')))).toBe(true);
  });
});

describe('grad', () => {
  it('writes loss and gradients, and compares them with finite differences', () => {
    writeFileSync(file('batch.safetensors'), encodeSafetensors(mlpData(8)));
    const out = ok(
      'grad',
      'model.onnx',
      '--loss',
      'cross-entropy',
      '--inputs',
      'batch.safetensors',
      '-o',
      'g.safetensors',
      '--check',
    );
    expect(out).toMatch(/fc1\.weight\s+\d+\s+[\d.e-]+\s+ok/);
    const { tensors } = decodeSafetensors(readFileSync(file('g.safetensors')));
    expect([...tensors.keys()].sort()).toEqual(['fc1.bias', 'fc1.weight', 'fc2.bias', 'fc2.weight', 'loss']);
    expect(tensors.get('fc1.weight')!.dims).toEqual([4, 8]);
  });
  it('compares with dropout too, and says what it cannot compare', () => {
    writeFileSync(file('rounding.onnx'), encodeModel(rounding()));
    writeFileSync(file('batch.safetensors'), encodeSafetensors(mlpData(8)));
    const given = [
      '--loss',
      'cross-entropy',
      '--inputs',
      'batch.safetensors',
      '-o',
      'r.safetensors',
      '--check',
    ];
    const out = ok('grad', 'rounding.onnx', ...given, '--straight-through', '--dropout', 'train');
    expect(out).toMatch(/w\s+-\s+-\s+not checkable \(straight-through\)/);
    expect(out).toMatch(/b\s+3\s+[\d.e+-]+\s+ok/);
    expect(out).toContain(
      '1 of 2 gradients were not checked: the model rounds values computed from these tensors',
    );
  });
  it('writes vector-Jacobian products', () => {
    writeFileSync(file('x.safetensors'), encodeSafetensors(new Map([['x', spread([3, 4])]])));
    writeFileSync(file('dy.safetensors'), encodeSafetensors(new Map([['logits', spread([3, 3])]])));
    ok(
      'grad',
      'model.onnx',
      '--inputs',
      'x.safetensors',
      '--cotangents',
      'dy.safetensors',
      '--wrt',
      'x',
      '--wrt',
      'fc2.*',
      '-o',
      'v.safetensors',
    );
    const { tensors } = decodeSafetensors(readFileSync(file('v.safetensors')));
    expect([...tensors.keys()].sort()).toEqual(['fc2.bias', 'fc2.weight', 'x']);
    expect(tensors.get('x')!.dims).toEqual([3, 4]);
  });
});

it('reads and writes what a round trip must keep', async () => {
  const model = await loadModel(file('model.onnx'));
  expect(Buffer.from(encodeModel(model)).equals(readFileSync(file('model.onnx')))).toBe(true);
});

/** x[batch,4] -> dropout(x) @ rounded(w) + b. */
function rounding() {
  const s = new Sketch();
  const scale = s.weight('scale', Tensor.filled('float32', [], 0.07));
  const q = s.add('QuantizeLinear', [s.weight('w', [4, 3]), scale], 'q');
  const w = s.add('DequantizeLinear', [q, scale], 'w_rounded');
  const x = s.add('Dropout', [s.input('x', ['batch', 4])], 'dropped');
  return s.model([s.add('Add', [s.add('MatMul', [x, w], 'p'), s.weight('b', [3])], 'logits')]);
}
