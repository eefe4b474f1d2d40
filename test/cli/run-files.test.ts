/** The table and the event files that follow a run. */
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { runCsv } from '../../cli/run-csv.js';
import { crc32c, runTensorBoard } from '../../cli/run-tensorboard.js';
import type { TrainEvent } from '../../src/index.js';
import { emptyHistory, fitHistory } from '../../src/runtime/train/run-state.js';
import { agdOnnx, workplace } from './run.js';

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'agd-onnx-test-'));
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

const start = (stepsBefore: number, losses: number[] = []): TrainEvent => ({
  ...{ type: 'start', time: 1500, epochs: 2, stepsPerEpoch: 2, batchSize: 4, samples: 8, stepsBefore },
  ...(stepsBefore && { history: fitHistory({ ...emptyHistory(), losses }, stepsBefore) }),
});
const step = (epoch: number, number: number, loss: number): TrainEvent => ({
  ...{ type: 'step', time: 2250, epoch, step: number, loss, lr: 0.001 },
});
const epoch = (number: number, metrics: Record<string, number>): TrainEvent => ({
  ...{ type: 'epoch', time: 3000, epoch: number, trainLoss: 0.25, seconds: 1, trainSeconds: 1 },
  validation: { loss: 2, metrics, samples: 8 },
});
const never = (text: string) => expect.fail(text);

describe('the table', () => {
  const path = () => join(folder, 'run.csv');
  const write = (events: TrainEvent[]) => {
    for (const event of events) runs(event);
  };
  let runs: (event: TrainEvent) => void;
  const rows = () => readFileSync(path(), 'utf8').split('\n');
  beforeEach(() => {
    runs = runCsv(path(), never);
  });

  it('has a row for each step and epoch, and a column for each number that there is', () => {
    write([
      start(0),
      step(1, 1, 0.5),
      step(1, 2, 0.25),
      epoch(1, { f1: 0.75, 'f1/a,"b"': 1 }),
      step(2, 1, 0.125),
    ]);
    expect(rows()).toEqual([
      'time,epoch,step,loss/train,lr,grad_norm,loss/train_epoch,loss/validation,f1/validation,"f1/a,""b""/validation"',
      '1970-01-01T00:00:02.250Z,1,1,0.5,0.001,,,,,',
      '1970-01-01T00:00:02.250Z,1,2,0.25,0.001,,,,,',
      '1970-01-01T00:00:03.000Z,1,2,,,,0.25,2,0.75,1',
      '1970-01-01T00:00:02.250Z,2,3,0.125,0.001,,,,,',
      '',
    ]);
  });
  it('goes on with that of a resumed run, less what came after its state', () => {
    write([start(0), step(1, 1, 0.5), step(1, 2, 0.25), epoch(1, { 'a,b': 1 }), step(2, 1, 0.125)]);
    const before = rows();
    runs = runCsv(path(), never);
    write([start(2, [9, 9]), step(2, 1, 7)]);
    expect(rows()).toEqual([...before.slice(0, 4), '1970-01-01T00:00:02.250Z,2,3,7,0.001,,,,', '']);
  });
  it('takes from the state what the file does not have', () => {
    writeFileSync(path(), 'a,b\n1,2\n');
    write([start(2, [9, 8]), step(2, 1, 7)]);
    expect(rows().slice(1)).toEqual([',1,1,9,,,', ',1,2,8,,,', '1970-01-01T00:00:02.250Z,2,3,7,0.001,,', '']);
  });
  it('is given up where it cannot be written, and said once', () => {
    const said: string[] = [];
    runs = runCsv(join(folder, 'gone', 'run.csv'), text => said.push(text));
    write([start(0), step(1, 1, 1), step(1, 2, 2)]);
    expect(said).toHaveLength(1);
    expect(said[0]).toContain('training continues without a table');
  });
});

describe("TensorBoard's event files", () => {
  /** See tensorboard-records.py. */
  const recorded = (
    JSON.parse(readFileSync(join(import.meta.dirname, 'tensorboard-records.json'), 'utf8')) as string[]
  ).map(text => Buffer.from(text, 'base64'));
  const write = (events: TrainEvent[]) => events.forEach(runTensorBoard(join(folder, 'logs'), never));
  const files = () => readdirSync(join(folder, 'logs'));

  it('have the records that its own writer makes', () => {
    write([start(0), step(1, 1, 0.5)]);
    const [name] = files();
    expect(name).toMatch(/^events\.out\.tfevents\.1\./);
    const [version, session, first, last] = recorded as [Buffer, Buffer, Buffer, Buffer];
    expect(readFileSync(join(folder, 'logs', name!))).toEqual(Buffer.concat([version, session, first]));
    rmSync(join(folder, 'logs'), { recursive: true });
    const long = { ...start(0), stepsPerEpoch: 300 } as TrainEvent;
    write([long, epoch(1, { f1: 0.75 })]);
    expect(readFileSync(join(folder, 'logs', files()[0]!))).toEqual(Buffer.concat([version, session, last]));
  });
  it('are checked by CRC-32C', () => {
    expect(crc32c(Buffer.from('123456789'))).toBe(0xe3069283);
    expect(crc32c(new Uint8Array(32))).toBe(0x8a9136aa);
  });
  it('have the steps of a resumed run where no other file does', () => {
    const size = (events: TrainEvent[]) => {
      rmSync(join(folder, 'logs'), { recursive: true, force: true });
      write(events);
      return readFileSync(join(folder, 'logs', files()[0]!)).length;
    };
    expect(size([start(2, [1, 2])])).toBeGreaterThan(size([start(0)]));
    writeFileSync(join(folder, 'logs', 'events.out.tfevents.0.other'), '');
    write([start(2, [1, 2])]);
    expect(files()).toHaveLength(2);
  });
});

it('train writes both', async () => {
  const place = await workplace();
  const { code, err } = agdOnnx(
    place,
    ...['train', 'model.onnx', '--loss', 'cross-entropy', '--data', 'train.npz', '--val', 'test.npz'],
    ...['--epochs', '2', '--csv', 'run.csv', '--logdir', 'logs/run'],
  );
  expect({ code, err }).toEqual({ code: 0, err: '' });
  const [head, ...rows] = readFileSync(join(place, 'run.csv'), 'utf8').trimEnd().split('\n');
  expect(head).toMatch(/^time,epoch,step,loss\/train,lr,grad_norm,loss\/train_epoch,loss\/validation,/);
  expect(rows).toHaveLength(18);
  expect(readdirSync(join(place, 'logs/run'))).toHaveLength(1);
});
