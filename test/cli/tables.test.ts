/** Training on tables through the built command line, where blocks are read by threads. */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { runTrainJob } from '../../src/runtime/train/train-job.js';
import { agdOnnx, workplace } from './run.js';

const ROWS = 6000;
let folder: string;
const file = (name: string) => join(folder, name);

/** Tables of four numbers and a class, with a column that is not read and makes several blocks of them. */
beforeAll(async () => {
  folder = await workplace();
  const lines = Array.from({ length: ROWS }, (_, i) => {
    const [a, b, c] = [Math.sin(i), Math.cos(3 * i), (i % 13) / 13];
    const kind = a + b > 0.5 ? 'high' : c > 0.6 ? 'mid' : 'low';
    return `${a.toFixed(6)},${b.toFixed(6)},${c.toFixed(6)},${i % 5},${kind},"${'note, '.repeat(120)}"`;
  });
  const header = 'a,b,c,d,kind,note';
  writeFileSync(file('all.csv'), [header, ...lines].join('\n'));
  writeFileSync(file('part-1.csv'), [header, ...lines.slice(0, 2500)].join('\n'));
  writeFileSync(file('part-2.csv'), [header, ...lines.slice(2500)].join('\n'));
});

const COMMON = [
  'model.onnx',
  '--loss',
  'cross-entropy',
  '--label',
  'kind',
  '--columns',
  'x=a,b,c,d',
  '--seed',
  '3',
];

function train(...args: string[]) {
  const run = agdOnnx(folder, 'train', ...COMMON, ...args);
  expect(run.err).toBe('');
  return run.out;
}

const bytes = (name: string) => readFileSync(file(name));

describe('a table larger than the buffer', () => {
  const STREAMED = ['--data', 'all.csv', '--shuffle-buffer', '2000', '--val-split', '0.25'];

  it('is resumed in the middle of an epoch with the same bytes as a run that was not stopped', () => {
    train(...STREAMED, '--epochs', '2', '-o', 'whole.onnx');
    const parts = [...STREAMED, '--state', 'state.onnx', '-o', 'parts.onnx'];
    train(...parts, '--epochs', '1');
    expect(train(...parts, '--epochs', '2')).toMatch(/resumes the run in state\.onnx/);
    expect(bytes('parts.onnx').equals(bytes('whole.onnx'))).toBe(true);
  });

  it('trains the same weights whether threads read it or not', async () => {
    train(...STREAMED, '--epochs', '1', '-o', 'threads.onnx');
    await runTrainJob(
      {
        ...{
          model: file('model.onnx'),
          data: file('all.csv'),
          output: file('alone.onnx'),
          epochs: 1,
          seed: 3,
        },
        ...{ label: 'kind', columns: { x: ['a', 'b', 'c', 'd'] }, shuffleBuffer: 2000, valSplit: 0.25 },
        inject: { loss: { kind: 'cross-entropy' }, seed: 3 },
      },
      () => {},
    );
    expect(bytes('alone.onnx').equals(bytes('threads.onnx'))).toBe(true);
  });
});

it('rows without a value are left out in threads as they are without', async () => {
  const [head, ...rows] = readFileSync(file('all.csv'), 'utf8').split('\n');
  const gaps = rows.map((row, i) => (i % 7 ? row : row.replace(/^[^,]*/, '')));
  writeFileSync(file('gaps.csv'), [head, ...gaps].join('\n'));
  train('--data', 'gaps.csv', '--skip-missing', 'a', '-o', 'threads.onnx');
  await runTrainJob(
    {
      ...{
        model: file('model.onnx'),
        data: file('gaps.csv'),
        output: file('alone.onnx'),
        epochs: 1,
        seed: 3,
      },
      ...{ label: 'kind', columns: { x: ['a', 'b', 'c', 'd'] }, skipMissing: ['a'] },
      inject: { loss: { kind: 'cross-entropy' }, seed: 3 },
    },
    () => {},
  );
  expect(bytes('alone.onnx').equals(bytes('threads.onnx'))).toBe(true);
});

it('files that a glob names are one table', () => {
  train('--data', 'all.csv', '-o', 'one.onnx');
  train('--data', 'part-*.csv', '-o', 'two.onnx');
  train('--data', 'part-1.csv', '--data', 'part-2.csv', '-o', 'three.onnx');
  for (const name of ['two.onnx', 'three.onnx']) expect(bytes(name).equals(bytes('one.onnx'))).toBe(true);
});

it('an event tells how long an epoch waited for data', () => {
  train('--data', 'all.csv', '--log', 'log.jsonl');
  const events = readFileSync(file('log.jsonl'), 'utf8')
    .trim()
    .split('\n')
    .map(line => JSON.parse(line));
  const { trainSeconds, waitSeconds } = events.find(event => event.type === 'epoch');
  expect(waitSeconds).toBeGreaterThanOrEqual(0);
  expect(waitSeconds).toBeLessThanOrEqual(trainSeconds);
});

it('validation data encode columns as training data do', () => {
  writeFileSync(file('val.csv'), 'kind,d,c,b,a\nhigh,1,0.5,0.9,0.9\nlow,2,0.1,-0.5,-0.5\n');
  expect(train('--data', 'all.csv', '--val', 'val.csv')).toMatch(/val accuracy/);
});

it.each<[string[], RegExp]>([
  [
    ['--data', 'all.csv', '--val', 'all.csv', '--val-split', '0.2'],
    /--val-split cannot be combined with --val/,
  ],
  [['--data', 'all.csv', '--val-split', '1.5'], /--val-split .*1\.5|between 0 and 1/],
  [['--data', 'no-*.csv'], /No file matches 'no-\*\.csv'/],
  [['--data', 'all.csv', '--data', 'model.onnx'], /model\.onnx/],
  [['--data', 'all.csv', '--sampler', 'other'], /--sampler/],
  [['--data', 'all.csv', '--sample-weights', 'none'], /no column 'none' of numbers/],
])('%j is refused in one line', (args, message) => {
  const { code, err } = agdOnnx(folder, 'train', ...COMMON, ...args);
  expect(code).toBe(1);
  expect(err).toMatch(message);
});
