import { types } from '../../src/command/startup.js';
import type { Activation } from '../../src/internal.js';
import type { Arguments } from '../arguments.js';
import { checkOutputs } from '../files.js';
import { dataToRead, type Options } from '../flags.js';
import { formatCount } from '../ui/format.js';
import { countSamples } from '../ui/sample-count.js';
import { print, warn } from '../ui/terminal.js';

export const model = 'ONNX file, plain or injected, or a training state';

const OUTPUT = { group: 'Output', commands: [], stage: 'run' } as const;

export const options = {
  data: dataToRead('for the inputs'),
  out: {
    ...OUTPUT,
    type: types.text,
    alias: 'o',
    help: 'File to write: .csv, .jsonl or .npz',
    shown: 'MODEL.predictions.csv',
  },
  keep: { ...OUTPUT, type: types.texts, help: 'Column of the data to copy into the file; may be repeated' },
  output: {
    ...OUTPUT,
    type: types.texts,
    help: 'Output or inner value to write; may be repeated, the first one is read as the prediction',
    shown: 'the one that was trained',
    path: 'outputs',
  },
  activation: {
    ...OUTPUT,
    type: types.choice(['softmax', 'sigmoid', 'exp', 'none']),
    help: 'Function that converts the output to probabilities',
    shown: 'inferred from the loss, the recipe, or the last operator',
  },
  ema: { ...OUTPUT, group: 'Run', type: types.flag, help: 'Use the moving average of the weights' },
} satisfies Options;

export const examples = [
  ['predict model.onnx --loss cross-entropy --data test.npz -o predictions.csv', 'classes and probabilities'],
  ['predict model.agd.onnx --data test.npz -o predictions.npz', 'a training state stores its loss'],
] as const;

type Args = Omit<Arguments, 'ema' | 'data'> & {
  data: string | string[];
  out?: string;
  keep?: string[];
  outputs?: string[];
  activation?: Activation;
  ema?: boolean;
};

export async function handler(args: Args): Promise<void> {
  const {
    checkWritable,
    keepColumns,
    openModel,
    loadRecipe,
    predictBatches,
    predictionFormat,
    readRecipe,
    withDevice,
    writePredictions,
  } = await import('../../src/internal.js');
  const { model: path, data, keep, loss, outputs, activation, batchSize, bind, columns, label, ema } = args;
  const { threads, allPositions } = args;
  const out = args.out ?? path.replace(/(\.onnx)?$/, '.predictions.csv');
  predictionFormat(out);
  checkOutputs([out], [path, args.recipe, ...[data].flat()]);
  await checkWritable(out);
  const recipe = args.recipe === undefined ? undefined : await loadRecipe(args.recipe);
  const source = keep && (await keepColumns(data, keep, recipe ?? (await readRecipe(await openModel(path)))));
  const { device } = await withDevice(args, warn);
  const count = countSamples(process.stderr, 'predicted');
  try {
    const batches = predictBatches(path, data, {
      ...{ loss, outputs, activation, batchSize, bind, columns, label, recipe, ema, device, threads },
      allPositions,
      onProgress: count.show,
    });
    const rows = await writePredictions(out, batches, source).finally(count.done);
    print(`wrote ${out}: ${formatCount(rows, 'sample')}`);
  } finally {
    await source?.close();
  }
}
