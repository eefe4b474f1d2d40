import { AgdError, noLoss, types } from '../../src/constants.js';
import type { Tensor } from '../../src/internal.js';
import type { Arguments } from '../arguments.js';
import { checkOutputs } from '../files.js';
import type { Options } from '../flags.js';
import { formatNumber } from '../ui/format.js';
import { renderTable } from '../ui/table.js';
import { print, printPainted } from '../ui/terminal.js';

export const model = 'ONNX file';

const RUN = { group: 'Run', commands: [], stage: 'run' } as const;

export const options = {
  inputs: {
    ...RUN,
    type: types.text,
    group: 'Data',
    required: true,
    help: 'One batch: arrays named as the inputs and the target',
  },
  cotangents: {
    ...RUN,
    type: types.text,
    group: 'Data',
    help: 'Arrays named as outputs: the vector-Jacobian product with these, in inference mode',
    conflicts: [
      ...['loss', 'lossOutput', 'output', 'target', 'labelSmoothing', 'ignoreIndex', 'classWeights'],
      ...['classAxis', 'batchNorm', 'dropout'],
    ],
  },
  wrt: {
    ...RUN,
    type: types.texts,
    help: 'Inputs and initializers to differentiate by',
    shown: 'what trains',
    conflicts: ['train', 'freeze', 'unfreezeLast'],
  },
  check: { ...RUN, type: types.flag, help: 'Compare with finite differences' },
  out: {
    ...RUN,
    type: types.text,
    group: 'Output',
    alias: 'o',
    shown: 'MODEL.grad.safetensors',
    help: 'Safetensors file to write',
  },
} satisfies Options;

export const examples = [
  ['grad model.onnx --loss cross-entropy --inputs batch.safetensors -o grads.safetensors', ''],
] as const;

type Args = Arguments & {
  inputs: string;
  cotangents?: string;
  wrt?: string[];
  check?: boolean;
  out?: string;
};

/** The arrays of the batch under the names of what they feed. Throws `missing-data` for one that is not there. */
async function readFeeds({ inputs, bind }: Args): Promise<Record<string, Tensor>> {
  const { areArrays, loadArrays } = await import('../../src/internal.js');
  if (!(await areArrays(inputs)))
    throw new AgdError(
      'bad-data',
      `--inputs ${inputs}: this file has rows, but grad takes one batch of arrays named as the inputs (.npz, .npy or .safetensors).`,
    );
  const arrays = await loadArrays(inputs);
  const mapped = Object.entries(bind?.map ?? {}).map(([input, name]): [string, Tensor] => {
    const array = arrays.get(name);
    if (array) return [input, array];
    const known = [...arrays.keys()].map(other => `'${other}'`).join(', ');
    throw new AgdError(
      'missing-data',
      `--map ${input}=${name}: ${inputs} has no array '${name}', only ${known}.`,
    );
  });
  return Object.fromEntries([...arrays, ...mapped]);
}

export async function handler(args: Args): Promise<void> {
  const { checkGradients, gradients, loadArrays, loadModel, Tensor, writeSafetensors } = await import(
    '../../src/internal.js'
  );
  const out = args.out ?? args.model.replace(/(\.onnx)?$/, '.grad.safetensors');
  checkOutputs([out], [args.model, args.inputs, args.cotangents]);
  if (!args.cotangents && !args.loss) throw noLoss();
  const model = await loadModel(args.model);
  const feeds = await readFeeds(args);
  const cotangents = args.cotangents ? await loadArrays(args.cotangents) : undefined;
  for (const [name, tensor] of cotangents ?? []) feeds[`${name}_cotangent`] = tensor;
  const { train, freeze, unfreezeLast, wrt, straightThrough, seed, dumpPasses, device, threads } = args;
  const options = {
    ...(cotangents ? { cotangents: [...cotangents.keys()] } : { loss: args.loss }),
    batchNorm: args.batchNorm,
    dropout: args.dropout,
    train,
    freeze,
    unfreezeLast,
    wrt,
    straightThrough,
    seed,
    dumpPasses,
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
  const rows = checks.map(c =>
    c.unchecked
      ? [c.name, '-', '-', `not checkable (${c.unchecked})`]
      : [c.name, c.checked, c.error.toExponential(1), c.passed ? 'ok' : 'WRONG'],
  );
  printPainted(renderTable({ head: ['gradient', 'coordinates', 'relative error', 'verdict'], rows }));
  const unchecked = checks.filter(c => c.unchecked).length;
  if (unchecked)
    print(
      `${unchecked} of ${checks.length} gradients were not checked: the model rounds values computed from these tensors, so its outputs change in steps.`,
    );
  const wrong = checks.filter(c => !c.passed);
  if (wrong.length)
    throw new AgdError(
      'bad-data',
      `${wrong.length} of ${checks.length} gradients differ from finite differences: ${wrong.map(c => `'${c.name}'`).join(', ')}.`,
    );
}
