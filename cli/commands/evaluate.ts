import { types } from '../../src/command/startup.js';
import type { Evaluation } from '../../src/internal.js';
import type { Arguments } from '../arguments.js';
import { dataToRead, type Options } from '../flags.js';
import { formatCount, formatMetric } from '../ui/format.js';
import { countSamples } from '../ui/sample-count.js';
import { renderTable } from '../ui/table.js';
import { painter, print, printJson, printPainted, warn } from '../ui/terminal.js';

export const model = 'ONNX file, plain or injected, or a training state';

const OUTPUT = { group: 'Output', commands: [], stage: 'run' } as const;

export const options = {
  data: dataToRead('with the targets'),
  ema: { ...OUTPUT, group: 'Run', type: types.flag, help: 'Use the moving average of the weights' },
  json: { ...OUTPUT, type: types.flag, help: 'Print JSON' },
} satisfies Options;

export const examples = [
  ['evaluate model.onnx --loss cross-entropy --data test.npz', 'the loss and its default metrics'],
  ['evaluate model.agd.onnx --data test.npz --metric auc --json', 'a training state stores its loss'],
] as const;

type Args = Omit<Arguments, 'ema' | 'data'> & {
  data: string | string[];
  ema?: boolean;
  json?: boolean;
};

export async function handler(args: Args): Promise<void> {
  const { evaluate, loadRecipe, openModel, withDevice } = await import('../../src/internal.js');
  const { model: path, data, loss, metrics, batchSize, bind, columns, label, ema, threads } = args;
  const { skipMissing, distill, teacher, lossModel, allPositions } = args;
  const recipe = args.recipe === undefined ? undefined : await loadRecipe(args.recipe);
  const teacherModel = teacher === undefined ? undefined : await openModel(teacher);
  const lossGraph = lossModel === undefined ? undefined : await openModel(lossModel);
  const { device } = await withDevice(args, warn);
  const count = countSamples(process.stderr, 'evaluated');
  const found = await evaluate(path, data, {
    ...{ loss, metrics, batchSize, bind, columns, label, skipMissing, recipe, ema, device, threads },
    ...{ teacherModel, lossGraph, distill, allPositions },
    onProgress: count.show,
  }).finally(count.done);
  if (args.json) {
    printJson(found);
    return;
  }
  const paint = painter(process.stdout, args.color);
  print(`${path} on ${[data].flat().join(', ')}: ${formatCount(found.samples, 'sample')}`);
  const rows = Object.entries({ loss: found.loss, ...found.metrics });
  const texts = rows.map(([name, value]) => [name, formatMetric(name, value)]);
  printPainted(renderTable({ head: ['metric', 'value'], rows: texts }, paint));
  if (found.confusion) printPainted(`\n${confusionTable(found.confusion, paint)}`);
  if (found.leftOut)
    print(
      `${found.leftOut} samples left out: they do not fill a batch, and the loss that the model computes has no per-sample values`,
    );
  for (const note of found.notes ?? []) print(note);
}

function confusionTable(
  { matrix, classes }: NonNullable<Evaluation['confusion']>,
  paint: Parameters<typeof renderTable>[1],
): string {
  const names = matrix.map((_, i) => classes?.[i] ?? `${i}`);
  const head = ['true \\ predicted', ...names];
  return renderTable({ head, rows: matrix.map((row, i) => [names[i]!, ...row.map(String)]) }, paint);
}
