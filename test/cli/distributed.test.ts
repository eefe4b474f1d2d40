/** Training by mpirun through the built command line. */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { loadModel } from '../../src/graph/files.js';
import { launchers, missing, start } from '../runtime/collective/mpi.js';
import { agdOnnx, workplace } from './run.js';

const CLI = join(import.meta.dirname, '../../bin/agd-onnx.js');
const OPTIONS = ['--loss', 'cross-entropy', '--batch-size', '40', '--seed', '3'];

const weightsOf = async (path: string) =>
  new Map([...(await loadModel(path)).graph.initializers].map(([v, t]) => [v.name, t.numbers()]));

/** The largest difference between the weights of two files. */
async function difference(a: string, b: string): Promise<number> {
  const [one, other] = [await weightsOf(a), await weightsOf(b)];
  return Math.max(...[...one].flatMap(([name, x]) => x.map((v, i) => Math.abs(v - other.get(name)![i]!))));
}

describe.each(launchers)('ranks that $name starts', launcher => {
  const train = (folder: string, ranks: number, ...args: string[]) =>
    start(launcher, ranks, [CLI, 'train', ...args], { cwd: folder });
  const task = ['model.onnx', '--data', 'train.npz', '--val', 'test.npz', ...OPTIONS];

  it('train together, and resume with another number', { timeout: 180_000 }, async () => {
    const folder = await workplace();
    const at = (name: string) => join(folder, name);
    const files = ['--state', 'run.agd.onnx', '--log', 'log.jsonl', '--report', 'report.html'];
    const alone = agdOnnx(folder, 'train', ...task, '--epochs', '2', '-o', 'alone.onnx');
    expect(alone.code, alone.err).toBe(0);
    const first = await train(
      folder,
      3,
      ...task,
      '--epochs',
      '1',
      '-o',
      'first.onnx',
      ...files,
      '--distributed',
    );
    expect(first.code, first.stderr).toBe(0);
    expect(first.stdout.split('\n')[0]).toMatch(
      new RegExp(`^3 ranks on 1 host \\(.+\\), ${launcher.name} \\d`),
    );
    // One of each, not one of each rank.
    expect(first.stdout.match(/wrote first\.onnx/g)).toHaveLength(1);
    const events = readFileSync(at('log.jsonl'), 'utf8')
      .trim()
      .split('\n')
      .map(line => JSON.parse(line));
    expect(events.filter(e => e.type === 'step')).toHaveLength(7);
    expect(events.find(e => e.type === 'epoch').validation.samples).toBe(64);
    expect(existsSync(at('report.html'))).toBe(true);
    const second = await train(
      folder,
      2,
      ...task,
      '--epochs',
      '2',
      '-o',
      'second.onnx',
      ...files,
      '--distributed',
    );
    expect(second.code, second.stderr).toBe(0);
    expect(second.stdout).toContain('resumes the run in run.agd.onnx');
    expect(await difference(at('alone.onnx'), at('second.onnx'))).toBeLessThan(1e-6);
  });

  it('are refused without --distributed, by one line', { timeout: 60_000 }, async () => {
    const folder = await workplace();
    const { code, stderr, stdout } = await train(folder, 3, ...task, '-o', 'out.onnx');
    expect(code).toBe(1);
    expect((stdout + stderr).match(/agd-onnx: .*/g)).toEqual([
      'agd-onnx: mpirun started 3 processes, each of which would train the same model: add --distributed. See agd-onnx --help.',
    ]);
    expect(existsSync(join(folder, 'out.onnx'))).toBe(false);
  });

  it('end together, with the reason, if one fails', { timeout: 120_000 }, async () => {
    const folder = await workplace();
    const { code, stderr } = await train(folder, 2, ...task.with(2, 'none.npz'), '--distributed');
    expect(code).not.toBe(0);
    expect(stderr).toMatch(/agd-onnx: (rank 1: )?Cannot read 'none\.npz'/);
  });

  it('refuse what is not distributed', { timeout: 120_000 }, async () => {
    const folder = await workplace();
    const { code, stderr } = await train(folder, 2, ...task, '--dp-clip', '1', '--distributed');
    expect(code).not.toBe(0);
    expect(stderr).toMatch(/agd-onnx: .*--d/);
  });
});

for (const reason of missing) it.skip(reason, () => {});

it('a run without a launcher is refused with --distributed, and its options without it', async () => {
  const folder = await workplace();
  const task = ['train', 'model.onnx', '--data', 'train.npz', ...OPTIONS];
  const alone = agdOnnx(folder, ...task, '--distributed');
  expect(alone.code).toBe(1);
  expect(alone.err).toContain('start it with mpirun -n RANKS');
  for (const [flag, value] of [
    ['--mpi-library', 'libmpi.so'],
    ['--compress', 'fp16'],
  ]) {
    const { code, err } = agdOnnx(folder, ...task, flag!, value!);
    expect(code).toBe(1);
    expect(err).toContain(`${flag} needs --distributed`);
  }
  const folds = agdOnnx(folder, ...task, '--distributed', '--folds', '3');
  expect(folds.code).toBe(1);
  expect(folds.err).toContain('--folds');
});
