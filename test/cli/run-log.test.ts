import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { runLog } from '../../cli/run-log.js';
import type { TrainEvent } from '../../src/index.js';
import { emptyHistory, fitHistory } from '../../src/runtime/train/run-state.js';

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'agd-onnx-test-'));
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

const begin = (stepsBefore: number): TrainEvent => ({
  ...{ type: 'start', time: 0, epochs: 2, stepsPerEpoch: 2, batchSize: 4, samples: 8, stepsBefore },
  ...(stepsBefore && {
    history: fitHistory({ ...emptyHistory(), losses: Array(stepsBefore).fill(0.5) }, stepsBefore),
  }),
});
const step = (epoch: number, number: number, loss: number): TrainEvent => ({
  ...{ type: 'step', time: 0, epoch, step: number, loss },
});
const losses = (path: string) =>
  readFileSync(path, 'utf8')
    .trim()
    .split('\n')
    .map(row => JSON.parse(row))
    .flatMap(event => (event.type === 'step' ? [event.loss] : []));
const never = (text: string) => {
  throw new Error(text);
};
const write = (path: string, events: TrainEvent[]) => {
  const log = runLog(path, never);
  events.forEach(log);
};

describe('the log of a resumed run', () => {
  it('has each step once, where a kill came between a step and its state', () => {
    const path = join(folder, 'log.jsonl');
    write(path, [begin(0), step(1, 1, 1), step(1, 2, 2), step(2, 1, 3)]);
    writeFileSync(path, `${readFileSync(path, 'utf8')}{"type":"st`);
    write(path, [{ type: 'note', time: 0, text: 'n' }, begin(2), step(2, 1, 3), step(2, 2, 4)]);
    expect(losses(path)).toEqual([1, 2, 3, 4]);
    write(path, [begin(3), step(2, 2, 5)]);
    expect(losses(path)).toEqual([1, 2, 3, 5]);
    expect(readFileSync(path, 'utf8')).not.toContain('history');
  });
  it('takes from the state what the file does not have', () => {
    const path = join(folder, 'log.jsonl');
    write(path, [begin(3), step(2, 2, 1)]);
    expect(losses(path)).toEqual([0.5, 0.5, 0.5, 1]);
  });
});

it('begins anew with a new run', () => {
  const path = join(folder, 'log.jsonl');
  write(path, [begin(0), step(1, 1, 1)]);
  write(path, [begin(0), step(1, 1, 2)]);
  expect(losses(path)).toEqual([2]);
});

it('is given up where it cannot be written, and said once', () => {
  const said: string[] = [];
  const log = runLog(join(folder, 'gone', 'log.jsonl'), text => said.push(text));
  for (const event of [begin(0), step(1, 1, 1), step(1, 2, 2)]) log(event);
  expect(said).toHaveLength(1);
  expect(said[0]).toContain('training continues without a log');
});

it('holds a range test, which never starts a run', () => {
  const path = join(folder, 'log.jsonl');
  write(path, [
    { type: 'note', time: 0, text: 'n', level: 'warning' },
    { type: 'rates', time: 0, rates: [0.1, 0.2], losses: [2, 1], suggested: 0.1 },
  ]);
  const rows = readFileSync(path, 'utf8').trim().split('\n');
  expect(rows.map(row => JSON.parse(row).type)).toEqual(['note', 'rates']);
});
