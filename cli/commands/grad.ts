import type { ArgumentsCamelCase, Argv } from 'yargs';
import { AgdError } from '../../src/constants.js';
import {
  checkOutputs,
  lossOptions,
  lossSpec,
  type Parsed,
  sessionOptions,
  trainingOptions,
} from '../options.js';
import { formatNumber } from '../ui/format.js';
import { renderTable } from '../ui/table.js';
import { print, printPainted } from '../ui/terminal.js';

/** Vector-Jacobian products are of the model as it is in inference. */
const LOSS_ONLY = [
  ...['loss', 'loss-output', 'output', 'target', 'label-smoothing', 'ignore-index', 'class-weights'],
  ...['class-axis', 'batch-norm', 'dropout'],
];

export const builder = (args: Argv) =>
  sessionOptions(trainingOptions(lossOptions(args)))
    .positional('model', { type: 'string', demandOption: true, describe: 'ONNX file' })
    .options({
      inputs: {
        type: 'string',
        demandOption: true,
        describe: 'One batch, arrays named as the inputs and the target',
      },
      cotangents: {
        type: 'string',
        describe: 'Arrays named as outputs: the vector-Jacobian product with these',
      },
      wrt: {
        type: 'string',
        array: true,
        describe: 'Inputs and initializers to differentiate by [what trains]',
      },
      check: { type: 'boolean', describe: 'Compare with finite differences' },
      out: { alias: 'o', type: 'string', describe: 'safetensors file to write [MODEL.grad.safetensors]' },
    } as const)
    .conflicts({ cotangents: LOSS_ONLY, wrt: ['train', 'freeze'] })
    .example('$0 grad model.onnx --loss cross-entropy --inputs batch.safetensors -o grads.safetensors', '');

type Args = ArgumentsCamelCase<
  Parsed & {
    model: string;
    inputs: string;
    cotangents?: string;
    wrt?: string[];
    check?: boolean;
    out?: string;
    device?: 'cpu';
    threads?: number;
  }
>;

export async function handler(args: Args): Promise<void> {
  const { checkGradients, gradients, loadArrays, loadModel, Tensor, writeSafetensors } = await import(
    '../../src/index.js'
  );
  const out = args.out ?? args.model.replace(/(\.onnx)?$/, '.grad.safetensors');
  checkOutputs([out], [args.model, args.inputs, args.cotangents]);
  if (args.check && args.dropout === 'train')
    throw new AgdError('bad-option', '--check compares runs that are alike: leave out --dropout train.');
  const model = await loadModel(args.model);
  const feeds = Object.fromEntries(await loadArrays(args.inputs));
  const cotangents = args.cotangents ? await loadArrays(args.cotangents) : undefined;
  for (const [name, tensor] of cotangents ?? []) feeds[`${name}_cotangent`] = tensor;
  const { train, freeze, wrt, straightThrough, seed, device, threads } = args;
  const options = {
    ...(cotangents ? { cotangents: [...cotangents.keys()] } : { loss: lossSpec(args) }),
    batchNorm: args.batchNorm as 'train' | undefined,
    dropout: args.dropout as 'train' | undefined,
    ...{ train, freeze, wrt, straightThrough, seed },
  };
  const found = await gradients(model, options, feeds, { device, threads });
  const { loss } = found;
  for (const text of found.warnings) print(`warning: ${text}`);
  const scalar = loss === undefined ? [] : [['loss', Tensor.filled('float32', [], loss)] as const];
  await writeSafetensors(out, new Map([...scalar, ...found.gradients]));
  if (loss !== undefined) print(`loss ${formatNumber(loss)}`);
  print(`wrote ${out}: ${[...found.gradients.keys()].length} gradients`);
  if (!args.check) return;
  const checks = await checkGradients(model, options, feeds, found, { device, threads });
  const rows = checks.map(c => [c.name, c.checked, c.error.toExponential(1), c.passed ? 'ok' : 'WRONG']);
  printPainted(renderTable({ head: ['gradient', 'coordinates', 'relative error', 'verdict'], rows }));
  const wrong = checks.filter(c => !c.passed);
  if (wrong.length)
    throw new AgdError(
      'bad-data',
      `${wrong.length} of ${checks.length} gradients differ from finite differences: ${wrong.map(c => `'${c.name}'`).join(', ')}.`,
    );
}
