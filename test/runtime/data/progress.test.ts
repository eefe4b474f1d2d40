import { mkdtempSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, it, vi } from 'vitest';
import { fit as train } from '../../../src/index.js';
import { openData } from '../../../src/runtime/data/open.js';
import { throttled } from '../../../src/runtime/data/progress.js';
import type { TrainEvent } from '../../../src/runtime/train/events.js';
import { mlp } from '../../sample.js';

const rows = Array.from(
  { length: 40_000 },
  (_, i) => `${Math.sin(i)},${Math.cos(i)},0.5,-1,${i % 3},"${'-'.repeat(30)}"`,
);
const path = join(mkdtempSync(join(tmpdir(), 'progress-')), 'table.csv');
writeFileSync(path, `${['a,b,c,d,target,note', ...rows].join('\n')}\n`);

it('each pass over records before the first sample tells its share of them', async () => {
  const told: [string, number][] = [];
  const data = await openData(path, {
    columns: { x: ['a', 'b', 'c', 'd'] },
    skipMissing: ['a'],
    progress: (stage, share) => told.push([stage, share]),
  });
  await data.bind(
    [
      { name: 'x', dtype: 'float32', shape: ['n', 4] },
      { name: 'target', dtype: 'int64', shape: ['n'] },
    ],
    { labels: ['target'] },
  );
  await data.close();
  const shares = (stage: string) => told.filter(([name]) => name === stage).map(([, share]) => share);
  expect([...new Set(told.map(([stage]) => stage))]).toEqual(['index', 'fit', 'encode']);
  expect(shares('fit')).toEqual([0, 0.25, 0.5, 0.75]);
  expect(shares('encode')).toEqual([0.25, 0.5, 0.75, 1]);
  expect(shares('index').every(share => share >= 0 && share <= 1)).toBe(true);
});

it('what takes less than a quarter of a second is not told', () => {
  const told: number[] = [];
  let ms = 0;
  const progress = throttled(
    (_, share) => told.push(share),
    () => ms,
  );
  for (; ms <= 1000; ms += 100) progress('fit', ms);
  expect(told).toEqual([300, 600, 900]);
});

it('fit reports it as events before training starts', async () => {
  let ms = 0;
  const clock = vi.spyOn(performance, 'now').mockImplementation(() => (ms += 300));
  try {
    const events: TrainEvent[] = [];
    await train(mlp(), path, {
      ...{ loss: 'cross-entropy', columns: { x: ['a', 'b', 'c', 'd'] }, batchSize: 20_000 },
      onEvent: event => events.push(event),
    });
    const types = events.map(({ type }) => type);
    const data = events.filter(event => event.type === 'data');
    expect(new Set(data.map(({ stage }) => stage))).toEqual(new Set(['index', 'fit', 'encode']));
    expect(types.lastIndexOf('data')).toBeLessThan(types.indexOf('start'));
  } finally {
    clock.mockRestore();
  }
});
