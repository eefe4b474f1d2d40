/** What `train` prints, by how much of it was asked for. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import * as v from 'valibot';
import { beforeAll, describe, expect, it, vi } from 'vitest';
import { createDisplay } from '../../cli/run-display.js';
import { EVENT_SCHEMAS } from '../../src/runtime/train/events.js';
import { agdOnnx, workplace } from './run.js';

let folder: string;
beforeAll(async () => {
  folder = await workplace();
});

const train = (...flags: string[]) =>
  agdOnnx(
    folder,
    ...['train', 'model.onnx', '--loss', 'cross-entropy', '--data', 'train.npz', '--val', 'test.npz'],
    ...[
      ...(flags.includes('--epochs') ? [] : ['--epochs', '2']),
      '-o',
      'out.onnx',
      '--telemetry',
      '4',
      ...flags,
    ],
  );
const lines = (text: string) => text.trimEnd().split('\n');

describe('train prints', () => {
  it('one line before the first number', () => {
    const { out, err } = train();
    expect(err).toBe('');
    const [head, first] = lines(out);
    expect(head).toBe('model.onnx: trains 67 parameters by agd on 256 samples, 8 steps of 32 per epoch');
    expect(first).toMatch(/^epoch 1\/2 {2}.*loss \d/);
    expect(out).toMatch(/^epoch 2\/2 {2}train loss \S+ {2}val loss \S+ {2}val accuracy \S+ % {2}val f1 /m);
  });
  it('what the injection did with --verbose', () => {
    const { out } = train('--verbose');
    expect(out).toMatch(/^trains {3}4 tensors.*\n(.*\n)*nodes .*\nstate .*\nmodel\.onnx: trains/);
    expect(train().out).not.toMatch(/nodes|^state/m);
  });
  it('the files written with --quiet', () => {
    expect(train('--quiet', '--report', 'r.html')).toEqual({
      code: 0,
      err: '',
      out: 'wrote out.onnx\nwrote r.html\n',
    });
    expect(train('--quiet', '--state', 's.onnx').out).toBe('wrote out.onnx\n');
  });
  it('problems to standard error with --quiet', () => {
    // A second run with the same state resumes, and says so.
    const { out, err } = train('--quiet', '--state', 's.onnx', '--epochs', '3');
    expect(err).toBe('agd-onnx: resumes the run in s.onnx\n');
    expect(out).toBe('wrote out.onnx\n');
    const failed = train('--quiet', '--optimizer', 'sgd', '--lr', '1e38');
    expect(failed.code).toBe(1);
    expect(failed.err).toMatch(/\[non-finite\]\n$/);
  });
  it('events and nothing else with --json, as --log has them', () => {
    const { out, err } = train('--json', '--report', 'r.html', '--log', 'log.jsonl');
    expect(err).toBe('');
    const events = lines(out).map(line => v.parse(v.variant('type', EVENT_SCHEMAS), JSON.parse(line)));
    expect(events.filter(e => e.type === 'step')).toHaveLength(16);
    expect(events.at(-1)).toMatchObject({ type: 'saved', path: 'r.html', what: 'report' });
    expect(lines(readFileSync(join(folder, 'log.jsonl'), 'utf8'))).toEqual(lines(out).slice(0, -1));
  });
  it('problems to standard error with --json, too', () => {
    const { out, err, code } = train('--json', '--optimizer', 'sgd', '--lr', '1e38');
    expect(code).toBe(1);
    for (const line of lines(out)) JSON.parse(line);
    expect(err).toContain('[non-finite]');
  });
  it.each([
    ['--quiet', '--verbose'],
    ['--quiet', '--json'],
    ['--json', '--verbose'],
  ])('%s or %s, not both', (a, b) => {
    const { code, err } = train(a, b);
    expect(code).toBe(1);
    expect(err).toContain(`${a} cannot be combined with ${b}`);
  });
});

it('the command that resumes has the extensions and the files that follow the run', () => {
  const write = vi.spyOn(process.stderr, 'write').mockReturnValue(true);
  try {
    const ranks = { distributed: true, mpiLibrary: 'libmpi.so', timeout: 60 };
    const ways = { compress: 'fp16', syncEvery: 5, outerLr: 0.7, shardOptimizer: true } as const;
    const files = { model: 'm.onnx', data: 'd.npz', output: 'o.onnx' };
    const job = { ...files, epochs: 2, extend: ['own.js'], ...ranks, ...ways };
    const outputs = { log: 'l.jsonl', csv: 'c.csv', logdir: 'events', report: 'r.html', ui: true };
    const display = createDisplay(job, { quiet: true }, outputs);
    display.stopping();
    display.watch({ type: 'saved', time: 0, path: 's.onnx', what: 'state' });
    const [command] = write.mock.calls.map(String).filter(text => text.includes('resume with'));
    expect(command).toContain('train s.onnx --extend own.js --data d.npz ');
    expect(command).toContain('resume with mpirun or srun and any number of ranks: agd-onnx train');
    expect(command).toContain(
      ' --distributed --mpi-library libmpi.so --compress fp16 --sync-every 5 --outer-lr 0.7 --shard-optimizer --timeout 60',
    );
    expect(command).toContain(' --log l.jsonl --csv c.csv --logdir events --report r.html --ui');
  } finally {
    write.mockRestore();
  }
});
