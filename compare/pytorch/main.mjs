/**
 * Loss and gradients of real models, exported with PyTorch, against PyTorch's own:
 * main.mjs [GLOB ...] [--optimize basic|extended] [--seed N] [--dir DIR [--no-export]] [--markdown]
 * It needs Python (the environment variable PYTHON) with torch, onnx, onnxruntime, onnxscript and safetensors; timm
 * and transformers for some models. Exits with 1 unless every exported model passes.
 */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readdirSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import picomatch from 'picomatch';
import { checkCase } from './check.mjs';

const { values, positionals: globs } = parseArgs({
  allowPositionals: true,
  options: {
    dir: { type: 'string' },
    markdown: { type: 'boolean' },
    optimize: { type: 'string' },
    seed: { type: 'string', default: '0' },
    'no-export': { type: 'boolean' },
  },
});
const dir = values.dir ?? mkdtempSync(join(tmpdir(), 'parity-'));

function python(script, args, stdout) {
  const options = { stdio: ['ignore', stdout, 'inherit'], encoding: 'utf8', maxBuffer: 2 ** 28 };
  const run = spawnSync(
    process.env.PYTHON ?? 'python3',
    [join(import.meta.dirname, script), ...args],
    options,
  );
  if (run.error || run.status)
    throw new Error(`${script} failed: ${run.error ?? `exit status ${run.status}`}`);
  return run.stdout;
}

const COLUMNS = ['model', 'exporter', 'opset', 'parameters', 'folded', 'loss', 'gradient', 'verdict'];
const line = cells =>
  values.markdown
    ? `| ${cells.join(' | ')} |`
    : cells.map((c, i) => `${c}`.padEnd([26, 13, 6, 11, 7, 9, 9, 0][i])).join('');

function row(name, { info, skipped, problems, loss, gradient, compared, checked, folded }) {
  if (skipped) return line([name, '', '', '', '', '', '', `not compared: ${skipped.slice(0, 120)}`]);
  const exporter = `${info.exporter}${info.training ? ', train' : ''}`;
  const counted = checked ? `${compared}+${checked}` : compared;
  const numbers = [loss, gradient].map(x => x?.toExponential(1) ?? '');
  const verdict = problems.length
    ? problems.join('; ')
    : info.faithful
      ? 'ok'
      : 'ok, but the file computes something else';
  return line([info.model, exporter, info.opset, counted ?? '', folded ?? '', ...numbers, verdict]);
}

if (!values['no-export'])
  python(
    'export.py',
    [...(values.optimize ? ['--optimize', values.optimize] : []), '--seed', values.seed, dir, ...globs],
    'inherit',
  );
const matches = globs.length ? picomatch(globs.map(g => `${g}-{legacy,dynamo}*`)) : () => true;
const names = readdirSync(dir)
  .filter(name => matches(name))
  .sort();

console.log(line(COLUMNS));
if (values.markdown) console.log(line(COLUMNS.map(() => '---')));
const results = new Map();
for (const name of names) {
  results.set(name, await checkCase(join(dir, name)));
  console.log(row(name, results.get(name)));
}
// The files that were written, as another runtime and the format's own checker see them.
const exported = names.filter(name => !results.get(name).skipped).map(name => join(dir, name));
const verified = JSON.parse(python('verify.py', exported, 'pipe'));
for (const [name, problem] of Object.entries(verified)) {
  if (!problem) continue;
  results.get(name).problems.push(problem);
  console.log(`\n${name}: ${problem}`);
}
const compared = [...results.values()].filter(r => !r.skipped);
const passed = compared.filter(r => !r.problems.length);
console.log(
  `\n${passed.length} of ${compared.length} pass; ${results.size - compared.length} were not compared.`,
);
if (passed.length < compared.length) process.exitCode = 1;
