/** Documents of different lengths, padded or packed, through the built command line. */
import { cpSync, mkdtempSync, readFileSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { saveModel } from '../../src/graph/files.js';
import { attention } from '../attention.js';
import { agdOnnx, commandsIn } from './run.js';

const FIXTURE = join(import.meta.dirname, '../runtime/decoders');
const LOSS = ['--loss', 'cross-entropy', '--output', 'logits', '--ignore-index', '-100'];
const DATA = ['--data', 'docs.csv'];
const COLUMNS = ['--columns', 'input_ids=text:characters+documents(64)'];
const LORA = ['--lora', '*_proj*:r=4,alpha=16', '--optimizer', 'adam', '--lr', '1e-2'];

function workplace() {
  const folder = mkdtempSync(join(tmpdir(), 'agd-onnx-test-'));
  cpSync(join(FIXTURE, 'model.onnx'), join(folder, 'model.onnx'));
  const speeches = readFileSync(join(FIXTURE, 'text.txt'), 'utf8').split('\n').filter(Boolean);
  const quoted = speeches.map(line => `"${line.replaceAll('"', '""')}"`);
  writeFileSync(join(folder, 'docs.csv'), `text\n${quoted.join('\n')}\n`);
  return { folder, ...commandsIn(folder) };
}

const values = (text: string, name: string) =>
  [...text.matchAll(new RegExp(`${name} +([\\d.]+)`, 'g'))].map(([, x]) => Number(x));

it('packed documents train as padded ones, with less padding', () => {
  const { run } = workplace();
  const train = (size: string, ...more: string[]) =>
    run(
      ...['train', 'model.onnx', ...LOSS, ...DATA, ...COLUMNS, ...LORA],
      ...['--batch-size', size, '--epochs', '3', ...more],
    );
  const packed = train('99', '--pack', '-o', 'packed.onnx');
  expect(packed).toContain(
    'Packed 29 documents into 14 rows of 64 tokens: 62 tokens of padding instead of 1,022.',
  );
  const padded = train('99', '-o', 'padded.onnx');
  expect(values(packed, 'train loss')).toEqual(values(padded, 'train loss'));
  const loss = (file: string) => values(run('evaluate', file, ...DATA), 'loss');
  expect(loss('packed.onnx')).toEqual(loss('padded.onnx'));
  // The parts of a batch hold different numbers of tokens; each token still counts once.
  train('5', '--pack', '--accumulate', '3', '-o', 'parts.onnx');
  expect(loss('parts.onnx')).toEqual(loss('padded.onnx'));
}, 180_000);

it('a packed run is validated, resumed and injected', () => {
  const { run } = workplace();
  const train = (out: string, epochs: string, ...more: string[]) =>
    run(
      ...['train', 'model.onnx', ...LOSS, ...DATA, ...COLUMNS, ...LORA, '--pack', '--val-split', '0.3'],
      ...['--batch-size', '4', '--epochs', epochs, '-o', out, ...more],
    );
  const whole = train('whole.onnx', '3');
  train('half.onnx', '2', '--state', 'state.onnx');
  const rest = train('rest.onnx', '3', '--state', 'state.onnx');
  expect(values(rest, 'val loss').slice(0, 1)).toEqual(values(whole, 'val loss').slice(2, 3));
  const derive = ['--derive-inputs', 'past*,attention_mask'];
  const injected = run('inject', 'model.onnx', ...LOSS, ...LORA, ...derive, '--pack', '-o', 'step.onnx');
  expect(injected).not.toContain('not verified');
  expect(run('inspect', 'step.onnx')).toContain('segment_ids int64');
  expect(run('train', 'step.onnx', ...DATA, ...COLUMNS, '--epochs', '1', '-o', 'out.onnx')).toContain(
    'Packed 29 documents',
  );
}, 180_000);

it('what cannot be packed gets one line', async () => {
  const { folder, run, fail } = workplace();
  const train = (model: string, ...more: string[]) =>
    fail('train', model, ...LOSS.slice(0, 4), ...DATA, ...more, '-o', 'x.onnx');
  const ignored = ['--ignore-index', '-100'];
  expect(train('model.onnx', ...COLUMNS)).toMatch(
    /^agd-onnx: Target 'target' of the documents of docs.csv has places without a token: name the class that stands there, as --ignore-index -100. \[bad-option\]$/,
  );
  const windows = ['--columns', 'input_ids=text:characters+windows(16)'];
  expect(train('model.onnx', ...windows, ...ignored, '--pack')).toMatch(
    /^agd-onnx: --pack packs documents, .* \[bad-option\]$/,
  );
  expect(train('model.onnx', ...COLUMNS, ...ignored, '--pack', '--prompt-tokens', '4')).toMatch(
    /^agd-onnx: --pack cannot be combined with --prompt-tokens\./,
  );
  const learned = attention('heads', 16, (s, x) =>
    s.add('Add', [x, s.weight('positions', [16, 8])], 'placed'),
  );
  await saveModel(learned, join(folder, 'learned.onnx'));
  writeFileSync(join(folder, 'few.csv'), 'text\nabcabc\ncabba\nbacab\n');
  const few = ['--data', 'few.csv', '--columns', 'input_ids=text:characters+documents(16)', ...ignored];
  expect(fail('train', 'learned.onnx', ...LOSS.slice(0, 4), ...few, '--pack', '-o', 'x.onnx')).toMatch(
    /^agd-onnx: --pack: output 'logits' of a document changes if others share its row \(by .*\[bad-option\]$/,
  );
  const differs = /^agd-onnx: --pack: output 'logits' of a document changes if others share its row/;
  const grad = ['grad', 'learned.onnx', ...LOSS, ...few.slice(0, -2), '--pack'].map(arg =>
    arg === '--data' ? '--inputs' : arg,
  );
  expect(fail(...grad)).toMatch(differs);
  const eight = attention('heads', 8, (s, x) => s.add('Add', [x, s.weight('positions', [8, 8])], 'placed'));
  await saveModel(eight, join(folder, 'eight.onnx'));
  expect(fail('inject', 'eight.onnx', ...LOSS, '--pack', '-o', 'x.onnx')).toMatch(differs);
  expect(run('inject', 'learned.onnx', ...LOSS, '--pack', '-o', 'x.onnx')).toContain(
    'warning: --pack is not verified without data: it does not run on made-up tokens. Run agd-onnx grad --pack on packed rows.',
  );
  await saveModel(attention('heads', 16), join(folder, 'none.onnx'));
  expect(
    agdOnnx(folder, 'train', 'none.onnx', ...LOSS.slice(0, 4), ...few, '--pack', '-o', 'x.onnx').code,
  ).toBe(0);
}, 180_000);
