/** Metrics on the command line. */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, expect, it } from 'vitest';
import { METRICS } from '../../src/runtime/metrics/index.js';
import { agdOnnx, workplace } from './run.js';

let folder: string;
beforeAll(async () => {
  folder = await workplace();
});
const run = (...args: string[]) => agdOnnx(folder, ...args);
const train = ['train', 'model.onnx', '--loss', 'cross-entropy', '--data', 'train.npz', '--val', 'test.npz'];

function epochs(log: string) {
  const lines = readFileSync(join(folder, log), 'utf8').trim().split('\n');
  return lines.map(line => JSON.parse(line)).filter(({ type }) => type === 'epoch');
}

it('train computes the metrics that are chosen, of training data too', () => {
  const chosen = ['--metric', 'top-2', '--metric', 'auc', '--metric', 'confusion-matrix', '--train-metrics'];
  const { code, out, err } = run(...train, ...chosen, '--log', 'log.jsonl', '--epochs', '2');
  expect({ code, err }).toEqual({ code: 0, err: '' });
  for (const shown of ['train top-2', 'val top-2', 'train auc', 'val auc']) expect(out).toContain(shown);
  for (const { validation, training } of epochs('log.jsonl')) {
    expect(Object.keys(validation.metrics)).toEqual(['top-2', 'auc']);
    expect(validation.confusion.matrix.flat().reduce((a: number, b: number) => a + b)).toBe(64);
    expect(training).toMatchObject({ samples: 256, metrics: { auc: expect.any(Number) } });
  }
});

it('train computes those that are usual where none is chosen', () => {
  expect(run(...train, '--log', 'usual.jsonl').code).toBe(0);
  const [{ validation, training }] = epochs('usual.jsonl');
  expect(Object.keys(validation.metrics)).toEqual(['accuracy', 'f1']);
  expect(validation.accuracy).toBe(validation.metrics.accuracy);
  expect(training).toBeUndefined();
});

it('train refuses unknown metrics and those of other losses before it trains', () => {
  expect(run(...train, '--metric', 'acuracy')).toMatchObject({
    code: 1,
    err: expect.stringContaining("Unknown metric 'acuracy'; did you mean 'accuracy'?"),
  });
  const { code, out, err } = run(...train, '--metric', 'rmse');
  expect({ code, err }).toEqual({ code: 1, err: expect.stringContaining("Metric 'rmse' does not apply") });
  expect(out).not.toContain('epoch');
});

it('an extension defines metrics', () => {
  const own = `import { defineMetric } from 'agd-onnx/extend';
defineMetric({
  name: 'mistakes',
  better: 'lower',
  create() {
    let count = 0;
    return {
      add({ predicted, targets, positions }) {
        for (let i = 0; i < positions; i++) if (predicted[i] !== targets[i]) count++;
      },
      value: () => count,
    };
  },
});
`;
  writeFileSync(join(folder, 'own.mjs'), own);
  const { code, err } = run(...train, '--extend', 'own.mjs', '--metric', 'mistakes', '--log', 'own.jsonl');
  expect({ code, err }).toEqual({ code: 0, err: '' });
  expect(Number.isInteger(epochs('own.jsonl')[0].validation.metrics.mistakes)).toBe(true);
});

it('the guide lists all metrics', () => {
  const guide = readFileSync(join(import.meta.dirname, '../../docs/guide/evaluate.md'), 'utf8');
  expect([...METRICS.keys()].filter(name => !guide.includes(`\`${name}\``))).toEqual([]);
});
