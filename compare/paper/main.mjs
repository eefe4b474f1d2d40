/**
 * The tasks of docs/explain/paper.md, each a run of `agd-onnx compare`: main.mjs DIR [TASK ...]. DIR is what prepare.py
 * wrote; tasks whose models are not there are left out. Results go to DIR/out; those that are there already are not made
 * again. Ends with the page's tables. Run after `npm run build`.
 */
import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

const ROOT = fileURLToPath(new URL('../../', import.meta.url));
const [dir, ...wanted] = process.argv.slice(2);
if (dir === undefined) throw new Error('main.mjs DIR [TASK ...]');
const from = name => join(resolve(dir), name);

const MUON = 'muon(adam_lr=3e-3)';
const ALL = [
  ...['agd', 'adamw', 'sgd(momentum=0.9)', 'adabelief', 'lion', MUON, 'adan'],
  ...['schedule-free-adamw', 'schedule-free-sgd', 'prodigy'],
].join();
/** Centers of the grids, chosen before the runs; the same for all tasks but for SGD's. AGD's is the authors' advice: below AdamW's. */
const centers = sgd =>
  `sgd=${sgd}; schedule-free-sgd=${sgd}; agd=3e-4; adabelief=3e-3; lion=3e-4; muon=1e-2; adan=3e-3; schedule-free-adamw=3e-3; prodigy=1`;
const EQUAL = '--tune 5 --seeds 2';
const TEXT = '--loss cross-entropy --batch-size 32 --epochs 3 --monitor loss';
const CLICKS = '--loss bce-with-logits --batch-size 16 --epochs 10 --monitor loss --tune 5 --seeds 5';
const TINY = 'agd(delta=1e-14)';

const LSTM = { flags: `${TEXT} ${EQUAL}`, who: ALL, lr: centers(1) };
const RESNET = {
  flags: `--loss cross-entropy --batch-size 32 --epochs 2 ${EQUAL}`,
  who: ALL,
  lr: centers(0.1),
};

const TASKS = {
  lstm1: LSTM,
  lstm2: LSTM,
  lstm3: LSTM,
  transformer: { flags: `${TEXT} ${EQUAL} --telemetry 8`, who: `${ALL},${TINY}`, lr: centers(0.1) },
  gpt: { flags: `${TEXT} ${EQUAL}`, who: `${ALL},${TINY}`, lr: centers(0.1) },
  resnet20: RESNET,
  resnet32: RESNET,
  avazu: { flags: CLICKS, who: ALL, lr: centers(3e-3) },
  criteo: { flags: CLICKS, who: ALL, lr: centers(3e-3) },
  // From here on AGD alone: its threshold, and what its authors advise.
  delta: {
    model: 'transformer',
    flags: `${TEXT} ${EQUAL} --telemetry 8`,
    who: 'agd(delta=1e-8),agd(delta=1e-3),agd(delta=1e-1)',
    lr: 'agd=3e-4; agd(delta=1e-3)=1e-3; agd(delta=1e-1)=3e-2',
  },
  'lenet-switch': {
    model: join(ROOT, 'models/lenet.onnx'),
    data: ['train', 'test', 'test'].map(part => join(ROOT, `models/mnist/${part}.npz`)),
    flags: '--loss cross-entropy --batch-size 64 --epochs 1 --seeds 2 --telemetry 20',
    who: 'agd(delta=1e-5),agd(delta=1e-3),agd(delta=1e-2)',
    lr: '3e-4; agd(delta=1e-3)=1e-3; agd(delta=1e-2)=3e-3',
  },
  clip: {
    model: 'transformer',
    flags: `${TEXT} ${EQUAL} --clip-grad-norm 5`,
    who: `agd,adamw,${TINY}`,
    lr: 'agd=3e-4',
  },
};

/** The table of a task. */
function show(name, out) {
  const report = readFileSync(join(out, 'report.md'), 'utf8');
  const [, tables] = /## Each at its best learning rate\n\n([\s\S]*?)\n\n## Protocol/.exec(report);
  console.log(`\n${name}\n\n${tables.replaceAll('\\_', '_')}`);
}

for (const [name, task] of Object.entries(TASKS)) {
  if (wanted.length && !wanted.includes(name)) continue;
  const { flags, who, lr, model = name } = task;
  const path = model.endsWith('.onnx') ? model : from(`${model}.onnx`);
  const [train, val, test] = task.data ?? ['train', 'val', 'test'].map(part => from(`${model}-${part}.npz`));
  if (!existsSync(path)) {
    console.log(`${name} is left out: ${path} is missing; prepare.py writes it.`);
    continue;
  }
  const out = from(`out/${name}`);
  if (!existsSync(join(out, 'report.md'))) {
    const data = ['--data', train, '--val', val, ...(test === val ? [] : ['--test', test])];
    const args = ['compare', path, ...data, ...flags.split(' '), '--threads', '1'];
    const cli = [join(ROOT, 'bin/agd-onnx.js'), ...args, '--optimizers', who, '--lr', lr, '-o', out];
    const { status } = spawnSync(process.execPath, cli, { stdio: 'inherit' });
    if (status) process.exit(status);
  }
  show(name, out);
}
