import { spawnSync } from 'node:child_process';
import { closeSync, copyFileSync, openSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { loadModel, saveModel } from '../../src/graph/files.js';
import { floatsOf } from '../ops/vjp.js';
import { Sketch } from '../sample.js';
import { agdOnnx, start, workplace } from './run.js';

/** `mlp` with dropout. */
function dropping() {
  const s = new Sketch();
  const x = s.input('x', ['batch', 4]);
  const hidden = s.add('Gemm', [x, s.weight('fc1.weight', [4, 8]), s.weight('fc1.bias', [8])], 'h');
  const active = s.add('Tanh', [hidden], 'a');
  const kept = s.add('Dropout', [active, s.weight('ratio', floatsOf([0.3], []))], 'd');
  return s.model([
    s.add('Gemm', [kept, s.weight('fc2.weight', [8, 3]), s.weight('fc2.bias', [3])], 'logits'),
  ]);
}

let folder: string;
beforeAll(async () => {
  folder = await workplace(dropping());
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const file = (name: string) => join(folder, name);
const LOSS = ['model.onnx', '--loss', 'cross-entropy', '--data', 'train.npz'];
const train = (...args: string[]) => agdOnnx(folder, 'train', ...args);
const ok = (...args: string[]) => {
  const result = train(...args);
  expect(result).toMatchObject({ code: 0, err: '' });
  return result.out;
};
const events = (name: string) =>
  readFileSync(file(name), 'utf8')
    .trim()
    .split('\n')
    .map(row => JSON.parse(row));

describe('the same command again', () => {
  it('resumes the run, to the bits of one that was never stopped', () => {
    ok(...LOSS, '--epochs', '5', '--state', 'w.agd.onnx', '-o', 'w.onnx', '--log', 'w.jsonl');
    ok(...LOSS, '--epochs', '2', '--state', 'r.agd.onnx', '-o', 'r.onnx', '--log', 'r.jsonl');
    const more = ['--epochs', '5', '--state', 'r.agd.onnx', '-o', 'r.onnx'];
    const out = ok(...LOSS, ...more, '--log', 'r.jsonl', '--report', 'r.html');
    expect(out).toContain('resumes the run in r.agd.onnx');
    expect(out).not.toContain('epoch 2/5');
    expect(readFileSync(file('r.onnx')).equals(readFileSync(file('w.onnx')))).toBe(true);
    const curves = (name: string) =>
      events(name).flatMap(({ type, epoch, step, loss, trainLoss }) =>
        type === 'step' || type === 'epoch' ? [[type, epoch, step, loss, trainLoss]] : [],
      );
    expect(curves('r.jsonl')).toEqual(curves('w.jsonl'));
    // 256 samples in batches of 32, 5 epochs.
    expect(readFileSync(file('r.html'), 'utf8')).toContain('40 steps of 32 samples');
    // Without the log of what was before, from the state.
    ok(...LOSS, ...more, '--log', 'new.jsonl');
    expect(curves('new.jsonl')).toEqual(curves('w.jsonl'));
  });
  it('has the whole of the run in each new file: losses, learning rates, norms of gradients and times', () => {
    const how = [...LOSS, '--clip-grad-norm', '1', '--schedule', 'linear:total=24'];
    const to = ['--state', 't.agd.onnx', '-o', 't.onnx'];
    ok(...how, ...to, '--epochs', '2', '--csv', 'a.csv', '--log', 'a.jsonl');
    ok(...how, ...to, '--epochs', '3', '--csv', 'b.csv', '--log', 'b.jsonl', '--report', 't.html');
    const [rows, all] = ['a.csv', 'b.csv'].map(name => readFileSync(file(name), 'utf8').trim().split('\n'));
    // A head, 8 steps and a result each epoch.
    expect(rows).toHaveLength(19);
    expect(all).toHaveLength(28);
    expect(all!.slice(0, 19)).toEqual(rows);
    const steps = (name: string) =>
      events(name).filter(({ type, epoch }) => (type === 'step' || type === 'epoch') && epoch < 3);
    expect(steps('b.jsonl')).toEqual(steps('a.jsonl'));
    expect(steps('a.jsonl')[0]).toMatchObject({ lr: expect.any(Number), gradNorm: expect.any(Number) });
    const page = readFileSync(file('t.html'), 'utf8');
    expect(page).toContain('Norm of the gradients before clipping');
    // 4 tensors: 32 + 8 + 24 + 3 numbers, and 1 for the ratio, which does not train.
    expect(page).toMatch(/Parameters<\/dt><dd class="value">67<\/dd><dd class="note">in 4 tensors</);
  });
  it('is refused for another model or other options, with both ways out', () => {
    ok(...LOSS, '--state', 'o.agd.onnx', '-o', 'o.onnx');
    const before = readFileSync(file('o.agd.onnx'));
    const { code, err } = train(...LOSS, '--lr', '0.5', '--state', 'o.agd.onnx', '-o', 'o.onnx');
    expect(code).toBe(1);
    expect(err).toContain('agd-onnx train o.agd.onnx --data train.npz --state o.agd.onnx');
    expect(err).toContain('rm o.agd.onnx');
    const plain = train(...LOSS, '--state', 'o.onnx', '-o', 'p.onnx');
    expect(plain).toMatchObject({ code: 1, err: expect.stringContaining('is not a training state') });
    expect(readFileSync(file('o.agd.onnx')).equals(before)).toBe(true);
  });
  it('is refused for another teacher, or another model of the loss', async () => {
    for (const name of ['teacher.onnx', 'loss.onnx']) {
      const s = new Sketch();
      const [a, b] = name === 'teacher.onnx' ? ['x'] : ['logits', 'x'];
      const x = s.input(a!, ['n', b ? 3 : 4]);
      const made = b
        ? s.add('ReduceMean', [s.add('Abs', [x], 'a')], 'loss')
        : s.add('MatMul', [x, s.weight('w', [4, 3])], 'logits');
      await saveModel(s.model([made]), file(name));
      await saveModel(s.model([s.add('Neg', [made], 'other')]), file(`other.${name}`));
    }
    const teacher = ['--teacher', 'teacher.onnx', '--distill', 'mse:logits=logits'];
    for (const [args, what] of [
      [[...LOSS, ...teacher], 'another teacher than teacher.onnx'],
      [
        ['model.onnx', '--data', 'train.npz', '--loss-model', 'loss.onnx'],
        'another loss model than loss.onnx',
      ],
    ] as const) {
      const name = args[args.findIndex(arg => /^--(teacher|loss-model)$/.test(arg)) + 1]!;
      const all = [...args, '--state', `beside.${name}`, '-o', 'beside.onnx'];
      ok(...all);
      ok(...all, '--epochs', '2');
      copyFileSync(file(`other.${name}`), file(name));
      expect(train(...all, '--epochs', '3')).toMatchObject({ code: 1, err: expect.stringContaining(what) });
    }
  });
  it('goes on with the projection to the width of a teacher, which is named and not exported', async () => {
    const s = new Sketch();
    const a = s.add('Tanh', [s.add('MatMul', [s.input('x', ['n', 4]), s.weight('w', [4, 6])], 'wide')], 'a');
    await saveModel(s.model([s.add('MatMul', [a, s.weight('v', [6, 3])], 'logits')]), file('wide.onnx'));
    const args = [...LOSS, '--teacher', 'wide.onnx', '--distill', 'mse:a=a,weight=0.5', '--seed', '3'];
    ok(...args, '--state', 'p.agd.onnx', '-o', 'p.onnx');
    ok(...args, '--state', 'p.agd.onnx', '-o', 'p.onnx', '--epochs', '2');
    ok(...args, '-o', 'q.onnx', '--epochs', '2');
    expect(readFileSync(file('p.onnx')).equals(readFileSync(file('q.onnx')))).toBe(true);
    const { code, out } = agdOnnx(folder, 'inspect', 'p.agd.onnx');
    expect({ code, out }).toMatchObject({
      code: 0,
      out: expect.stringContaining('compared with the teacher through a projection: a'),
    });
    const { graph } = await loadModel(file('p.onnx'));
    expect([...graph.initializers.keys()].filter(v => v.name.includes('::'))).toEqual([]);
  });
  it('says in what the run is another one', () => {
    ok(...LOSS, '--state', 'b.agd.onnx', '-o', 'b.onnx');
    const args = ['--state', 'b.agd.onnx', '-o', 'b.onnx', '--epochs', '2', '--batch-size', '16'];
    expect(ok('model.onnx', '--loss', 'cross-entropy', '--data', 'test.npz', ...args)).toContain(
      'resumed with --batch-size 16 (was 32), other data',
    );
  });
  it('takes the learning rate that the state has for the same, and says when no epoch is left', () => {
    ok(...LOSS, '--lr', '0.01', '--state', 'rate.agd.onnx', '-o', 'rate.onnx');
    const again = ['rate.agd.onnx', '--data', 'train.npz', '--state', 'rate.agd.onnx', '-o', 'rate.onnx'];
    const done = ok(...again, '--epochs', '1');
    expect(done).not.toContain('resumed with');
    expect(done).toContain('already done, 1 epoch: raise --epochs to train longer');
    const longer = ok(...again, '--lr', '0.02', '--epochs', '2');
    expect(longer).toContain("resumed with --lr 0.02 (was the model's own)");
    expect(longer).not.toContain('raise --epochs');
  });
});

it('says that a state is not updated, where it is not', () => {
  ok(...LOSS, '--state', 'n.agd.onnx', '-o', 'n.onnx');
  const before = readFileSync(file('n.agd.onnx'));
  const rest = ['--data', 'train.npz', '--epochs', '2', '-o', 'n.onnx'];
  expect(ok('n.agd.onnx', ...rest)).toContain('n.agd.onnx stays as it is: --state n.agd.onnx updates it');
  expect(readFileSync(file('n.agd.onnx')).equals(before)).toBe(true);
  expect(ok('n.agd.onnx', ...rest, '--state', 'n.agd.onnx')).not.toContain('stays as it is');
  expect(readFileSync(file('n.agd.onnx')).equals(before)).toBe(false);
});

describe('a schedule', () => {
  it('that ends with the run ends later in a longer one', () => {
    const args = [...LOSS, '--schedule', 'cosine', '--state', 'c.agd.onnx', '-o', 'c.onnx'];
    ok(...args, '--epochs', '3');
    const trained = readFileSync(file('c.onnx'));
    expect(ok(...args, '--epochs', '5')).toContain(
      'the schedule ends with the run, after 40 updates instead of 24',
    );
    expect(readFileSync(file('c.onnx')).equals(trained)).toBe(false);
  });
  it('with a total of its own says that the run outlasts it', () => {
    const out = ok(...LOSS, '--schedule', 'linear:total=10', '--epochs', '2', '-o', 'l.onnx');
    expect(out).toContain('the schedule ends after 10 updates: the last 6 have its final rate');
  });
});

describe('a run that is broken off', () => {
  const LONG = [...LOSS, '--batch-size', '4', '--epochs', '100000', '-o', 'long.onnx'];
  const stopped = async (signal: NodeJS.Signals, name: string) => {
    const child = start(folder, 'train', ...LONG, '--state', name);
    let [out, err, asked] = ['', '', false];
    child.stderr.on('data', text => {
      err += text;
    });
    child.stdout.on('data', text => {
      out += text;
      if (/epoch\s+1\//.test(out) && !asked) asked = child.kill(signal);
    });
    const code = await new Promise(resolve => child.on('close', resolve));
    return { code, out, err };
  };
  it('by SIGTERM exits with 143, its state saved', async () => {
    const { code, out, err } = await stopped('SIGTERM', 'term.agd.onnx');
    expect([code, err]).toEqual([143, '']);
    expect(out).toContain('saved state to term.agd.onnx');
    expect(out).toContain('resume with: agd-onnx train term.agd.onnx');
  });
  it('goes on where its terminal is closed and nobody reads on', async () => {
    const child = start(folder, 'train', ...LOSS, '--epochs', '400', '-o', 'hup.onnx');
    let err = '';
    child.stderr.on('data', text => {
      err += text;
    });
    child.stdout.once('data', () => {
      child.stdout.destroy();
      child.kill('SIGHUP');
    });
    const code = await new Promise(resolve => child.on('exit', resolve));
    expect([code, err]).toEqual([0, '']);
    expect(readFileSync(file('hup.onnx')).length).toBe(readFileSync(file('model.onnx')).length);
  });
  it.skipIf(process.platform !== 'linux')('trains on where its output or its log is full', () => {
    const full = openSync('/dev/full', 'w');
    const cli = join(import.meta.dirname, '../../bin/agd-onnx.js');
    const run = (stdout: number | 'pipe', ...args: string[]) => {
      const { status, stderr } = spawnSync(process.execPath, [cli, 'train', ...LOSS, ...args], {
        cwd: folder,
        stdio: ['ignore', stdout, 'pipe'],
        encoding: 'utf8',
      });
      return { code: status, err: stderr };
    };
    expect(run(full, '-o', 'f.onnx')).toEqual({
      code: 1,
      err: 'agd-onnx: Cannot write to standard output: no space left on device. [io]\n',
    });
    closeSync(full);
    expect(readFileSync(file('f.onnx')).length).toBe(readFileSync(file('model.onnx')).length);
  });
  it.skipIf(process.platform === 'win32')('refuses to replace a device or pipe by a file', () => {
    for (const path of ['/dev/stdout', '/dev/fd/1'])
      expect(train(...LOSS, '-o', path)).toMatchObject({
        code: 1,
        err: `agd-onnx: Cannot write '${path}': it is not a file. Choose a file to write to. [io]\n`,
      });
  });
});

it('is resumed after each of some kills, at any moment, to the bits of a run without', async () => {
  const args = [...LOSS, '--batch-size', '4', '--epochs', '150'];
  ok(...args, '-o', 'whole.onnx');
  const killed = [...args, '-o', 'killed.onnx', '--state', 'killed.agd.onnx', '--log', 'killed.jsonl'];
  for (let kill = 0; kill < 5; kill++) {
    const child = start(folder, 'train', ...killed);
    const ended = new Promise(resolve => child.on('close', resolve));
    child.stdout.once('data', () => setTimeout(() => child.kill('SIGKILL'), 50 + 190 * kill));
    await ended;
  }
  ok(...killed);
  expect(readFileSync(file('killed.onnx')).equals(readFileSync(file('whole.onnx')))).toBe(true);
  expect(events('killed.jsonl').filter(({ type }) => type === 'step')).toHaveLength(64 * 150);
  expect(readdirSync(folder).filter(name => name.endsWith('.tmp'))).toEqual([]);
}, 120_000);
