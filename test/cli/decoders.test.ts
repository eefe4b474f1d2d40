/** Decoders of 4-bit weights through the built command line: text in, one command. */
import { cpSync, mkdtempSync, readFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { saveModel } from '../../src/graph/files.js';
import { loadArrays } from '../../src/runtime/data/load.js';
import { writeSafetensors } from '../../src/runtime/data/safetensors.js';
import { decoder, tokenData } from '../decoder.js';
import { commandsIn } from './run.js';

const FIXTURE = join(import.meta.dirname, '../runtime/decoders');
const LOSS = ['--loss', 'cross-entropy', '--output', 'logits'];

async function workplace() {
  const folder = mkdtempSync(join(tmpdir(), 'agd-onnx-test-'));
  for (const name of ['model.onnx', 'text.txt']) cpSync(join(FIXTURE, name), join(folder, name));
  await saveModel(decoder({ pruned: true }), join(folder, 'pruned.onnx'));
  await writeSafetensors(join(folder, 'tokens.safetensors'), tokenData(4, 5));
  return { folder, ...commandsIn(folder) };
}

it('text tunes adapters of a decoder that is shipped in 4 bits, whose file keeps its inputs', async () => {
  const { folder, run } = await workplace();
  const text = ['--data', 'text.txt'];
  const columns = ['--columns', 'input_ids=text:characters+windows(24)'];
  const said = run(
    ...['train', 'model.onnx', ...LOSS, ...text, ...columns, '--lora', '*_proj*:r=8,alpha=16', '--verbose'],
    ...['--optimizer', 'adam', '--lr', '1e-2', '--batch-size', '8', '--epochs', '12', '-o', 'tuned.onnx'],
  );
  expect(said).toContain(
    "The data have no array for 'past_key_values.0.key' and 3 more (an empty cache), 'attention_mask' (ones): computed from the tokens.",
  );
  const losses = [...said.matchAll(/train loss ([\d.]+)/g)].map(([, x]) => Number(x));
  expect(losses.at(-1)).toBeLessThan(losses[0]! - 0.1);
  const inputs = (file: string) => /inputs +(.*)/.exec(run('inspect', file))![1];
  expect(inputs('tuned.onnx')).toBe(inputs('model.onnx'));
  const perplexity = Number(/perplexity +([\d.]+)/.exec(run('evaluate', 'tuned.onnx', ...text))![1]);
  expect(Math.log(perplexity)).toBeLessThan(losses[0]! - 0.1);
  run('predict', 'tuned.onnx', ...text, '-o', 'predictions.npz');
  expect(readFileSync(join(folder, 'predictions.npz')).length).toBeGreaterThan(0);
}, 120_000);

it('a decoder with two caches of rotary positions trains in whole, and chooses in the result too', async () => {
  const { folder, run } = await workplace();
  await saveModel(decoder({ rotary: 6 }), join(folder, 'long.onnx'));
  const tokens = ['--data', 'tokens.safetensors'];
  const lora = ['--lora', '*proj*:r=2', '--accumulate', '2', '--batch-size', '2'];
  for (const more of [[], lora]) {
    const said = run('train', 'long.onnx', ...LOSS, ...tokens, ...more, '--verbose', '-o', 'out.onnx');
    expect(said).not.toMatch(/trains .*(cos|sin)_cache/);
    expect(run('inspect', 'out.onnx')).toMatch(/\bIf +1\b/);
    expect(run('evaluate', 'out.onnx', ...LOSS, ...tokens)).toMatch(/loss +[\d.]+/);
  }
}, 120_000);

it('--derive-inputs and --all-positions say what inject and grad compute', async () => {
  const { folder, run, fail } = await workplace();
  const derive = ['--derive-inputs', 'past*,attention_mask'];
  run('inject', 'pruned.onnx', ...LOSS, ...derive, '--all-positions', '-o', 'step.onnx');
  expect(run('inspect', 'step.onnx')).not.toContain('past_key_values');
  run('train', 'step.onnx', '--data', 'tokens.safetensors', '--epochs', '1', '-o', 'out.onnx');
  run('train', 'pruned.onnx', ...LOSS, '--all-positions', '--data', 'tokens.safetensors', '-o', 'out.onnx');
  const evaluated = run(
    'evaluate',
    'pruned.onnx',
    ...LOSS,
    '--all-positions',
    '--data',
    'tokens.safetensors',
  );
  expect(run('evaluate', 'step.onnx', '--data', 'tokens.safetensors')).toContain(
    /loss +[\d.]+/.exec(evaluated)![0],
  );
  const tokens = ['--data', 'tokens.safetensors'];
  run('predict', 'pruned.onnx', ...LOSS, ...tokens, '--all-positions', '-o', 'all.npz');
  run('predict', 'pruned.onnx', ...LOSS, ...tokens, '-o', 'last.npz');
  run('predict', 'step.onnx', ...tokens, '-o', 'state.npz');
  const sizes = ['all', 'last', 'state'].map(async name => {
    const arrays = await loadArrays(join(folder, `${name}.npz`));
    return arrays.get('class')!.dims[1];
  });
  expect(await Promise.all(sizes)).toEqual([5, 1, 5]);
  const hint =
    /the head of the model reads the last token only; with --all-positions, it reads all of them\./i;
  expect(fail('train', 'pruned.onnx', ...LOSS, ...tokens, '-o', 'x.onnx')).toMatch(hint);
  expect(fail('evaluate', 'pruned.onnx', ...LOSS, ...tokens)).toMatch(hint);
  const windows = ['--data', 'text.txt', '--columns', 'input_ids=text:characters+windows(4)'];
  expect(fail('train', 'pruned.onnx', ...LOSS, ...windows, '-o', 'x.onnx')).toMatch(hint);
  const grads = ['grad', 'model.onnx', ...LOSS, '--inputs', 'tokens.safetensors'];
  expect(run(...grads, ...derive)).toMatch(/^loss [\d.]+$/m);
  expect(fail('inject', 'model.onnx', ...LOSS, '--derive-inputs', 'cash*', '-o', 'x.onnx')).toMatch(
    /^agd-onnx: --derive-inputs 'cash\*' matches no input that follows from the tokens; these do: 'attention_mask', .*\[no-such-value\]$/,
  );
  expect(fail('inject', 'model.onnx', ...LOSS, '--all-positions', '-o', 'x.onnx')).toMatch(
    /^agd-onnx: --all-positions: nothing in the model takes the last position of a sequence, .*\[bad-option\]$/,
  );
}, 120_000);
