/** What docs/guide/step-forms.md shows runs as it is. */
import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { saveModel } from '../src/graph/files.js';
import type { Model } from '../src/graph/ir.js';
import { Tensor } from '../src/graph/tensor.js';
import { inject } from '../src/passes/inject.js';
import type { InjectOptions } from '../src/passes/options.js';
import { splitStep } from '../src/passes/run/split-step.js';
import { loadArrays } from '../src/runtime/data/load.js';
import { writeNpz } from '../src/runtime/data/npz.js';
import { sessionShapes } from '../src/runtime/session.js';
import { Trainer } from '../src/runtime/train/trainer.js';
import { ints } from './ops/vjp.js';
import { mlp, mlpData, Sketch } from './sample.js';

const ROOT = join(import.meta.dirname, '..');

const { ONNXRUNTIME_PYTHON: PYTHON = 'python3' } = process.env;
const NEEDED = 'import onnxruntime, torch.distributed as d; d.is_gloo_available() or exit(1)';
const missing = spawnSync(PYTHON, ['-c', NEEDED]).status
  ? `${PYTHON} (ONNXRUNTIME_PYTHON) lacks onnxruntime or torch with Gloo`
  : undefined;
if (missing) console.warn(`skipped the program in Python: ${missing}`);

/** x[batch,2] of row numbers -> rows of a table -> logits[batch,3]. */
function lookups(): Model {
  const s = new Sketch();
  const rows = s.add('Gather', [s.weight('table', [6, 4]), s.input('x', ['batch', 2], 'int64')], 'rows');
  const flat = s.add('Reshape', [rows, s.weight('shape', Tensor.ints([-1, 8]))], 'flat');
  return s.model([s.add('MatMul', [s.add('Tanh', [flat], 'a'), s.weight('w', [8, 3])], 'logits')]);
}

const [STEPS, BATCH] = [6, 9];
const OPTIMIZER = { lr: 0.05, delta: 0.1 };

/** Uneven parts in which some labels are ignored, for two processes. */
it.skipIf(missing).each<[string, Model, InjectOptions]>([
  ['padding', mlp(), { optimizer: OPTIMIZER }],
  ['rows of a table', lookups(), { lazyRows: ['table'], optimizer: OPTIMIZER }],
  ['products of the Hessian', mlp(), { optimizer: { name: 'adahessian', lr: 0.01 } }],
  [
    'losses that count different positions',
    mlp(),
    {
      loss: { kind: 'cross-entropy', ignoreIndex: 0, plus: [{ kind: 'mean', output: 'a', weight: 0.5 }] },
      optimizer: OPTIMIZER,
    },
  ],
])(
  'two processes of torch.distributed train as the library does on whole batches: %s',
  async (_, source, given) => {
    const folder = mkdtempSync(join(tmpdir(), 'agd-'));
    mkdirSync(join(folder, 'halves'));
    const options = { loss: { kind: 'cross-entropy', ignoreIndex: 0 }, lossDivisor: true, ...given } as const;
    const { model, report } = await inject(source, options, sessionShapes);
    const { gradients: grad, update, state } = await splitStep(model, sessionShapes);
    for (const [name, half] of Object.entries({ grad, update, state }))
      await saveModel(half, join(folder, 'halves', `${name}.onnx`));
    const isLookup = source.graph.inputs[0]!.dtype === 'int64';
    const data = mlpData(STEPS * BATCH, 5);
    const x = isLookup
      ? ints(
          Array.from({ length: STEPS * BATCH * 2 }, (_, i) => (i * i + (i >> 2)) % 6),
          [STEPS * BATCH, 2],
        )
      : data.get('x')!;
    const stacked = new Map(
      Object.entries({ x, target: data.get('target')! }).map(([name, t]) => [
        name,
        new Tensor(t.dtype, [STEPS, BATCH, ...t.dims.slice(1)], t.bytes),
      ]),
    );
    await writeNpz(join(folder, 'data.npz'), stacked);
    const page = readFileSync(join(ROOT, 'docs/guide/step-forms.md'), 'utf8');
    const [, code] = /```python\n(.*?)```/s.exec(page)!;
    const read = 'data = np.load("data.npz")\nbatches = list(zip(data["x"], data["target"]))\n';
    writeFileSync(join(folder, 'train.py'), code!.replace(/^dist\.init/m, `${read}$&`));
    const run = ['-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', '2', 'train.py'];
    const env = { ...process.env, OMP_NUM_THREADS: '1', CUDA_VISIBLE_DEVICES: '' };
    const { status, stdout, stderr } = spawnSync(PYTHON, run, { cwd: folder, encoding: 'utf8', env });
    expect({ status, stderr: status ? stderr : '' }).toEqual({ status: 0, stderr: '' });
    const trainer = await Trainer.create(model);
    const losses = await trainer.steps(Object.fromEntries(stacked));
    const printed = stdout
      .trim()
      .split('\n')
      .map(line => Number(line.replace('loss ', '')));
    expect(printed).toHaveLength(STEPS);
    printed.forEach((loss, i) => {
      expect(loss).toBeCloseTo(losses[i]!, 5);
    });
    const trained = await loadArrays(join(folder, 'trained.npz'));
    for (const { name } of report.description.parameters) {
      const found = trained.get(name)!.numbers();
      trainer.state
        .get(name)!
        .numbers()
        .forEach((value, i) => {
          expect(Math.abs(found[i]! - value), `${name}[${i}]`).toBeLessThan(2e-6);
        });
    }
    await trainer.release();
  },
  300_000,
);

it('drives both halves from JavaScript', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'agd-'));
  mkdirSync(join(folder, 'halves'));
  symlinkSync(join(ROOT, 'node_modules'), join(folder, 'node_modules'));
  const options = { loss: { kind: 'cross-entropy' }, optimizer: { lr: 0.05 } } as const;
  const { model } = await inject(mlp(), options, sessionShapes);
  const { gradients: grad, update, state } = await splitStep(model, sessionShapes);
  for (const [name, half] of Object.entries({ grad, update, state }))
    await saveModel(half, join(folder, 'halves', `${name}.onnx`));

  const data = mlpData(16);
  const [x, target] = [data.get('x')!, data.get('target')!];
  const batch = `{ x: new ort.Tensor('float32', [${x.numbers()}], [${x.dims}]), target: new ort.Tensor('int64', [${target.numbers()}].map(BigInt), [${target.dims}]) }`;
  const page = readFileSync(join(ROOT, 'docs/guide/step-forms.md'), 'utf8');
  const [, code] = /```js\n(.*?)```/s.exec(page)!;
  writeFileSync(
    join(folder, 'loop.mjs'),
    code!.replace(/^import .*\n/, `$&const batches = Array(20).fill(${batch});\n`),
  );
  const { stdout, stderr } = spawnSync(process.execPath, ['loop.mjs'], { cwd: folder, encoding: 'utf8' });
  expect(stderr).toBe('');
  const losses = stdout
    .trim()
    .split('\n')
    .map(line => Number(line.replace('loss ', '')));
  expect(losses).toHaveLength(20);
  expect(losses.at(-1)).toBeLessThan(losses[0]! / 2);
});
