/**
 * Where the nodes of training steps run with the CUDA provider: `main.js [DIR...] [--write]`. A DIR holds cases of training.
 * Fails if a node other than of extents is left to the CPU, or a step has more copies than it may. With --write, writes
 * docs/reference/placement.md.
 */
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import type { Model } from '../../src/graph/ir.js';
import { allOptimizerNames } from '../../src/ops/optimizers/index.js';
import type { InjectOptions } from '../../src/passes/options.js';
import { OPTIONS, partsOf } from './forms.js';
import { casesIn, kinds, ownModels, type Subject, tableMlp } from './models.js';
import { placementPage } from './page.js';
import { type Placement, Placer } from './place.js';
import { cudaRuntime } from './runtime.js';

/** How many copies between device and CPU a step may have. */
const MOST_COPIES = { fixed: 0, free: 10 };
type Batch = keyof typeof MOST_COPIES;

export type Row = Placement & { model: string; form: string; batch: Batch; provider: 'cpu' | 'cuda' };

let passed = 0;
let failed = 0;

/** The parts of a step, with where their nodes run. */
async function* placed(placer: Placer, model: Model, options: InjectOptions, form: keyof typeof OPTIONS) {
  const all = { ...options, ...OPTIONS[form] };
  for await (const part of partsOf(model, all, form))
    yield { form: part.form, ...(await placer.place(part.model)) };
}

function check(name: string, { host, copies, float64 }: Placement, batch: Batch): void {
  const faults = [
    host.length && `on the CPU: ${tally(host)}`,
    float64 && `${float64} nodes in float64 on the device`,
    copies > MOST_COPIES[batch] && `${copies} copies between the device and the CPU`,
  ].filter(Boolean);
  if (faults.length) console.log(`FAIL ${name}: ${faults.join('; ')}`);
  if (faults.length) failed++;
  else passed++;
}

const tally = (ops: readonly string[]) =>
  [...new Set(ops)].map(op => `${op} ${ops.filter(o => o === op).length}`).join(', ');

/** The optimizers that need the gradient of whole tables. */
const TAKE_TABLES = [
  ...['adahessian', 'adafactor', 'lamb', 'lars', 'shampoo'],
  ...['prodigy', 'schedule-free-adamw', 'schedule-free-sgd'],
];

/** Forms that wait: for the condition of a branch, or for the rows that a batch looks up. */
const WAITS = ['accumulation', 'wsam', 'lazy rows'];

/** A small model in every form with every optimizer. */
async function everyOptimizer(placer: Placer): Promise<void> {
  for (const dtype of ['float32', 'float16'] as const)
    for (const name of allOptimizerNames)
      for (const form of Object.keys(OPTIONS) as (keyof typeof OPTIONS)[]) {
        const takesTables = TAKE_TABLES.includes(name);
        if (takesTables && form === 'lazy rows') continue;
        // Its second backward pass is that of the Hessian.
        if (name === 'adahessian' && form.endsWith('sam')) continue;
        // Its roots are computed in a branch, every few updates.
        const waits = WAITS.includes(form) || name === 'shampoo';
        if (/schedule-free/.test(name) && form === 'schedule-free') continue;
        await attempt(`${name}, ${dtype}, ${form}`, async () => {
          const optimizer = { name } as InjectOptions['optimizer'];
          const options: InjectOptions = { loss: { kind: 'cross-entropy' }, optimizer, provider: 'cuda' };
          for await (const part of placed(placer, tableMlp(dtype), options, form))
            check(`${name}, ${dtype}, ${part.form}`, part, waits ? 'free' : 'fixed');
        });
      }
}

async function attempt(name: string, test: () => Promise<void>): Promise<void> {
  try {
    await test();
  } catch (error) {
    console.log(`FAIL ${name}: ${(error as Error).message.slice(0, 300)}`);
    failed++;
  }
}

/** A model with AGD, as it is written for the device and, with `compare`, for the CPU. */
async function everyForm(placer: Placer, { name, options, make }: Subject, compare: boolean): Promise<Row[]> {
  const rows: Row[] = [];
  for (const batch of ['free', 'fixed'] as const)
    for (const provider of compare ? (['cpu', 'cuda'] as const) : (['cuda'] as const))
      await attempt(`${name}, batch ${batch}`, async () => {
        const model = await make(batch);
        if (!model) return;
        for await (const part of placed(placer, model, { ...options, provider }, 'step')) {
          if (provider === 'cuda') check(`${name}, batch ${batch}, ${part.form}`, part, batch);
          rows.push({ model: name, batch, provider, ...part });
        }
      });
  return rows;
}

async function main(args: string[]): Promise<void> {
  const options = { write: { type: 'boolean' } } as const;
  const { positionals, values } = parseArgs({ args, options, allowPositionals: true });
  const runtime = await cudaRuntime();
  if (typeof runtime === 'string') {
    console.log(`skipped: ${runtime}`);
    return;
  }
  const folder = await mkdtemp(join(tmpdir(), 'agd-placement-'));
  const placer = new Placer(runtime, folder);
  try {
    const dirs = positionals.length ? positionals : ['../shared/conformance/models'];
    await everyOptimizer(placer);
    const rows: Row[] = [];
    for (const subject of [...ownModels(), ...kinds(), ...dirs.flatMap(casesIn)])
      rows.push(...(await everyForm(placer, subject, values.write === true)));
    if (values.write) await writeFile('docs/reference/placement.md', placementPage(rows));
  } finally {
    await placer.close();
    await rm(folder, { recursive: true });
  }
  console.log(`${passed} passed, ${failed} failed`);
  if (failed || !passed) process.exitCode = 1;
}

await main(process.argv.slice(2));
