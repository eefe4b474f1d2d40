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
    text: (name: string) => readFileSync(join(folder, name), 'utf8'),
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

it('rows without a label are left out where that is asked for', async () => {
  const { run, fail, write } = await jobs('movies.jsonl movies.onnx');
  const args = [
    'train',
    'movies.onnx',
    '--loss',
    'mse',
    '--data',
    'movies.jsonl',
    '--label',
    'IMDB Rating',
    '--columns',
    'x="Production Budget","Running Time min"',
  ];
  expect(fail(...args)).toMatch(
    /column 'IMDB Rating', row 4: .*--skip-missing 'IMDB Rating' leaves such rows out/,
  );
  const said = run(...args, '--skip-missing', 'IMDB Rating', '--verbose', '-o', 'out.onnx');
  expect(said).toMatch(/Left out 213 of 3201 rows of movies.jsonl, which have no IMDB Rating/);
  expect(said).toMatch(/on 2,988 samples/);
  expect(run('evaluate', 'out.onnx', '--data', 'movies.jsonl', '--skip-missing', 'IMDB Rating')).toMatch(
    /2,988 samples/,
  );
  expect(fail(...args, '--skip-missing', 'IMDB rating')).toMatch(
    /--skip-missing IMDB rating: movies.jsonl has no such column; did you mean 'IMDB Rating'\?/,
  );
  write('none.csv', 'a,b,y\n1,2,\n3,4,\n5,6,\n');
  expect(
    fail(
      'train',
      'movies.onnx',
      '--loss',
      'mse',
      '--data',
      'none.csv',
      '--label',
      'y',
      '--skip-missing',
      'y',
    ),
  ).toMatch(/--skip-missing y leaves no row of none.csv/);
}, 60_000);

it('a configuration names the label that is asked for, and leaves out what has no usual form', async () => {
  const { run, fail, text } = await jobs('weather/ temperature.onnx movies.jsonl movies.onnx');
  const init = ['init', 'temperature.onnx', '--data', 'weather/2012.csv', '--label'];
  run(...init, 'temp_max');
  expect(text('agd.config.yaml')).toMatch(/^label: temp_max$/m);
  expect(text('agd.config.yaml')).toMatch(/^ {4}# - "date:date\(month,weekday,cyclic\)" +# left out/m);
  expect(run('train', '--config', 'agd.config.yaml', '--epochs', '1')).toMatch(
    /wrote temperature.trained.onnx/,
  );
  expect(fail(...init, 'temp_mx', '--force')).toMatch(/--label temp_mx: .* did you mean 'temp_max'\?/);
  run('init', 'movies.onnx', '--data', 'movies.jsonl', '--label', 'IMDB Rating', '--force');
  expect(text('agd.config.yaml')).toMatch(/^skipMissing: \["IMDB Rating"\]$/m);
  expect(text('agd.config.yaml')).toMatch(
    /^ {2}# These columns give 5,\d+ numbers, but the input takes 2: choose among them\.$/m,
  );
  expect(text('agd.config.yaml')).toMatch(/^ {4}- '"US Gross":fill\(with=mean\)\+standardize' +#/m);
}, 60_000);
