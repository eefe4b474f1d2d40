/**
 * Runs folders of conformance cases: `main.js DIR... [--device cpu|cuda|webgpu] [--browser] [--ranks N] [--json FILE] [--summary FILE]`.
 * A DIR holds cases, or is one. With --browser they run in a page of Chromium, where the cpu is WebAssembly. With --ranks, training
 * cases run on so many ranks of this process, and on one. The summary, by operator, is what docs/reference/operators.md tells of.
 */
import { existsSync } from 'node:fs';
import { readdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { env } from 'onnxruntime-node';
import { AgdError } from '../../src/graph/errors.js';
import type { Device } from '../../src/passes/options.js';
import { openPage } from './browser.js';
import { type Result, runCase } from './run-case.js';

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
    browser: { type: 'boolean' },
    ranks: { type: 'string' },
  } as const;
  const { positionals: dirs, values } = parseArgs({ args, options, allowPositionals: true });
  if (!dirs.length) throw new AgdError('bad-option', 'Name at least one folder of cases.');
  const ranks = values.ranks === undefined ? undefined : Number(values.ranks);
  if (ranks !== undefined && !(Number.isSafeInteger(ranks) && ranks > 0))
    throw new AgdError('bad-option', '--ranks must be at least 1.');
  if (ranks !== undefined && values.browser)
    throw new AgdError('bad-option', '--ranks cannot be combined with --browser.');
  const results: Result[] = [];
  const device = values.device as Device | undefined;
  const page = values.browser ? await openPage(device) : undefined;
  for (const folder of await caseFolders(dirs)) {
    const result = await (page ? page.runCase(folder) : runCase(folder, device, ranks));
    results.push(result);
    const detail =
      result.reason ??
      `${result.error.toPrecision(2)} of the bound, ${result.worst} (${result.checks} checks)`;
    console.log(`${result.passed ? 'ok  ' : 'FAIL'} ${result.name.padEnd(48)} ${detail}`);
  }
  await page?.close();
  if (values.json) await writeFile(values.json, `${JSON.stringify(results, undefined, 1)}\n`);
  if (values.summary) await writeFile(values.summary, `${JSON.stringify(summary(results), undefined, 2)}\n`);
  const passed = results.filter(r => r.passed).length;
  console.log(`${passed} passed, ${results.length - passed} failed`);
  if (!results.length || passed < results.length) process.exitCode = 1;
}

await main(process.argv.slice(2));
