/**
 * Runs folders of conformance cases: `main.js DIR... [--device cpu|cuda|webgpu] [--json FILE] [--summary FILE]`.
 * A DIR holds cases, or is one. The summary, by operator, is what docs/reference/operators.md tells of.
 */
import { existsSync } from 'node:fs';
import { readdir, writeFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { parseArgs } from 'node:util';
import { env } from 'onnxruntime-node';
import { AgdError } from '../../src/graph/errors.js';
import type { Device } from '../../src/passes/options.js';
import { type Backward, type Check, loadCase } from './case.js';
import { checkTraining } from './training.js';
import { checkVjp } from './vjp.js';

type Result = {
  name: string;
  passed: boolean;
  checks: number;
  error: number;
  worst: string;
  reason?: string;
  operator?: string;
  backward?: Backward;
};

async function runCase(folder: string, device?: Device): Promise<Result> {
  const name = basename(folder);
  let operator: string | undefined;
  try {
    const c = await loadCase(folder, name);
    operator = c.info.op;
    const { checks, backward }: { checks: Check[]; backward?: Backward } =
      c.info.kind === 'training' ? { checks: await checkTraining(c, device) } : await checkVjp(c, device);
    const worst = checks.reduce((a, b) => (b.error > a.error ? b : a), { what: '', error: 0 });
    const passed = checks.length > 0 && worst.error <= 1;
    const shown = { checks: checks.length, error: worst.error, worst: worst.what };
    return { name, passed, ...shown, operator, backward };
  } catch (error) {
    const reason = error instanceof AgdError ? error.message : String((error as Error).stack ?? error);
    return { name, passed: false, checks: 0, error: Number.POSITIVE_INFINITY, worst: '', reason, operator };
  }
}

/** What came of the cases of single operators: how many passed, and the names of those that did not. */
function summary(results: readonly Result[]) {
  const tally = (of: readonly Result[]) => ({
    passed: of.filter(r => r.passed).length,
    failed: of.filter(r => !r.passed).map(r => r.name),
  });
  const single = results.filter(r => r.operator);
  const operators = [...new Set(single.map(r => r.operator!))].filter(op => !op.includes('+')).sort();
  return {
    runtime: `onnxruntime-node ${env.versions.node}`,
    ...tally(single),
    operators: Object.fromEntries(operators.map(op => [op, tally(single.filter(r => r.operator === op))])),
  };
}

async function caseFolders(dirs: readonly string[]): Promise<string[]> {
  const found = await Promise.all(
    dirs.map(async dir =>
      existsSync(join(dir, 'case.json')) ? [dir] : (await readdir(dir)).sort().map(name => join(dir, name)),
    ),
  );
  return found.flat().filter(folder => existsSync(join(folder, 'case.json')));
}

async function main(args: string[]): Promise<void> {
  const options = {
    json: { type: 'string' },
    summary: { type: 'string' },
    device: { type: 'string' },
  } as const;
  const { positionals: dirs, values } = parseArgs({ args, options, allowPositionals: true });
  if (!dirs.length) throw new AgdError('bad-option', 'Name at least one folder of cases.');
  const results: Result[] = [];
  for (const folder of await caseFolders(dirs)) {
    const result = await runCase(folder, values.device as Device | undefined);
    results.push(result);
    const detail =
      result.reason ??
      `${result.error.toPrecision(2)} of the bound, ${result.worst} (${result.checks} checks)`;
    console.log(`${result.passed ? 'ok  ' : 'FAIL'} ${result.name.padEnd(48)} ${detail}`);
  }
  if (values.json) await writeFile(values.json, `${JSON.stringify(results, undefined, 1)}\n`);
  if (values.summary) await writeFile(values.summary, `${JSON.stringify(summary(results), undefined, 2)}\n`);
  const passed = results.filter(r => r.passed).length;
  console.log(`${passed} passed, ${results.length - passed} failed`);
  if (!results.length || passed < results.length) process.exitCode = 1;
}

await main(process.argv.slice(2));
