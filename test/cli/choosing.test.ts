/** Early stopping, the best epoch, and the versions that are kept, from files to files. */
import { existsSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { loadModel, saveModel } from '../../src/graph/files.js';
import { Tensor } from '../../src/graph/tensor.js';
import type { EpochEvent } from '../../src/runtime/train/events.js';
import { mlpData } from '../sample.js';
import { agdOnnx, start, workplace, writeData } from './run.js';

let folder: string;
beforeAll(async () => {
  folder = await workplace();
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const file = (name: string) => join(folder, name);
const bytes = (name: string) => readFileSync(file(name));
const DATA = ['model.onnx', '--loss', 'cross-entropy', '--data', 'train.npz', '--val', 'test.npz'];
/** A rate at which the validation loss soon goes up and down. */
const WILD = [...DATA, '--optimizer', 'sgd', '--lr', '8', '--seed', '4'];
const train = (...args: string[]) => agdOnnx(folder, 'train', ...args);
const ok = (...args: string[]) => {
  const result = train(...args);
  expect(result).toMatchObject({ code: 0, err: '' });
  return result.out;
};
const epochs = (log: string): EpochEvent[] =>
  readFileSync(file(log), 'utf8')
    .trim()
    .split('\n')
    .map(row => JSON.parse(row))
    .filter(({ type }) => type === 'epoch');
/** The epoch with the lowest validation loss. */
const bestOf = (log: string) =>
  epochs(log).reduce((a, b) => (b.validation!.loss < a.validation!.loss ? b : a)).epoch;

describe('the model that is written', () => {
  it('is that of the best epoch by validation, or of the last one', () => {
    const out = ok(...WILD, '--epochs', '6', '-o', 'best.onnx', '--log', 'best.jsonl');
    const best = bestOf('best.jsonl');
    expect(best).toBeLessThan(6);
    expect(out).toContain(`wrote best.onnx (best epoch: ${best}, val loss `);
    ok(...WILD, '--epochs', `${best}`, '--export', 'last', '-o', 'short.onnx');
    expect(bytes('best.onnx').equals(bytes('short.onnx'))).toBe(true);
    const last = ok(...WILD, '--epochs', '6', '--export', 'last', '-o', 'last.onnx');
    expect(last).toMatch(/wrote last\.onnx\n/);
    expect(bytes('last.onnx').equals(bytes('best.onnx'))).toBe(false);
  });
  it('may be the best one by a metric', () => {
    ok(...WILD, '--epochs', '6', '--monitor', 'accuracy', '-o', 'acc.onnx', '--log', 'acc.jsonl');
    const best = epochs('acc.jsonl').reduce((a, b) =>
      b.validation!.accuracy! > a.validation!.accuracy! ? b : a,
    ).epoch;
    ok(...WILD, '--epochs', `${best}`, '--export', 'last', '-o', 'short.onnx');
    expect(bytes('acc.onnx').equals(bytes('short.onnx'))).toBe(true);
  });
});

describe('early stopping', () => {
  it('ends the run after epochs without improvement', () => {
    const out = ok(...WILD, '--epochs', '60', '--patience', '2', '-o', 'p.onnx', '--log', 'p.jsonl');
    const run = epochs('p.jsonl');
    expect(run.length).toBe(bestOf('p.jsonl') + 2);
    expect(out).toContain('stopped early (val loss did not improve for 2 epochs) after');
  });
  it('counts changes of less than --min-delta as none', () => {
    const slow = [...DATA, '--lr', '1e-6', '--epochs', '9', '--patience', '3', '--min-delta', '0.1'];
    ok(...slow, '-o', 'm.onnx', '--log', 'm.jsonl');
    expect(epochs('m.jsonl')).toHaveLength(4);
  });
  it('ends nothing further where a finished run is started again', () => {
    const args = [...WILD, '--epochs', '60', '--patience', '2', '--state', 'p.agd.onnx', '-o', 'p2.onnx'];
    ok(...args, '--log', 'p2.jsonl');
    expect(bytes('p2.onnx').equals(bytes('p.onnx'))).toBe(true);
    const length = epochs('p2.jsonl').length;
    rmSync(file('p2.onnx'));
    ok(...args, '--log', 'p2.jsonl');
    expect(epochs('p2.jsonl')).toHaveLength(length);
    expect(bytes('p2.onnx').equals(bytes('p.onnx'))).toBe(true);
  });
  it.each([
    [['--patience', '2'], '--patience needs validation data'],
    [['--monitor', 'loss'], '--monitor needs validation data'],
    [['--keep-best', '2', '--state', 's.onnx'], '--keep-best needs validation data'],
    [['--keep-last', '2'], '--keep-last needs a file to save the state to'],
    [['--save-every', '2min'], '--save-every needs a file to save the state to'],
    [['--save-every', '2epochs', '--find-lr'], '--save-every needs a file to save the state to'],
    [['--save-every', '2 days', '--state', 's.onnx'], "expected 500steps, 10min or 2epochs, not '2 days'"],
  ])('refuses %j', (args, message) => {
    const plain = DATA.slice(0, -2);
    expect(train(...plain, ...args)).toMatchObject({ code: 1, err: expect.stringContaining(message) });
  });
  it('refuses a metric that the validation does not have', () => {
    const { code, err } = train(...DATA, '--monitor', 'acuracy', '-o', 'x.onnx');
    expect(code).toBe(1);
    expect(err).toContain('acuracy');
  });
});

describe('what is kept beside the state', () => {
  const kept = (state: string) =>
    existsSync(file(`${state}.checkpoints`)) ? readdirSync(file(`${state}.checkpoints`)).sort() : [];
  it('is the last and the best versions, which are states themselves', () => {
    const keep = ['--keep-last', '2', '--keep-best', '2', '--state', 'k.agd.onnx'];
    const out = ok(...WILD, '--epochs', '6', ...keep, '-o', 'k.onnx', '--log', 'k.jsonl');
    const run = epochs('k.jsonl');
    const two = [...run].sort((a, b) => a.validation!.loss - b.validation!.loss).slice(0, 2);
    const steps = new Set([...two.map(({ epoch }) => epoch), 5, 6].map(epoch => 8 * epoch));
    const files = [...steps].map(n => `step-${String(n).padStart(8, '0')}.agd.onnx`).sort();
    expect(kept('k.agd.onnx')).toEqual(files);
    expect(out).toContain('kept in k.agd.onnx.checkpoints: ');
    const [best] = two;
    const name = `k.agd.onnx.checkpoints/step-${String(8 * best!.epoch).padStart(8, '0')}.agd.onnx`;
    expect(agdOnnx(folder, 'export', name, '-o', 'kept.onnx').code).toBe(0);
    expect(bytes('kept.onnx').equals(bytes('k.onnx'))).toBe(true);
  });
  it('gives the best epoch to export and inspect, by what the run monitored', async () => {
    const args = [...WILD, '--monitor', 'accuracy', '--epochs', '6', '--state', 'b.agd.onnx', '-o', 'b.onnx'];
    const out = ok(...args, '--log', 'b.jsonl');
    const [, epoch] = /best epoch: (\d+), val accuracy/.exec(out) ?? [];
    expect(epoch).not.toBe('6');
    const best = { epoch: Number(epoch), metric: 'accuracy', isLast: false };
    expect(best).toMatchObject({ epoch: epochs('b.jsonl').findLast(event => event.best)!.epoch });
    const exported = (...args: string[]) => agdOnnx(folder, 'export', 'b.agd.onnx', '-o', 'e.onnx', ...args);
    expect(exported().out).toMatch(`for those of the best epoch, epoch ${epoch} (val accuracy`);
    expect(bytes('e.onnx').equals(bytes('b.onnx'))).toBe(false);
    expect(exported('--best').out).toBe('wrote e.onnx\n');
    expect(bytes('e.onnx').equals(bytes('b.onnx'))).toBe(true);
    const { out: shown } = agdOnnx(folder, 'inspect', 'b.agd.onnx', '--json');
    expect(JSON.parse(shown)).toMatchObject({ best });
    expect(agdOnnx(folder, 'inspect', 'b.agd.onnx').out).toContain(`best     epoch ${epoch} (val accuracy`);
    const state = await loadModel(file('b.agd.onnx'));
    // Of an earlier version.
    const { best: _, ...run } = JSON.parse(state.metadata.get('agd.run')!);
    state.metadata.set('agd.run', JSON.stringify(run));
    await saveModel(state, file('b.agd.onnx'));
    expect(exported('--best')).toMatchObject({ code: 1, err: expect.stringContaining('no best epoch') });
    expect(exported()).toMatchObject({ code: 0, out: 'wrote e.onnx\n' });
    expect(ok(...args)).toContain('resumes the run in b.agd.onnx');
  });
  it('is saved by steps', () => {
    const keep = ['--save-every', '3steps', '--keep-last', '9', '--state', 's.agd.onnx', '--export', 'last'];
    ok(...DATA, '--epochs', '2', ...keep, '-o', 's.onnx');
    const steps = kept('s.agd.onnx').map(name => Number(/\d+/.exec(name)![0]));
    expect(steps).toEqual([3, 6, 9, 12, 15, 16]);
    ok(...DATA, '--epochs', '2', '--export', 'last', '-o', 'w.onnx');
    expect(bytes('s.onnx').equals(bytes('w.onnx'))).toBe(true);
  });
  it('is not missed where it was removed', () => {
    rmSync(file('k.agd.onnx.checkpoints'), { recursive: true });
    const out = ok(...WILD, '--epochs', '6', '--state', 'k.agd.onnx', '-o', 'k.onnx');
    expect(out).toContain('not found, so these versions are no longer kept');
  });
});

it('prints what a run would take with --dry-run, and writes nothing', () => {
  const before = readdirSync(folder).sort();
  const args = [...DATA, '--epochs', '3', '-o', 'dry.onnx', '--state', 'dry.agd.onnx', '--log', 'dry.jsonl'];
  const out = ok(...args, '--report', 'dry.html', '--dry-run');
  expect(out).toContain('inputs  x float32 [batch,4]; target int64 [batch]');
  expect(out).toContain('data    256 samples, 64 for validation; 8 steps of 32 per epoch');
  expect(out).toMatch(/memory {2}\S+ MB at peak: parameters 268 B, optimizer state \d+ B, /);
  expect(out).toMatch(/disk {4}model \S+ k?B, state \S+ k?B \(free: /);
  expect(out).toMatch(/time {4}\S+( \S+)? per epoch, \S+( \S+)? for 3 epochs/);
  expect(out).toContain('nothing was written');
  expect(readdirSync(folder).sort()).toEqual(before);
});

it('suggests a learning rate at which training works, with --find-lr, and leaves the model alone', () => {
  const plain = DATA.slice(0, -2);
  const before = bytes('model.onnx');
  const out = ok(...plain, '--find-lr', '-o', 'rates.onnx', '--report', 'rates.html');
  const [, rate] = /suggested: --lr (\S+) /.exec(out) ?? [];
  expect(Number(rate)).toBeGreaterThan(1e-4);
  expect(Number(rate)).toBeLessThan(2);
  expect(out).toMatch(/loss {2}[\u2581-\u2588]+\n/);
  expect(existsSync(file('rates.onnx'))).toBe(false);
  expect(bytes('model.onnx').equals(before)).toBe(true);
  expect(readFileSync(file('rates.html'), 'utf8')).toContain('Loss by learning rate');
  const loss = (...args: string[]) => {
    ok(...plain, ...args, '--epochs', '4', '-o', 'rate.onnx', '--log', 'rate.jsonl');
    return epochs('rate.jsonl').at(-1)!.trainLoss;
  };
  expect(loss('--lr', rate!)).toBeLessThan(loss('--lr', '1e-5'));
});

describe('balanced weights', () => {
  it('are those of the classes in the training data', () => {
    const labels = mlpData(256, 1).get('target')!.numbers();
    const weights = [0, 1, 2].map(c => 256 / (3 * labels.filter(label => label === c).length));
    const plain = DATA.slice(0, -2);
    ok(...plain, '--class-weights', 'balanced', '-o', 'balanced.onnx');
    ok(...plain, '--class-weights', weights.join(), '-o', 'given.onnx');
    ok(...plain, '-o', 'plain.onnx');
    expect(bytes('balanced.onnx').equals(bytes('given.onnx'))).toBe(true);
    expect(bytes('balanced.onnx').equals(bytes('plain.onnx'))).toBe(false);
  });
  it('are negative over positive targets, for --pos-weight', async () => {
    const classes = mlpData(256, 1).get('target')!.numbers();
    const values = Float32Array.from({ length: 256 * 3 }, (_, i) =>
      classes[Math.floor(i / 3)] === i % 3 ? 1 : 0,
    );
    await writeData(folder, 'labels.npz', {
      x: mlpData(256, 1).get('x')!,
      target: Tensor.from('float32', [256, 3], values),
    });
    const weights = [0, 1, 2].map(c => {
      const positive = classes.filter(label => label === c).length;
      return (256 - positive) / positive;
    });
    const loss = ['model.onnx', '--loss', 'bce-with-logits', '--data', 'labels.npz'];
    ok(...loss, '--pos-weight', 'balanced', '-o', 'balanced.onnx');
    ok(...loss, '--pos-weight', weights.join(), '-o', 'given.onnx');
    expect(bytes('balanced.onnx').equals(bytes('given.onnx'))).toBe(true);
  });
  it('are refused where they do not apply', () => {
    const plain = DATA.slice(0, -2);
    expect(train(...plain, '--pos-weight', '2').err).toContain('--pos-weight applies to bce-with-logits');
    expect(train(...plain, '--class-weights', 'balance').err).toContain(
      "comma-separated numbers, not 'balance'",
    );
    const inject = agdOnnx(
      folder,
      'inject',
      'model.onnx',
      '--loss',
      'cross-entropy',
      '--class-weights',
      'balanced',
    );
    expect(inject.err).toContain('--class-weights balanced needs training data');
  });
});

it('is resumed after kills with every feature on, to the same bytes', async () => {
  const args = [...DATA, '--batch-size', '4', '--epochs', '60', '--lr', '0.05', '--patience', '40'];
  args.push('--monitor', 'accuracy', '--min-delta', '0.001', '--keep-best', '3', '--keep-last', '2');
  args.push('--save-every', '37steps');
  ok(...args, '-o', 'whole.onnx', '--state', 'whole.agd.onnx');
  const killed = [...args, '-o', 'killed.onnx', '--state', 'killed.agd.onnx'];
  for (let kill = 0; kill < 4; kill++) {
    const child = start(folder, 'train', ...killed);
    const ended = new Promise(resolve => child.on('close', resolve));
    child.stdout.once('data', () => setTimeout(() => child.kill('SIGKILL'), 150 + 170 * kill));
    await ended;
  }
  ok(...killed);
  expect(bytes('killed.onnx').equals(bytes('whole.onnx'))).toBe(true);
  const files = (name: string) => readdirSync(file(`${name}.agd.onnx.checkpoints`)).sort();
  expect(files('killed')).toEqual(files('whole'));
}, 120_000);
