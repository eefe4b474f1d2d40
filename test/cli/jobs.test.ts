/** From the user's table to predictions, through the built command line. */
import { mkdtempSync, readFileSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { withJobs } from '../docs/jobs.js';
import { agdOnnx } from './run.js';

/** A folder with the files of these names, and what runs a command there. */
async function jobs(names: string) {
  const folder = mkdtempSync(join(tmpdir(), 'agd-onnx-test-'));
  await withJobs(folder, ` ${names}`);
  const rows = (name: string) => readFileSync(join(folder, name), 'utf8').trim().split('\n').slice(1);
  return {
    rows,
    write: (name: string, contents: string) => writeFileSync(join(folder, name), contents),
    run(...args: string[]) {
      const { code, out, err } = agdOnnx(folder, ...args);
      expect({ code, err }).toEqual({ code: 0, err: '' });
      return out;
    },
    fail(...args: string[]) {
      const { code, err } = agdOnnx(folder, ...args);
      expect(code).toBe(1);
      return err;
    },
  };
}

const STRIKES = [
  ...[
    '--columns',
    'x="Phase of flight","Wildlife Size","Time of day","Speed IAS in knots":fill(median,indicator)+standardize',
  ],
  ...['--columns', 'target="Effect Amount of damage":class(None,other=damage)'],
];

it('a trained model knows its loss and the names of two classes', async () => {
  const { run, rows } = await jobs('birdstrikes.csv strikes.onnx');
  const data = ['--data', 'birdstrikes.csv'];
  const trained = run(
    'train',
    'strikes.onnx',
    '--loss',
    'bce-with-logits',
    ...data,
    ...STRIKES,
    '--val-split',
    '0.2',
    '-o',
    'out.onnx',
  );
  expect(trained).toContain(`--columns 'target="Effect Amount of damage":class(None,other=damage)'`);
  expect(run('evaluate', 'out.onnx', ...data)).toMatch(/auc +0\.7/);
  run('predict', 'out.onnx', ...data, '-o', 'out.csv');
  const predicted = rows('out.csv').map(line => line.split(','));
  expect(new Set(predicted.map(([name]) => name))).toEqual(new Set(['None', 'damage']));
  for (const [name, probability] of predicted) expect(name === 'damage').toBe(Number(probability) > 0.5);
}, 60_000);
