import { AgdError, noLoss, types } from '../../src/command/startup.js';
import type { GradientOptions, Model, Tensor } from '../../src/internal.js';
import type { Arguments } from '../arguments.js';
import { checkOutputs } from '../files.js';
import type { Options } from '../flags.js';
import { formatCount, formatNumber } from '../ui/format.js';
import { renderTable } from '../ui/table.js';
import { print, printPainted, warn } from '../ui/terminal.js';

export const model = 'ONNX file';

const RUN = { group: 'Run', commands: [], stage: 'run' } as const;

export const options = {
  inputs: {
    ...RUN,
    type: types.text,
    group: 'Data',
    required: true,
    help: 'One batch: arrays named after the inputs and the target, or a table, whose first rows are used',
  },
  cotangents: {
    ...RUN,
    type: types.text,
    group: 'Data',
    help: 'Arrays named after outputs: compute the vector-Jacobian product with them, in inference mode',
    conflicts: [
      ...['loss', 'lossOutput', 'output', 'target', 'labelSmoothing', 'ignoreIndex', 'classWeights'],
      ...['classAxis', 'batchNorm', 'dropout', 'lossModel', 'teacher', 'distill'],
    ],
  },
  wrt: {
    ...RUN,
    type: types.texts,
    help: 'Inputs and initializers to differentiate with respect to',
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
    help: 'File to write: .safetensors, or .npz',
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
async function readFeeds(
  { inputs, bind, columns, label, recipe, skipMissing, batchSize }: Args,
  model: Model,
  options: GradientOptions,
): Promise<Record<string, Tensor>> {
  const { areArrays, gradientFeeds, loadArrays, loadRecipe } = await import('../../src/internal.js');
  const { map: _, ...other } = bind ?? {};
  const asData = [columns, label, recipe, skipMissing, batchSize, ...Object.values(other)];
  if (asData.some(given => given !== undefined) || !(await areArrays(inputs))) {
    const fitted = recipe === undefined ? undefined : await loadRecipe(recipe);
    const how = { columns, label, skipMissing, recipe: fitted, batchSize, bind };
    const { feeds, samples, of } = await gradientFeeds(model, options, inputs, how);
    if (samples < of)
      print(`takes the first ${samples} of ${formatCount(of, 'sample')}; --batch-size takes others`);
    return feeds;
  }
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
  const {
    attachModels,
    checkGradients,
    gradients,
    loadArrays,
    openModel,
    Tensor,
    withDevice,
    writeNpz,
    writeSafetensors,
  } = await import('../../src/internal.js');
  const out = args.out ?? args.model.replace(/(\.onnx)?$/, '.grad.safetensors');
  const { distill, lossModel, teacher } = args;
  const read = [args.model, args.inputs, args.cotangents, args.recipe, lossModel, teacher];
  checkOutputs([out], read);
  if (!args.cotangents && !args.loss && !lossModel && !distill) throw noLoss();
  const beside = {
    loss: args.loss,
    distill,
    ...(teacher === undefined ? {} : { teacherModel: await openModel(teacher) }),
    ...(lossModel === undefined ? {} : { lossGraph: await openModel(lossModel) }),
  };
  const attached = await attachModels(await openModel(args.model), beside);
  const { model } = attached;
  const cotangents = args.cotangents ? await loadArrays(args.cotangents) : undefined;
  const { train, freeze, unfreezeLast, wrt, straightThrough, seed, dumpPasses, threads } = args;
  const { device } = await withDevice(args, warn);
  const { deriveInputs, pack } = args;
  const options = {
    ...(cotangents ? { cotangents: [...cotangents.keys()] } : { loss: attached.options.loss }),
    batchNorm: args.batchNorm,
    dropout: args.dropout,
    train,
    freeze,
    unfreezeLast,
    wrt,
    straightThrough,
    seed,
    deriveInputs,
    pack,
    dumpPasses,
  };
  const feeds = await readFeeds(args, model, options);
  for (const [name, tensor] of cotangents ?? []) feeds[`${name}_cotangent`] = tensor;
  const found = await gradients(model, options, feeds, { device, threads });
  const { loss } = found;
  for (const text of found.warnings) print(`warning: ${text}`);
  const scalar = loss === undefined ? [] : [['loss', Tensor.filled('float32', [], loss)] as const];
  const write = out.endsWith('.npz') ? writeNpz : writeSafetensors;
  await write(out, new Map([...scalar, ...found.gradients]));
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
