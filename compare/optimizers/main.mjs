/**
 * The comparisons of docs/explain/agd.md, each a run of `agd-onnx compare`: main.mjs DIR [NAME ...]. DIR is what prepare.py wrote.
 * Results go to DIR/out; those that are there already are not made again. Ends with each optimizer at its best rate,
 * in Markdown. Run after `npm run build`.
 */
import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { metricOf, standings } from 'agd-onnx/internal';

const ROOT = fileURLToPath(new URL('../../', import.meta.url));
const [dir, ...wanted] = process.argv.slice(2);
if (dir === undefined) throw new Error('main.mjs DIR [NAME ...]');
const from = name => join(resolve(dir), name);

const WHO = 'agd,adamw,sgd(momentum=0.9),adabelief';
const DELTAS = ['1e-8', '1e-6', '1e-5', '1e-4', '1e-3', '1e-2', '0.1', '1'].map(
  delta => `agd(delta=${delta})`,
);
/** The more of the steps are SGD's, the more the rate is lr/delta. */
const DELTA_RATES = '1e-4,3e-4,1e-3; agd(delta=1e-3)=3e-4,1e-3,3e-3';

const digits = {
  model: join(ROOT, 'models/lenet.onnx'),
  data: ['train', 'test'].map(part => join(ROOT, `models/mnist/${part}.npz`)),
};
const DIGITS = '--loss cross-entropy --batch-size 64';
const text = model => ({
  model: from(`${model}.onnx`),
  data: ['train', 'val'].map(part => from(`text-${part}.npz`)),
});
const TEXT = '--loss cross-entropy --batch-size 32 --epochs 2 --monitor loss';
const table = name => ({
  model: from(`${name}.onnx`),
  data: ['train', 'val'].map(part => from(`${name}-${part}.npz`)),
});
const PLANTED = '--loss bce-with-logits --batch-size 128 --epochs 5 --seeds 3';
const CRITEO = '--loss bce-with-logits --batch-size 16 --epochs 10 --seeds 3';

const COMPARISONS = {
  lenet: {
    ...digits,
    flags: `${DIGITS} --epochs 5 --seeds 3`,
    who: WHO,
    lr: '3e-4,1e-3,3e-3,1e-2; sgd=3e-3,1e-2,3e-2,0.1; agd=1e-4,3e-4,1e-3,3e-3,1e-2',
  },
  lstm: {
    ...text('lstm'),
    flags: `${TEXT} --seeds 2`,
    who: WHO,
    lr: '1e-3,3e-3,1e-2,3e-2; sgd=0.1,0.3,1,3; agd=3e-4,1e-3,3e-3,1e-2,3e-2',
  },
  gpt: {
    ...text('gpt'),
    flags: `${TEXT} --seeds 1`,
    who: WHO,
    lr: '3e-4,1e-3,3e-3,1e-2; sgd=3e-2,0.1,0.3,1; agd=1e-4,3e-4,1e-3,3e-3; adabelief=3e-3,1e-2,3e-2',
  },
  planted: {
    ...table('planted'),
    flags: PLANTED,
    who: WHO,
    lr: '3e-4,1e-3,3e-3,5e-3,1e-2; sgd=1e-2,3e-2,0.1,0.3; agd=3e-5,1e-4,3e-4,1e-3,3e-3,1e-2; adabelief=3e-4,1e-3,3e-3,1e-2,3e-2',
  },
  criteo: {
    ...table('criteo'),
    flags: CRITEO,
    who: WHO,
    lr: '1e-4,3e-4,1e-3,3e-3; sgd=1e-4,3e-4,1e-3,3e-3,1e-2,3e-2; agd=1e-5,3e-5,1e-4,3e-4,1e-3,3e-3; adabelief=1e-4,3e-4,1e-3,3e-3,1e-2',
  },
  'lenet-delta': {
    ...digits,
    flags: `${DIGITS} --epochs 3 --seeds 1 --telemetry 10`,
    who: DELTAS.join(),
    lr: `${DELTA_RATES}; agd(delta=1e-2)=1e-3,3e-3,1e-2; agd(delta=0.1)=1e-2,3e-2,0.1; agd(delta=1)=0.1,0.3,1`,
  },
  'planted-delta': {
    ...table('planted'),
    flags: `${PLANTED} --telemetry 10`,
    who: DELTAS.join(),
    lr: `${DELTA_RATES}; agd(delta=1e-4)=1e-4,3e-4,1e-3,3e-3,1e-2; agd(delta=1e-2)=1e-3,3e-3,1e-2,3e-2; agd(delta=0.1)=1e-2,3e-2,0.1,0.3; agd(delta=1)=0.1,0.3,1,3`,
  },
  'lstm-delta': {
    ...text('lstm'),
    flags: `${TEXT} --seeds 1 --telemetry 10`,
    who: DELTAS.slice(2, 6).join(),
    lr: '1e-3,3e-3,1e-2; agd(delta=1e-2)=1e-2,3e-2,0.1',
  },
};

const format = ({ name }, value) =>
  name === 'accuracy' ? `${(100 * value).toFixed(2)} %` : value.toFixed(4);

function markdown({ runs }, byLoss) {
  const metric = metricOf(runs, byLoss ? { monitor: 'loss' } : {});
  const all = standings(runs, undefined, metric);
  const rows = all
    .filter((s, i) => s.candidate !== all[i - 1]?.candidate)
    .map(s => {
      const rates = all.filter(other => other.candidate === s.candidate).map(other => other.lr);
      return {
        optimizer: `\`${s.candidate}\``,
        lr: s.lr,
        tried: rates.sort((a, b) => a - b).join(', '),
        [`final ${metric.name}`]: `${format(metric, s.final.mean)} ± ${format(metric, s.final.spread)}`,
        best: format(metric, s.best.mean),
        ...(s.sgdShare === undefined ? {} : { 'share of SGD': `${(100 * s.sgdShare).toFixed(1)} %` }),
      };
    });
  const head = Object.keys(rows[0]);
  return [head, head.map(() => '---'), ...rows.map(row => Object.values(row))]
    .map(cells => `| ${cells.join(' | ')} |`)
    .join('\n');
}

for (const [name, { model, data, flags, who, lr }] of Object.entries(COMPARISONS)) {
  if (wanted.length && !wanted.includes(name)) continue;
  const out = from(`out/${name}`);
  const results = join(out, 'results.json');
  if (!existsSync(results)) {
    const args = [
      'compare',
      model,
      '--data',
      data[0],
      '--val',
      data[1],
      ...flags.split(' '),
      '--threads',
      '1',
    ];
    const cli = [join(ROOT, 'bin/agd-onnx.js'), ...args, '--optimizers', who, '--lr', lr, '-o', out];
    const { status } = spawnSync(process.execPath, cli, { stdio: 'inherit' });
    if (status) process.exit(status);
  }
  console.log(
    `\n${name}\n\n${markdown(JSON.parse(readFileSync(results, 'utf8')), flags.includes('--monitor loss'))}`,
  );
}
