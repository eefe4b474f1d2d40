/** Options that several commands share, and what they mean. */
import { realpathSync } from 'node:fs';
import { mkdir, readFile } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import type { Argv } from 'yargs';
import { AgdError, DEVICES, LOSSES } from '../src/constants.js';
import type { InjectOptions, LossSpec } from '../src/index.js';
import { kebab, numbers, OPTIMIZER_FLAGS, type ParsedOptimizer } from './optimizer-options.js';
import { type ParsedStep, stepConfig } from './step-options.js';
import { print } from './ui/terminal.js';

const LOSS = 'Loss:';
const TRAINING = 'Training:';

export const lossOptions = <T>(args: Argv<T>) =>
  args.options({
    loss: { choices: LOSSES, describe: 'Loss of an output and a target', group: LOSS },
    output: { type: 'string', describe: 'Output or inner value that the loss reads', group: LOSS },
    target: { type: 'string', describe: 'Name of the target input [target]', group: LOSS },
    'loss-output': { type: 'string', describe: 'Output that is a loss already', group: LOSS },
    'label-smoothing': {
      type: 'number',
      describe: 'Cross-entropy: share spread over all classes',
      group: LOSS,
    },
    'ignore-index': { type: 'number', describe: 'Class that does not count', group: LOSS },
    'class-weights': { type: 'string', describe: 'One weight per class, as 1,0.5,2', group: LOSS },
    'class-axis': { type: 'number', describe: 'Axis of the classes [last; 1 for images]', group: LOSS },
  } as const);

export const gradientOptions = <T>(args: Argv<T>) =>
  args.options({
    grad: {
      type: 'string',
      array: true,
      describe: "Gradients that the graph has, as W1=dW1 or '{param}_grad'",
      group: TRAINING,
    },
    'replace-optimizer': {
      type: 'boolean',
      describe: 'Put --optimizer in the place of that of a step in training_info',
      group: TRAINING,
    },
    initialize: {
      type: 'boolean',
      describe: 'Begin as the initialization in training_info says',
      group: TRAINING,
      conflicts: 'params',
    },
    params: {
      type: 'string',
      describe: 'Take parameters from this file: .safetensors, .npz, .onnx, checkpoint',
      group: TRAINING,
    },
  } as const);

export const selectionOptions = <T>(args: Argv<T>) =>
  args.options({
    train: { type: 'string', array: true, describe: 'Train what matches the glob', group: TRAINING },
    freeze: { type: 'string', array: true, describe: 'Do not train what matches the glob', group: TRAINING },
  } as const);

export const trainingOptions = <T>(args: Argv<T>) =>
  selectionOptions(args).options({
    seed: { type: 'number', default: 0, describe: 'Seed of all that is random', group: TRAINING },
    'batch-norm': {
      choices: ['train', 'eval'],
      describe: 'Batch statistics, or running ones',
      group: TRAINING,
    },
    dropout: { choices: ['train', 'eval'], describe: 'Whether dropout drops', group: TRAINING },
    'straight-through': {
      type: 'boolean',
      describe: 'Let gradients pass rounding unchanged',
      group: TRAINING,
    },
  } as const);

export const checkpointOptions = <T>(args: Argv<T>) =>
  args.options({
    'checkpoint-activations': {
      type: 'boolean',
      describe: 'Less memory, more time: compute activations again in the backward pass',
      group: TRAINING,
    },
    'checkpoint-segments': {
      type: 'number',
      describe: 'The same, in so many segments [the square root of the nodes]',
      group: TRAINING,
    },
  } as const);

export const sessionOptions = <T>(args: Argv<T>) =>
  args.options({
    device: { choices: DEVICES, default: 'cpu', describe: 'Execution provider' },
    threads: { type: 'number', describe: 'Threads [as many as cores]' },
  } as const);

/** The parsed options of the functions above, all optional: commands differ in which they offer. */
export type Parsed = ParsedStep &
  ParsedOptimizer & {
    loss?: (typeof LOSSES)[number];
    output?: string;
    target?: string;
    lossOutput?: string;
    labelSmoothing?: number;
    ignoreIndex?: number;
    classWeights?: string;
    classAxis?: number;
    grad?: string[];
    replaceOptimizer?: boolean;
    params?: string;
    initialize?: boolean;
    train?: string[];
    freeze?: string[];
    batchNorm?: string;
    dropout?: string;
    straightThrough?: boolean;
    checkpointActivations?: boolean;
    checkpointSegments?: number;
    seed?: number;
  };

/** Whether the command line says anything of a loss. */
export const hasLoss = (args: Parsed) => args.loss !== undefined || args.lossOutput !== undefined;

/** What is said of a loss besides which. */
const LOSS_DETAILS = [
  ...(['output', 'target', 'labelSmoothing'] as const),
  ...(['ignoreIndex', 'classWeights', 'classAxis'] as const),
];

/** Options that count when a model is injected, and would be forgotten where it is already. */
const INJECT_ONLY: readonly (keyof Parsed)[] = [
  ...LOSS_DETAILS,
  ...(['params', 'initialize', 'train', 'freeze', 'batchNorm', 'dropout', 'straightThrough'] as const),
  ...(['checkpointActivations', 'checkpointSegments'] as const),
  ...OPTIMIZER_FLAGS,
  ...(['group', 'decayBiasNorm', 'schedule', 'clipGradNorm', 'clipGradValue'] as const),
  ...(['accumulate', 'ema', 'onNonfinite', 'telemetry', 'tile', 'compensate', 'scalars', 'config'] as const),
  'lazyRows',
];

/**
 * The options of injection, or undefined where nothing says what the model shall learn: neither a loss nor gradients,
 * nor (`isTask`) the model itself. Throws `bad-option` where other options are given without it.
 */
export function injectOptionsIfTask(args: Parsed, isTask = false): InjectOptions | undefined {
  if (isTask || hasLoss(args) || args.grad || args.replaceOptimizer) return injectOptions(args);
  const lost = INJECT_ONLY.find(name => args[name] !== undefined);
  if (lost)
    throw new AgdError(
      'bad-option',
      `--${kebab(lost)} is decided when a model is injected: give --loss too, or use agd-onnx inject.`,
    );
  return undefined;
}

/** Throws `bad-option` where there is no loss, or two. */
export function lossSpec(args: Parsed, output = args.output): LossSpec {
  const { loss, lossOutput } = args;
  if (loss && lossOutput) throw new AgdError('bad-option', 'Give --loss or --loss-output, not both.');
  if (lossOutput) {
    const lost = LOSS_DETAILS.find(name => name !== 'target' && args[name] !== undefined);
    if (lost)
      throw new AgdError(
        'bad-option',
        `--${kebab(lost)} is for --loss: what --loss-output names is computed already.`,
      );
    return { kind: 'output', output: lossOutput, target: args.target };
  }
  if (!loss)
    throw new AgdError(
      'bad-option',
      `Say what to minimize: --loss ${LOSSES.join(' | ')}, or --loss-output NAME.`,
    );
  const { target, labelSmoothing, ignoreIndex, classAxis } = args;
  const classes = {
    labelSmoothing,
    ignoreIndex,
    classAxis,
    classWeights: numbers('--class-weights', args.classWeights),
  };
  const given = Object.entries(classes).filter(([, value]) => value !== undefined);
  if (given.length && loss !== 'cross-entropy' && loss !== 'nll')
    throw new AgdError('bad-option', `--${kebab(given[0]![0])} is for losses of classes, not for ${loss}.`);
  return { kind: loss, output, target, ...Object.fromEntries(given) };
}

export function injectOptions(args: Parsed, output = args.output): InjectOptions {
  const { train, freeze, straightThrough, seed } = args;
  const lost = hasLoss(args) ? undefined : LOSS_DETAILS.find(name => args[name] !== undefined);
  if (lost)
    throw new AgdError(
      'bad-option',
      `--${kebab(lost)} says more of a loss, and there is none: give --loss too.`,
    );
  return {
    loss: hasLoss(args) ? lossSpec(args, output) : undefined,
    gradients: args.grad,
    replaceOptimizer: args.replaceOptimizer,
    ...stepConfig(args),
    train,
    freeze,
    batchNorm: args.batchNorm as 'train' | undefined,
    dropout: args.dropout as 'train' | undefined,
    straightThrough,
    checkpointActivations: args.checkpointSegments ?? args.checkpointActivations,
    seed,
  };
}

type Path = string | undefined;

/** Throws `bad-option` where an output would overwrite what it is made from, or another output. */
export function checkOutputs(outputs: readonly Path[], inputs: readonly Path[]): void {
  const taken = new Map(
    inputs.flatMap(path => (path === undefined ? [] : [[sameFile(path), 'what it is made from']])),
  );
  for (const path of outputs) {
    if (path === undefined) continue;
    const other = taken.get(sameFile(path));
    if (other) throw new AgdError('bad-option', `${path} would overwrite ${other}: choose another file.`);
    taken.set(sameFile(path), 'another output');
  }
}

/** Two paths of one file, through links too, have one name. */
function sameFile(path: string): string {
  try {
    return realpathSync(path);
  } catch {
    return resolve(path);
  }
}

/** Makes a folder to write to. Throws `io`. */
export async function makeFolder(path: string): Promise<void> {
  try {
    await mkdir(path, { recursive: true });
  } catch (error) {
    throw new AgdError('io', `Cannot make the folder ${path}: ${(error as Error).message}.`);
  }
}

/** Writes texts by their names into a folder, and says so. Throws `io`. */
export async function writeTexts(folder: string, texts: Record<string, string>): Promise<void> {
  const { writeFileAtomic } = await import('../src/index.js');
  const paths = Object.keys(texts).map(name => join(folder, name));
  for (const [i, text] of Object.values(texts).entries())
    await writeFileAtomic(paths[i]!, [Buffer.from(text)]);
  print(`wrote ${paths.join(', ')}`);
}

/** The original file's bytes go into the injected one, so that the trained weights can go back into it. */
export async function withOriginal(options: InjectOptions, model: string): Promise<InjectOptions> {
  return { ...options, original: await readFile(model).catch(() => undefined) };
}
