import { mkdir, writeFile } from 'node:fs/promises';
import { cpus } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { ArgumentsCamelCase, Argv } from 'yargs';
import { AgdError } from '../../src/constants.js';
import type { TrainEvent, TrainJob } from '../../src/index.js';
import { withFiles } from '../options.js';
import { formatCount, formatLoss, formatPercent, formatSeconds } from '../ui/format.js';
import { type LabelledImage, renderReport } from '../ui/report.js';
import { sparkline } from '../ui/sparkline.js';
import { lineChart } from '../ui/svg.js';
import { runWithProgress } from './train.js';

/** The package's root, from dist/cli/commands. */
const MODELS = fileURLToPath(new URL('../../../models/', import.meta.url));
const BATCH = 64;
const LR = 1e-3;

export const builder = (args: Argv) =>
  args
    .option('out', { alias: 'o', type: 'string', default: 'demo', describe: 'Folder to write to' })
    .option('epochs', { type: 'number', default: 5, describe: 'Passes over the 9,000 digits' })
    .option('seed', { type: 'number', default: 0, describe: 'Order of the digits' });

type Args = ArgumentsCamelCase<{ out: string; epochs: number; seed: number; color?: boolean }>;

export async function handler({ out, epochs, seed, color }: Args): Promise<void> {
  try {
    await mkdir(out, { recursive: true });
  } catch (error) {
    throw new AgdError('io', `Cannot make the folder ${out}: ${(error as Error).message}.`);
  }
  const model = join(MODELS, 'lenet.onnx');
  const job: TrainJob = {
    model,
    inject: await withFiles({ loss: { kind: 'cross-entropy' }, agd: { lr: LR } }, model),
    data: join(MODELS, 'mnist/train.npz'),
    validation: join(MODELS, 'mnist/test.npz'),
    output: join(out, 'lenet.trained.onnx'),
    epochs,
    batchSize: BATCH,
    seed,
  };
  console.log('LeNet learns to read handwritten digits: 9,000 to learn from, 1,000 to be tested on.');
  const events: TrainEvent[] = [];
  const begin = performance.now();
  const stopped = await runWithProgress(job, { color }, event => events.push(event));
  const seconds = (performance.now() - begin) / 1000;
  if (stopped) process.exitCode = 130;
  const losses = events.flatMap(e => (e.type === 'step' ? [e.loss] : []));
  const results = events.flatMap(e => (e.type === 'epoch' ? [e] : []));
  if (!results.length) return;
  const accuracy = results.at(-1)!.validation!.accuracy!;
  console.log(`loss      ${sparkline(losses)} ${formatLoss(losses.at(-1)!)}`);
  console.log(
    `accuracy  ${formatPercent(accuracy)} of 1,000 digits it has not seen, after ${formatSeconds(seconds)}`,
  );
  const page = join(out, 'report.html');
  await writeFile(page, await reportPage(job, events, { losses, results, accuracy, seconds }));
  console.log(`wrote ${page}`);
}

type Results = {
  losses: number[];
  results: Extract<TrainEvent, { type: 'epoch' }>[];
  accuracy: number;
  seconds: number;
};

async function reportPage(
  job: TrainJob,
  events: readonly TrainEvent[],
  { losses, results, accuracy, seconds }: Results,
) {
  const injected = events.find(e => e.type === 'injected');
  const parameters = injected?.report.parameters.filter(p => p.trains) ?? [];
  const count = parameters.reduce(
    (n, p) => n + (p.value.type?.kind === 'tensor' ? elements(p.value.type.shape) : 0),
    0,
  );
  const epochs = results.map(r => r.epoch);
  return renderReport({
    title: 'LeNet on handwritten digits',
    subtitle: 'Trained by AGD, as nodes of an ONNX graph, in ONNX Runtime.',
    tiles: [
      { label: 'Accuracy', value: formatPercent(accuracy), note: 'on 1,000 digits not seen in training' },
      {
        label: 'Time',
        value: formatSeconds(seconds),
        note: `${formatCount(losses.length, 'step')} of ${BATCH} digits`,
      },
      { label: 'Parameters', value: formatCount(count), note: `${parameters.length} tensors` },
      {
        label: 'Graph',
        value: formatCount(injected?.report.nodes.after ?? 0, 'node'),
        note: `from ${injected?.report.nodes.before}`,
      },
    ],
    sections: [
      {
        title: 'Training',
        blocks: [
          {
            kind: 'charts',
            svgs: [
              lineChart({
                title: 'Loss of each step',
                x: { label: 'step' },
                y: { label: 'cross-entropy', scale: 'log' },
                series: [{ name: 'training', y: losses, smooth: 0.95 }],
              }),
              lineChart({
                title: 'Accuracy after each epoch',
                x: { label: 'epoch' },
                y: { label: 'accuracy', format: v => formatPercent(v) },
                series: [
                  { name: 'digits not seen', x: epochs, y: results.map(r => r.validation!.accuracy!) },
                ],
              }),
            ],
          },
        ],
      },
      {
        title: 'What it reads',
        blocks: [{ kind: 'images', caption: 'Digits not seen in training', images: await samples(job) }],
      },
      {
        title: 'How to do it again',
        blocks: [
          {
            kind: 'code',
            code: [
              'agd-onnx inspect models/lenet.onnx',
              'agd-onnx inject models/lenet.onnx --loss cross-entropy -o lenet.agd.onnx',
              `agd-onnx train lenet.agd.onnx --data models/mnist/train.npz --val models/mnist/test.npz --epochs ${job.epochs} --batch-size ${BATCH} -o lenet.trained.onnx`,
            ].join('\n'),
          },
          {
            kind: 'facts',
            facts: {
              Node: process.version,
              Processor: `${cpus()[0]?.model}, ${cpus().length} cores`,
              Seed: String(job.seed),
            },
          },
        ],
      },
    ],
  });
}

const elements = (shape: readonly unknown[] = []) => (shape as number[]).reduce((n, d) => n * d, 1);

/** The first digits of the test file with what the trained model says of them. */
async function samples(job: TrainJob, count = 60): Promise<LabelledImage[]> {
  const { bindData, loadArrays, loadModel, Session } = await import('../../src/index.js');
  const arrays = await loadArrays(job.validation!);
  const digits = arrays.get('x')!;
  const data = bindData(new Map([['x', digits]]), [
    { name: 'input', dtype: 'float32', shape: [null, 1, 28, 28] },
  ]);
  const session = await Session.create(await loadModel(job.output));
  const { logits } = await session.run(data.take(Uint32Array.from({ length: count }, (_, i) => i)).inputs);
  await session.release();
  const scores = logits!.numbers();
  const labels = arrays.get('y')!.numbers();
  return Array.from({ length: count }, (_, i) => {
    const row = scores.slice(10 * i, 10 * i + 10);
    const pixels = digits.bytes.subarray(784 * i, 784 * (i + 1));
    const prediction = String(row.indexOf(Math.max(...row)));
    return { width: 28, height: 28, channels: 1, pixels, label: String(labels[i]), prediction };
  });
}
