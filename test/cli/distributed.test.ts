/** Training by mpirun through the built command line. */
import { spawnSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { loadModel } from '../../src/graph/files.js';
import { Tensor } from '../../src/graph/tensor.js';
import { writeNpz } from '../../src/runtime/data/npz.js';
import { spread } from '../ops/vjp.js';
import { launchers, missing, start } from '../runtime/collective/mpi.js';
import { mlp, mlpData, normalized } from '../sample.js';
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

  it('end together if one fails before they meet', { timeout: 60_000 }, async () => {
    const folder = await workplace();
    writeFileSync(join(folder, 'rank-0.json'), '{ "distributed": true }');
    writeFileSync(
      join(folder, 'rank.mjs'),
      `const { PMI_RANK, OMPI_COMM_WORLD_RANK: rank = PMI_RANK } = process.env;
       const [cli] = process.argv.splice(2, 1);
       process.argv.push('--config', 'rank-' + rank + '.json');
       await import(cli);`,
    );
    const { code, stderr } = await start(launcher, 2, ['rank.mjs', CLI, 'train', ...task], { cwd: folder });
    expect(code).toBe(1);
    expect(stderr).toContain("agd-onnx: Cannot read 'rank-1.json'");
  });

  it('divide the optimizer state, save, and resume with another number', { timeout: 180_000 }, async () => {
    const folder = await workplace();
    const more = ['--schedule', 'cosine', '--ema', '0.9', '--clip-grad-norm', '1', '--export-ema'];
    writeFileSync(join(folder, 'config.json'), '{ "distributed": true, "shardOptimizer": true }');
    const files = ['--config', 'config.json', '--state', 'run.agd.onnx', '--save-every', '3steps'];
    for (const [ranks, epochs] of [
      [3, '1'],
      [2, '2'],
    ] as const) {
      const state = ['--state', 'alone.agd.onnx', '-o', 'alone.onnx'];
      const alone = agdOnnx(folder, 'train', ...task, ...more, ...state, '--epochs', epochs);
      expect(alone.code, alone.err).toBe(0);
      const run = [...task, ...more, ...files, '--epochs', epochs, '-o', 'out.onnx'];
      const { code, stderr } = await train(folder, ranks, ...run);
      expect(code, stderr).toBe(0);
    }
    expect(await difference(join(folder, 'alone.onnx'), join(folder, 'out.onnx'))).toBeLessThan(1e-6);
  });

  it('train alone between averages of the parameters', { timeout: 180_000 }, async () => {
    const folder = await workplace();
    const sgd = [...task, '--optimizer', 'sgd'];
    const alone = agdOnnx(folder, 'train', ...sgd, '-o', 'alone.onnx');
    expect(alone.code, alone.err).toBe(0);
    const run = (out: string, ...args: string[]) =>
      train(folder, 2, ...sgd, '-o', out, '--state', `${out}.agd.onnx`, '--distributed', ...args);
    const each = await run('each.onnx', '--sync-every', '1');
    expect(each.code, each.stderr).toBe(0);
    expect(await difference(join(folder, 'alone.onnx'), join(folder, 'each.onnx'))).toBeLessThan(1e-6);
    const outer = ['--sync-every', '3', '--outer-lr', '0.7', '--outer-momentum', '0.9'];
    const third = await run('third.onnx', ...outer, '--save-every', '2steps');
    expect(third.code, third.stderr).toBe(0);
    expect(await difference(join(folder, 'alone.onnx'), join(folder, 'third.onnx'))).toBeGreaterThan(1e-6);
    const again = await run('third.onnx', ...outer, '--save-every', '2steps', '--epochs', '2');
    expect(again.code, again.stderr).toBe(0);
    const whole = await run('whole.onnx', ...outer, '--save-every', '2steps', '--epochs', '2');
    expect(whole.code, whole.stderr).toBe(0);
    expect(await difference(join(folder, 'whole.onnx'), join(folder, 'third.onnx'))).toBe(0);
  });

  it('all stop and save if a step is not finite', { timeout: 120_000 }, async () => {
    const folder = await workplace();
    const how = ['--sync-every', '3', '--lr', '1e38', '--state', 'run.agd.onnx', '--distributed'];
    const { code, stderr } = await train(folder, 2, ...task, '--optimizer', 'sgd', ...how);
    expect(code).not.toBe(0);
    expect(stderr).toMatch(/agd-onnx: Rank 0: (Loss|The update of step \d)/);
    expect(stderr).toContain('The state is the mean over the ranks of their last good steps');
    const saved = await weightsOf(join(folder, 'run.agd.onnx'));
    expect([...saved.values()].flat().every(Number.isFinite)).toBe(true);
  });

  it('cross-validate, each fold together', { timeout: 180_000 }, async () => {
    const folder = await workplace();
    const folds = ['model.onnx', '--data', 'train.npz', ...OPTIONS, '--folds', '3', '--epochs', '2'];
    const alone = agdOnnx(folder, 'train', ...folds, '--out-dir', 'alone', '--log', 'alone.jsonl');
    expect(alone.code, alone.err).toBe(0);
    const rest = ['--out-dir', 'ranks', '--log', 'ranks.jsonl', '--distributed'];
    const { code, stderr, stdout } = await train(folder, 2, ...folds, ...rest);
    expect(code, stderr).toBe(0);
    expect(stdout.match(/wrote ranks\/fold-\d\.onnx/g)).toHaveLength(3);
    const [one, all] = ['alone', 'ranks'].map(name =>
      readFileSync(join(folder, `${name}.jsonl`), 'utf8')
        .trim()
        .split('\n')
        .map(line => JSON.parse(line))
        .filter(event => event.type === 'folds')
        .map(({ values }) => values),
    );
    expect(all).toHaveLength(1);
    expect(all![0].loss.mean).toBeCloseTo(one![0].loss.mean, 6);
    for (const name of ['fold-1.onnx', 'fold-3.onnx'])
      expect(await difference(join(folder, 'alone', name), join(folder, 'ranks', name))).toBeLessThan(1e-6);
  });

  it('try learning rates together', { timeout: 120_000 }, async () => {
    const folder = await workplace();
    const rates = [...task, '--find-lr', '--optimizer', 'sgd', '--json'];
    const alone = agdOnnx(folder, 'train', ...rates);
    expect(alone.code, alone.err).toBe(0);
    const before = readdirSync(folder);
    const { code, stderr, stdout } = await train(folder, 2, ...rates, '--distributed');
    expect(code, stderr).toBe(0);
    const [one, all] = [alone.out, stdout].map(text =>
      text
        .trim()
        .split('\n')
        .map(line => JSON.parse(line))
        .filter(event => event.type === 'rates'),
    );
    expect(all).toHaveLength(1);
    expect(all![0].suggested).toBe(one![0].suggested);
    // Before the loss grows, when rounding grows too.
    for (let i = 0; i < 60; i++) expect(all![0].losses[i]).toBeCloseTo(one![0].losses[i], 5);
    expect(readdirSync(folder)).toEqual(before);
  });

  it('choose one plan for the memory of all', { timeout: 180_000 }, async () => {
    const folder = await workplace();
    const alone = agdOnnx(folder, 'train', ...task, '-o', 'alone.onnx');
    expect(alone.code, alone.err).toBe(0);
    const limit = ['--memory', '2GB', '--distributed'];
    const { code, stderr, stdout } = await train(folder, 2, ...task, '-o', 'out.onnx', ...limit);
    expect(code, stderr).toBe(0);
    expect(stdout.match(/memory: batches of 40 as a whole: \d+ MB expected, of 2000 MB/g)).toHaveLength(1);
    expect(await difference(join(folder, 'alone.onnx'), join(folder, 'out.onnx'))).toBeLessThan(1e-6);
  });

  it('with other options than rank 0 are refused', { timeout: 120_000 }, async () => {
    const folder = await workplace();
    const script = (batch: string) => [CLI, 'train', ...task.with(-3, batch), '--distributed'];
    const other = [':', '-n', '1', process.execPath, ...script('41')];
    const { code, stderr } = await start(launcher, 1, [...script('40'), ...other], { cwd: folder });
    expect(code).not.toBe(0);
    expect(stderr).toMatch(/The options of rank 1 \(.+\) differ from those of rank 0\./);
  });

  it('synchronize batch normalization, and after a resume too', { timeout: 180_000 }, async () => {
    const folder = await workplace(normalized());
    // AGD would make steps of the noise in the gradient of the bias before the normalization, which is zero.
    const sgd = [...task, '--optimizer', 'sgd', '--lr', '0.1'];
    const alone = agdOnnx(folder, 'train', ...sgd, '--epochs', '2', '-o', 'alone.onnx');
    expect(alone.code, alone.err).toBe(0);
    const rest = ['-o', 'out.onnx', '--state', 'run.agd.onnx', '--sync-batch-norm', '--distributed'];
    for (const [ranks, epochs] of [
      [3, '1'],
      [2, '2'],
    ] as const) {
      const { code, stderr } = await train(folder, ranks, ...sgd, '--epochs', epochs, ...rest);
      expect(code, stderr).toBe(0);
    }
    expect(await difference(join(folder, 'alone.onnx'), join(folder, 'out.onnx'))).toBeLessThan(1e-6);
  });

  it.each([
    { flags: '--sync-batch-norm', alike: '--optimizer sgd --lr 0.1', model: normalized(), most: 1e-6 },
    { flags: '--shard-optimizer', alike: '', model: mlp(), most: 1e-6 },
    // Half as many samples add up to other roundings.
    { flags: '', alike: '--precision fp16 --optimizer sgd --lr 0.1', model: mlp(), most: 1e-4 },
  ])('add losses of different divisors: $flags $alike', { timeout: 180_000 }, async task => {
    const folder = await workplace(task.model);
    // The second loss leaves out samples of the first one, not as many on each rank.
    const arrays = mlpData(160, 1);
    const wanted = spread([160, 8], [-1, 1], 3);
    const counts = Tensor.from(
      'float32',
      [160],
      Float32Array.from({ length: 160 }, (_, i) => +(i % 7 < 3)),
    );
    await writeNpz(join(folder, 'sum.npz'), new Map([...arrays, ['wanted', wanted], ['counts', counts]]));
    const sum = 'cross-entropy(logits, target) + 0.5*mse(h, wanted, mask=counts)';
    const shared = ['model.onnx', '--data', 'sum.npz', '--loss', sum, '--batch-size', '40', '--seed', '3'];
    const run = [...shared, ...task.alike.split(' ').filter(Boolean)];
    const alone = agdOnnx(folder, 'train', ...run, '-o', 'alone.onnx');
    expect(alone.code, alone.err).toBe(0);
    const more = task.flags.split(' ').filter(Boolean);
    const { code, stderr } = await train(folder, 2, ...run, ...more, '-o', 'out.onnx', '--distributed');
    expect(code, stderr).toBe(0);
    const at = (name: string) => join(folder, name);
    expect(await difference(at('alone.onnx'), at('out.onnx'))).toBeLessThan(task.most);
    expect(await difference(at('model.onnx'), at('out.onnx'))).toBeGreaterThan(100 * task.most);
  });

  it('have nothing to synchronize without batch normalization', { timeout: 120_000 }, async () => {
    const folder = await workplace();
    const { code, stderr } = await train(folder, 2, ...task, '--sync-batch-norm', '--distributed');
    expect(code).not.toBe(0);
    expect(stderr).toContain('--sync-batch-norm: the model has no batch normalization.');
  });

  it('end with a message if one hangs', { timeout: 120_000 }, async () => {
    const folder = await workplace();
    const hang = `const { OMPI_COMM_WORLD_RANK: rank = process.env.PMI_RANK } = process.env;
if (process.send && rank === '1') Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0);`;
    writeFileSync(join(folder, 'hang.mjs'), hang);
    const { code, stderr } = await train(
      folder,
      2,
      ...task,
      ...['--extend', './hang.mjs', '--distributed', '--timeout', '2'],
    );
    expect(code).toBe(1);
    expect(stderr).toMatch(/rank 0 of 2 \(.+\): has waited 2 s for the other ranks/);
  });

  it('end if the disk of rank 0 is full, and leave no half of a file', { timeout: 60_000 }, async context => {
    if (spawnSync('prlimit', ['--version']).error)
      return context.skip('there is no prlimit to limit files with');
    const folder = await workplace();
    // Once the library has its own files.
    const limit = `import { execFileSync } from 'node:child_process';
const { OMPI_COMM_WORLD_RANK: rank = process.env.PMI_RANK } = process.env;
if (process.send && rank === '0') execFileSync('prlimit', ['--pid', String(process.pid), '--fsize=4096']);`;
    writeFileSync(join(folder, 'limit.mjs'), limit);
    const before = readdirSync(folder);
    const more = ['--extend', './limit.mjs', '--state', 'run.agd.onnx', '--distributed'];
    const { code, stderr } = await train(folder, 2, ...task, ...more);
    expect(code).not.toBe(0);
    expect(stderr).toMatch(/agd-onnx: .*run\.agd\.onnx.*\[io\]/);
    const left = readdirSync(folder, { recursive: true });
    expect(left.sort()).toEqual(before.sort());
  });
});

for (const reason of missing) it.skip(reason, () => {});

describe('commands that are not distributed', () => {
  /** As one of three processes of a launcher. */
  const run = (folder: string, rank: number, ...args: string[]) => {
    const env = { ...process.env, PMI_RANK: `${rank}`, PMI_SIZE: '3' };
    const { status, stdout, stderr } = spawnSync(process.execPath, [CLI, ...args], {
      ...{ cwd: folder, env, encoding: 'utf8' },
    });
    return { status, stdout, stderr };
  };

  it.each([
    'inject model.onnx --loss cross-entropy',
    'compare model.onnx --loss cross-entropy --data train.npz',
    'adapt model.onnx --classes 5',
    'export model.agd.onnx',
    'init model.onnx --data train.csv',
    'grad model.onnx --loss cross-entropy --inputs train.npz -o grads.npz',
    'differentiate model.onnx --wrt x',
    'predict model.onnx --data train.npz',
    'landscapes',
    'demo',
  ])('are refused by one line, and write nothing: %s', { timeout: 60_000 }, async line => {
    const folder = await workplace();
    const before = readdirSync(folder);
    const [name] = line.split(' ');
    expect(run(folder, 0, ...line.split(' '))).toEqual({
      ...{ status: 1, stdout: '' },
      stderr: `agd-onnx: mpirun started 3 processes, each of which would write the same files: run agd-onnx ${name} without mpirun; only train is distributed. See agd-onnx --help.\n`,
    });
    expect(run(folder, 2, ...line.split(' '))).toEqual({ status: 0, stdout: '', stderr: '' });
    expect(readdirSync(folder)).toEqual(before);
  });

  it('are noticed under srun', { timeout: 60_000 }, async () => {
    const folder = await workplace();
    const slurm = { SLURM_PROCID: '0', SLURM_NTASKS: '3', SLURM_STEP_NUM_TASKS: '3' };
    const { status, stderr } = spawnSync(
      process.execPath,
      [CLI, 'train', ...'model.onnx --data train.npz'.split(' ')],
      {
        ...{ cwd: folder, env: { ...process.env, ...slurm }, encoding: 'utf8' },
      },
    );
    expect({ status, stderr }).toEqual({
      status: 1,
      stderr:
        'agd-onnx: srun started 3 processes, each of which would train the same model: add --distributed. See agd-onnx --help.\n',
    });
  });

  it('are told by the first rank alone what is wrong with their arguments', { timeout: 60_000 }, async () => {
    const folder = await workplace();
    const task = ['train', 'model.onnx', '--data', 'train.npz', '--distributed'];
    for (const [wrong, message] of [
      [['--wrong'], "Unknown option '--wrong'"],
      [['--lr', 'x'], '--lr'],
      [['--loss', 'nothing'], 'nothing'],
      [['--outer-lr', '1'], '--outer-lr needs --sync-every'],
    ] as const) {
      const first = run(folder, 0, ...task, ...wrong);
      expect(first.status).toBe(1);
      expect(first.stderr).toContain(message);
      expect(run(folder, 2, ...task, ...wrong)).toEqual({ status: 1, stdout: '', stderr: '' });
    }
    // Not every machine may have the file.
    const { status, stderr } = run(folder, 2, ...task, '--config', 'none.json');
    expect({ status, stderr }).toMatchObject({ status: 1, stderr: expect.stringContaining('none.json') });
  });

  it('run where they only read', { timeout: 60_000 }, async () => {
    const folder = await workplace();
    expect(run(folder, 1, 'inspect', 'model.onnx').stdout).toContain('4 train');
  });
});

it('a run without a launcher is refused with --distributed, and its options without it', async () => {
  const folder = await workplace();
  const task = ['train', 'model.onnx', '--data', 'train.npz', ...OPTIONS];
  const alone = agdOnnx(folder, ...task, '--distributed');
  expect(alone.code).toBe(1);
  expect(alone.err).toContain('start it with mpirun -n RANKS');
  for (const [flag, value] of [
    ['--mpi-library', 'libmpi.so'],
    ['--compress', 'fp16'],
    ['--sync-every', '2'],
    ['--outer-lr', '0.7'],
    ['--outer-momentum', '0.9'],
    ['--shard-optimizer'],
    ['--timeout', '60'],
    ['--sync-batch-norm'],
  ]) {
    const { code, err } = agdOnnx(folder, ...task, ...[flag!, value ?? []].flat());
    expect(code).toBe(1);
    expect(err).toContain(`${flag} needs --distributed`);
  }
  for (const [flags, message] of [
    [['--outer-lr', '0.7'], '--outer-lr needs --sync-every'],
    [['--sync-every', '2', '--shard-optimizer'], '--sync-every cannot be combined with --shard-optimizer'],
    [['--sync-every', '2', '--compress', 'fp16'], '--sync-every cannot be combined with --compress'],
    [['--sync-every', '2', '--sync-batch-norm'], '--sync-every cannot be combined with --sync-batch-norm'],
    [['--sync-every', '2', '--find-lr'], '--sync-every cannot be combined with --find-lr'],
    [['--shard-optimizer', '--telemetry', '1'], '--shard-optimizer cannot be combined with --telemetry'],
  ] as const) {
    const { code, err } = agdOnnx(folder, ...task, '--distributed', ...flags);
    expect(code).toBe(1);
    expect(err).toContain(message);
  }
  for (const [flag, value] of [['--dry-run'], ['--dp-sgd', 'clip=1']]) {
    const { code, err } = agdOnnx(folder, ...task, '--distributed', ...[flag!, value ?? []].flat());
    expect(code).toBe(1);
    expect(err).toContain(`--distributed cannot be combined with ${flag}.`);
  }
});
