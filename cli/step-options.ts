/** Flags for what a training step does: the optimizer's, and what is done besides. */
import type { Argv } from 'yargs';
import { AgdError, parseSchedule, SCHEDULES } from '../src/constants.js';
import type { AnyOptions, OptimizerSpec, ParameterGroup, StepOptions } from '../src/index.js';
import { optimizerOptions, optimizerSpec, type ParsedOptimizer } from './optimizer-options.js';
import { readConfig, type StepConfig } from './step-config.js';

const STEP = 'Step:';

export const stepOptions = <T>(args: Argv<T>) => sharedStepOptions(optimizerOptions(args));

/** Without those of the optimizer. */
export const sharedStepOptions = <T>(args: Argv<T>) =>
  args.options({
    group: {
      type: 'string',
      array: true,
      describe:
        "Other options for some parameters: '*.bias,*norm*: weight_decay=0'; the last that fits counts",
      group: STEP,
    },
    'decay-bias-norm': {
      type: 'boolean',
      describe: 'Weight decay on biases and norms too; off with --no-decay-bias-norm',
      group: STEP,
    },
    schedule: {
      type: 'string',
      describe: `Factor on lr by update, as cosine:total=1000,warmup=100; or ${SCHEDULES.filter(s => s !== 'cosine').join(', ')}`,
      group: STEP,
    },
    'clip-grad-norm': { type: 'number', describe: 'Bound of the norm of all gradients', group: STEP },
    'clip-grad-value': { type: 'number', describe: "Bound of the gradients' elements", group: STEP },
    accumulate: { type: 'number', describe: 'Batches whose mean gradient makes one update [1]', group: STEP },
    ema: { type: 'number', describe: 'Decay of a moving average of the weights, as 0.999', group: STEP },
    'lazy-rows': {
      type: 'string',
      array: true,
      describe: "Lookup tables of which a step changes only the rows that it looks up, as '*'",
      group: STEP,
    },
    'on-nonfinite': {
      choices: ['stop', 'skip'],
      describe: 'At gradients that are not finite: stop, or leave out the batch [stop]',
      group: STEP,
    },
    compensate: {
      type: 'boolean',
      describe: 'Keep what rounding leaves of each step for the next [for 16 bits alone]',
      group: STEP,
    },
    telemetry: {
      type: 'number',
      describe: 'Show what every so many updates did to each parameter: norms, the share of SGD',
      group: STEP,
    },
    tile: {
      type: 'boolean',
      describe:
        "Update large tensors in tiles, for a processor's cache; off with --no-tile [on, off on GPUs]",
      group: STEP,
    },
    scalars: {
      choices: ['float64', 'float32'],
      describe: 'Type of the scalars of a step; float32 for runtimes without float64 [float64]',
      group: STEP,
    },
    config: {
      type: 'string',
      describe: 'JSON file of these and optimizer options; flags go first',
      group: STEP,
    },
  } as const);

export type ParsedStep = {
  group?: string[];
  decayBiasNorm?: boolean;
  schedule?: string;
  clipGradNorm?: number;
  clipGradValue?: number;
  accumulate?: number;
  ema?: number;
  lazyRows?: string[];
  onNonfinite?: string;
  compensate?: boolean;
  telemetry?: number;
  tile?: boolean;
  scalars?: string;
  config?: string;
};

/** The file of --config, if any, with what the flags say instead. */
export function stepConfig(args: ParsedStep & ParsedOptimizer): StepConfig {
  const file = args.config === undefined ? {} : readConfig(args.config);
  const { decayBiasNorm, clipGradNorm, clipGradValue, accumulate, ema, compensate, lazyRows } = args;
  const flags: StepConfig = {
    noDecayBiasNorm: decayBiasNorm === undefined ? undefined : !decayBiasNorm,
    schedule: args.schedule === undefined ? undefined : parseSchedule(args.schedule),
    clipGradNorm,
    clipGradValue,
    accumulate,
    ema,
    compensate,
    lazyRows,
    onNonfinite: args.onNonfinite as StepOptions['onNonfinite'],
    telemetry: args.telemetry,
    tile: args.tile,
    scalars: args.scalars as StepOptions['scalars'],
  };
  return {
    ...file,
    ...defined(flags),
    optimizer: { ...file.optimizer, ...optimizerSpec(args) } as OptimizerSpec,
    groups: [...(file.groups ?? []), ...(args.group ?? []).map(parseGroup)],
  };
}

/** Without what is undefined. */
export function defined<T extends object>(options: T): Partial<T> {
  return Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined)) as Partial<T>;
}

/** `GLOB,GLOB: name=value, name=value`, with PyTorch's or this project's names of the options. */
function parseGroup(text: string): ParameterGroup<AnyOptions> {
  const [, globs, list] = /^(.*?):\s*(\w[\w-]*\s*=.*)$/s.exec(text) ?? [];
  if (!globs?.trim() || list === undefined)
    throw new AgdError('bad-option', `--group takes GLOBS: name=value, ..., not '${text}'.`);
  // Commas in {a,b} belong to a glob, those in betas=0.9,0.99 to a value.
  const match = globs.split(/,(?![^{]*\})/).map(glob => glob.trim());
  return { match, options: parseOptions(list) };
}

/** `name=value, name=value`, in which commas may belong to a value. */
export function parseOptions(list: string): AnyOptions {
  const items = list.split(/,(?=\s*[a-z][\w-]*\s*=)/i).map(item => {
    const at = item.indexOf('=');
    return [camel(item.slice(0, at).trim()), parseValue(item.slice(at + 1).trim())];
  });
  return Object.fromEntries(items);
}

const camel = (name: string) => name.replace(/[-_](.)/g, (_, letter: string) => letter.toUpperCase());

function parseValue(text: string): number | number[] | boolean | string {
  if (text === 'true' || text === 'false') return text === 'true';
  const values = text.split(',').map(Number);
  if (text === '' || !values.every(Number.isFinite)) return text;
  return values.length === 1 ? values[0]! : values;
}
