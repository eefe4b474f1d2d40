import { join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { types } from '../../src/command/startup.js';
import type { TrainJob } from '../../src/internal.js';
import { makeFolder, pathsOf } from '../files.js';
import type { Options } from '../flags.js';
import { PACKAGE } from '../package-folder.js';
import { commandLine, createDisplay } from '../run-display.js';
import { RunRecord } from '../run-record.js';
import { formatLoss, formatPercent, formatSeconds } from '../ui/format.js';
import type { LabelledImage } from '../ui/report.js';
import { sparkline } from '../ui/sparkline.js';
import { print } from '../ui/terminal.js';
import { runWithProgress } from './train.js';

const MODELS = fileURLToPath(new URL('models/', PACKAGE));
const BATCH = 64;
const LR = 1e-3;

const RUN = { group: 'Run', commands: [], stage: 'run' } as const;

export const options = {
  out: { ...RUN, type: types.text, group: 'Output', alias: 'o', help: 'Folder to write to', shown: 'demo' },
  epochs: { ...RUN, type: types.count, help: 'Passes over the 9,000 digits', shown: '5' },
  seed: { ...RUN, type: types.countFromZero, help: 'Seed of the order of the digits', shown: '0' },
} satisfies Options;

export const examples = [] as const;

type Args = { out?: string; epochs?: number; seed?: number; color?: boolean };

export async function handler({ out = 'demo', epochs = 5, seed = 0, color }: Args): Promise<void> {
  await makeFolder(out);
  const model = join(MODELS, 'lenet.onnx');
  const job: TrainJob = {
    model,
    inject: { loss: { kind: 'cross-entropy' }, optimizer: { lr: LR } },
    data: join(MODELS, 'mnist/train.npz'),
    validation: join(MODELS, 'mnist/test.npz'),
    output: join(out, 'lenet.trained.onnx'),
    epochs,
    batchSize: BATCH,
    seed,
  };
  print('LeNet learns to read handwritten digits: 9,000 to learn from, 1,000 to be tested on.');
  const record = new RunRecord();
  await runWithProgress(job, createDisplay(job, { color }), event => record.watch(event));
  const { losses, accuracy, seconds } = record;
  if (accuracy === undefined) return;
  print(`loss      ${sparkline(losses.map(Math.log))} ${formatLoss(record.epochs.at(-1)!.trainLoss)}`);
  print(
    `accuracy  ${formatPercent(accuracy)} of 1,000 digits it has not seen, after ${formatSeconds(seconds)}`,
  );
  const page = join(out, 'report.html');
  const { writeFileAtomic } = await import('../../src/internal.js');
  await writeFileAtomic(page, [Buffer.from(await reportPage(job, record))]);
  print(`wrote ${page}`);
}

async function reportPage(job: TrainJob, record: RunRecord): Promise<string> {
  const { renderRun } = await import('../run-report.js');
  return renderRun(record, {
    title: 'LeNet on handwritten digits',
    subtitle: 'Trained by AGD, as nodes of an ONNX graph, in ONNX Runtime.',
    sections: [
      {
        title: 'What it reads',
        blocks: [{ kind: 'images', caption: 'Digits not seen in training', images: await samples(job) }],
      },
    ],
    code: reproduction(job).map(commandLine).join('\n'),
    facts: { Seed: String(job.seed) },
  });
}

/** What the demo did, one command after the other. */
function reproduction({ model, data, validation, epochs, seed }: TrainJob): string[][] {
  const [plain, train, test] = [model, ...pathsOf(data, validation)].map(path => relative('.', path));
  const [injected, trained] = ['lenet.agd.onnx', 'lenet.trained.onnx'];
  const size = ['--epochs', `${epochs}`, '--batch-size', `${BATCH}`, '--seed', `${seed}`];
  return [
    ['inspect', plain!],
    ['inject', plain!, '--loss', 'cross-entropy', '-o', injected!],
    ['train', injected!, '--data', train!, '--val', test!, ...size, '-o', trained!],
  ];
}

/** The first digits of the test file with what the trained model says of them. */
async function samples(job: TrainJob, count = 60): Promise<LabelledImage[]> {
  const { bindData, loadArrays, loadModel, Session } = await import('../../src/internal.js');
  const arrays = await loadArrays(pathsOf(job.validation)[0]!);
  const digits = arrays.get('x')!;
  const data = bindData(new Map([['x', digits]]), [
    { name: 'input', dtype: 'float32', shape: [null, 1, 28, 28] },
  ]);
  const session = await Session.create(await loadModel(job.output!));
  const { inputs } = await data.take(Uint32Array.from({ length: count }, (_, i) => i));
  const { logits } = await session.run(inputs);
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
