/**
 * The registry of options: one entry says all there is to say of an option. From it come the TypeScript types, the
 * flags of the command line with their help, configuration files with their JSON schema, the checks with their
 * errors, what an injected file records, what `train` refuses on such a file, and docs/reference/options.md.
 */
import * as v from 'valibot';
import { AgdError } from '../graph/errors.js';
import type { Graph, Value } from '../graph/ir.js';
import type { Tensor } from '../graph/tensor.js';
import {
  belowOne,
  checkOption,
  choice,
  count,
  countFromZero,
  flag,
  given,
  integer,
  numbers,
  type OptionType,
  positive,
  text,
  texts,
  unknownName,
} from '../ops/core/option-type.js';
import { LOSS_NAMES, type LossKind, type LossOptions } from '../ops/criterion.js';
import {
  type AnyOptions,
  allOptimizerNames,
  type OptimizerSpec,
  optimizerNamed,
} from '../ops/optimizers/index.js';
import type { OptimizerOption } from '../ops/optimizers/optimizer.js';
import { parseSchedule, SCHEDULES, type Schedule } from '../ops/schedules.js';

/** The fewest samples, along the batch axis of this name, that batch normalization can be trained on, and which it is. */
export type LeastBatch = { axis: string; samples: number; node: string };

/** The inputs that data feed, in their graph, the name of the one that takes the target, and how small a batch may be. */
export type Fed = { graph: Graph; inputs: readonly Value[]; target?: string; leastBatch?: LeastBatch };

/** Where the loss comes from: computed from an output and a target, or by the model itself, which may have a target. */
export type LossSpec =
  | ({ kind: LossKind; output?: string; target?: string } & LossOptions)
  | { kind: 'output'; output: string; target?: string };

/** Options of the parameters whose name matches one of the globs; those not named here stay as they are. */
export type ParameterGroup<O> = { match: string | readonly string[]; options: Partial<O> };

/** What a checkpoint of ONNX Runtime's training holds besides tensors. */
export type StoredCheckpoint = {
  trainable: string[];
  frozen: string[];
  properties: Record<string, StoredProperty>;
};
export type StoredProperty = [kind: 'int' | 'float' | 'string', value: string];

export type Command = 'inspect' | 'inject' | 'train' | 'compare' | 'export' | 'grad' | 'landscapes' | 'demo';

/** Execution providers by the name a user gives. */
export const DEVICES = ['cpu', 'cuda', 'webgpu'] as const;
export type Device = (typeof DEVICES)[number];

/** Groups of the help text, in its order. */
export const GROUPS = [
  'Data',
  'Output',
  'Run',
  'Loss',
  'What trains',
  'Optimizer',
  'Update',
  'Model',
] as const;

export type Option<S extends OptionType = OptionType> = {
  /** What it may be, with its range. */
  type: S;
  help: string;
  group: (typeof GROUPS)[number];
  /** The commands that have a flag for it; none for what only a program can give. */
  commands: readonly Command[];
  /** Whether it is decided when a model is injected, by each run, or may be given to both. */
  stage: 'inject' | 'run' | 'both';
  /** What holds where it is not given, as help shows it. */
  shown?: string;
  /** Name of the flag, where that is not the option's own in kebab-case. */
  flag?: string;
  alias?: string;
  /** Reads the text of a flag, if not as its type says. */
  parse?: (text: string) => unknown;
  /** The same for a flag that may be repeated: it reads all texts. */
  parseAll?: (texts: readonly string[]) => unknown;
  /** Where the library keeps it, if not under its own name: 'loss.output'. */
  path?: string;
  /** Left out of --help, shown by --help-all. */
  expert?: true;
  /** The injected file's description has it under its own name. */
  recorded?: true;
  /** Also has an effect on a model that brings its own training step. */
  ownStep?: true;
  required?: true;
  /** Names of options that it cannot be combined with. */
  conflicts?: readonly string[];
};

const option = <S extends OptionType, const O extends Omit<Option, 'type'>>(type: S, rest: O) => ({
  type,
  ...rest,
});

const RUNS = ['train', 'compare'] as const;
const INJECTS = ['inject', 'train', 'compare'] as const;
const LEARNS = ['inject', 'train', 'compare', 'grad'] as const;
const STEP = { group: 'Update', commands: INJECTS, stage: 'inject' } as const;
const LOSS = { group: 'Loss', commands: LEARNS, stage: 'inject' } as const;

const schedule = v.pipe(
  v.custom<Schedule>(
    x =>
      isObject(x) &&
      Object.entries(x).every(([name, value]) => typeof value === (name === 'kind' ? 'string' : 'number')),
    'a schedule',
  ),
  v.description('a schedule'),
);
const groups = v.pipe(
  v.array(
    v.strictObject(
      {
        match: v.union([text, texts], 'a glob or a list of globs'),
        options: v.record(v.string(), v.unknown(), 'an object of optimizer options'),
      },
      'an object of match and options',
    ),
    'a list of groups',
  ),
  v.readonly(),
  v.transform(list => list as readonly ParameterGroup<AnyOptions>[]),
  v.description('a list of groups: globs to match, and options'),
);

export const OPTIONS = {
  loss: option(choice(LOSS_NAMES), {
    ...LOSS,
    help: 'Loss between an output and the target',
    path: 'loss.kind',
  }),
  output: option(text, {
    ...LOSS,
    commands: [...LEARNS, 'inspect'],
    help: 'Output or inner value that the loss reads',
    shown: 'the only one',
    path: 'loss.output',
  }),
  target: option(text, { ...LOSS, help: 'Name of the target input', shown: 'target', path: 'loss.target' }),
  lossOutput: option(text, {
    ...LOSS,
    help: 'Output that already is the loss',
    path: 'loss.lossOutput',
    conflicts: ['loss', 'output', 'labelSmoothing', 'ignoreIndex', 'classWeights', 'classAxis'],
  }),
  labelSmoothing: option(belowOne, {
    ...LOSS,
    help: 'Label smoothing of cross-entropy',
    path: 'loss.labelSmoothing',
    expert: true,
  }),
  ignoreIndex: option(integer, {
    ...LOSS,
    help: 'Class label to leave out of the loss',
    path: 'loss.ignoreIndex',
  }),
  classWeights: option(numbers, {
    ...LOSS,
    help: 'Weight of each class, as 1,0.5,2',
    parse: parseNumbers,
    path: 'loss.classWeights',
    expert: true,
  }),
  classAxis: option(integer, {
    ...LOSS,
    help: 'Axis of the classes',
    shown: 'last; 1 for images',
    path: 'loss.classAxis',
    expert: true,
  }),

  train: option(texts, {
    ...{ group: 'What trains', commands: [...LEARNS, 'inspect'], stage: 'inject' },
    help: 'Train the parameters that match this glob',
  }),
  freeze: option(texts, {
    ...{ group: 'What trains', commands: [...LEARNS, 'inspect'], stage: 'inject' },
    help: 'Freeze the parameters that match this glob',
  }),
  params: option(text, {
    ...{ group: 'What trains', commands: ['inject', 'train'], stage: 'inject', ownStep: true },
    help: 'Take parameters from this file: .safetensors, .npz, .onnx or an ONNX Runtime checkpoint',
  }),
  initialize: option(flag, {
    ...{ group: 'What trains', commands: ['inject', 'train'], stage: 'inject', ownStep: true, expert: true },
    help: "Run the initialization in the model's training_info",
    conflicts: ['params'],
  }),
  /**
   * `W1=dW1` names the gradient of one parameter, a pattern such as `{param}_grad` or `model.{param}=d_{param}` those
   * of all whose gradient is there.
   */
  gradients: option(texts, {
    ...{ group: 'What trains', commands: ['inject', 'train'], stage: 'inject', ownStep: true, expert: true },
    help: "Gradients the graph already computes, as W1=dW1 or '{param}_grad'",
    flag: 'grad',
  }),
  replaceOptimizer: option(flag, {
    ...{ group: 'What trains', commands: ['inject', 'train'], stage: 'inject', ownStep: true, expert: true },
    help: "Replace the optimizer of the model's own training step",
  }),

  optimizer: option(choice(allOptimizerNames), {
    ...{ group: 'Optimizer', commands: ['inject', 'train'], stage: 'inject' },
    help: 'Optimizer',
    shown: 'agd',
    path: 'optimizer.name',
  }),

  /** Applied in order: where several groups match and set the same option, the last one counts. */
  groups: option(groups, {
    ...STEP,
    help: "Optimizer options of some parameters, as '*.bias,*norm*: weight_decay=0'; the last match counts",
    flag: 'group',
    parseAll: (list: readonly string[]) => list.map(parseGroup),
  }),
  decayBiasNorm: option(flag, {
    ...STEP,
    help: 'Apply weight decay to biases and normalization parameters',
    shown: 'on',
    recorded: true,
  }),
  schedule: option(schedule, {
    ...STEP,
    help: `Learning-rate schedule, as cosine:total=1000,warmup=100; one of ${SCHEDULES.join(', ')}`,
    parse: parseSchedule,
    recorded: true,
  }),
  clipGradNorm: option(positive, { ...STEP, help: 'Clip global gradient norm', recorded: true }),
  clipGradValue: option(positive, { ...STEP, help: 'Clip gradients elementwise', recorded: true }),
  accumulate: option(count, { ...STEP, help: 'Batches to average for one update', shown: '1' }),
  ema: option(belowOne, {
    ...STEP,
    help: 'Keep an exponential moving average of the weights with this decay',
    recorded: true,
  }),
  /**
   * Lookup tables (parameters that nothing but Gather along axis 0 reads, by indices that the batch alone decides) of
   * which a step changes only the rows that it looks up; of the others neither weights nor optimizer state change, by
   * weight decay or averaging either, as with PyTorch's SparseAdam.
   */
  lazyRows: option(texts, { ...STEP, help: 'Embeddings to update sparsely (glob)', expert: true }),
  /** With `skip`, the graph itself leaves everything as it was, and counts. */
  onNonfinite: option(choice(['stop', 'skip']), {
    ...STEP,
    help: 'On NaN/Inf gradients stop, or skip the update',
    shown: 'stop',
  }),
  /**
   * Keeps what rounding leaves of each step and adds it to the next, in the states `<param>_carry`: 16-bit weights do
   * not move where a step is less than a thousandth of them.
   */
  compensate: option(flag, {
    ...STEP,
    help: 'Compensate rounding of the weights (Kahan summation)',
    shown: 'on for 16-bit weights',
    expert: true,
  }),
  telemetry: option(count, {
    ...STEP,
    help: 'Record norms, and the share of SGD steps, every N updates',
    expert: true,
  }),
  tile: option(flag, {
    ...STEP,
    help: 'Update large tensors in tiles that fit the processor cache',
    shown: 'on, off on GPUs',
    expert: true,
  }),
  scalars: option(choice(['float64', 'float32']), {
    ...STEP,
    help: 'Type of the scalars of a step (float32 for runtimes without float64)',
    shown: 'float64',
    expert: true,
  }),

  batchNorm: option(choice(['train', 'eval']), {
    ...{ group: 'Model', commands: LEARNS, stage: 'inject' },
    help: 'Use batch statistics and update the running ones, or use the running ones',
    shown: 'train',
    recorded: true,
  }),
  dropout: option(choice(['train', 'eval']), {
    ...{ group: 'Model', commands: LEARNS, stage: 'inject' },
    help: 'Dropout active, or off as in inference',
    shown: 'train',
    recorded: true,
  }),
  straightThrough: option(flag, {
    ...{ group: 'Model', commands: [...LEARNS, 'inspect'], stage: 'inject' },
    help: 'Straight-through gradients of rounding and quantization',
    recorded: true,
  }),
  /** The inputs may be fed batches of any size, where the file fixes it at that of the export. */
  freeBatch: option(texts, {
    ...{ group: 'Model', commands: ['inject'], stage: 'inject', recorded: true, expert: true },
    help: 'Inputs whose fixed batch size becomes free (train does so by itself)',
  }),
  checkpointActivations: option(v.union([flag, count], 'true, false or a whole number of at least 1'), {
    ...{ group: 'Model', commands: ['inject', 'train'], stage: 'inject' },
    help: 'Recompute activations in the backward pass: less memory, more time',
  }),
  checkpointSegments: option(count, {
    ...{ group: 'Model', commands: ['inject', 'train'], stage: 'inject', expert: true },
    help: 'Recompute activations in this many segments',
    shown: 'square root of the nodes',
    path: 'checkpointActivations',
  }),

  data: option(text, {
    ...{ group: 'Data', commands: RUNS, stage: 'run', required: true },
    help: 'Training data: .npz, .npy or .safetensors',
  }),
  validation: option(text, {
    ...{ group: 'Data', commands: RUNS, stage: 'run', flag: 'val' },
    help: 'Validation data, evaluated after each epoch',
  }),
  batchSize: option(count, {
    ...{ group: 'Data', commands: RUNS, stage: 'run' },
    help: 'Batch size',
    shown: '32',
  }),
  map: option(v.record(text, text, 'pairs INPUT=ARRAY'), {
    ...{ group: 'Data', commands: [...RUNS, 'grad'], stage: 'run', path: 'bind.map' },
    help: 'INPUT=ARRAY, where the names differ',
    parseAll: (list: readonly string[]) => Object.fromEntries(list.map(parsePair)),
  }),
  scale: option(v.union([positive, v.record(text, positive)], 'a factor, or pairs INPUT=FACTOR'), {
    ...{ group: 'Data', commands: RUNS, stage: 'run', path: 'bind.scale' },
    help: 'Factor for integer arrays, as 1/255 or INPUT=1/255',
    parseAll: parseScales,
  }),
  whole: option(texts, {
    ...{ group: 'Data', commands: RUNS, stage: 'run', path: 'bind.whole' },
    help: 'Input that is not split into samples: its whole array is fed at every step',
  }),
  epochs: option(count, {
    ...{ group: 'Run', commands: RUNS, stage: 'run' },
    help: 'Passes over the data; includes resumed epochs',
    shown: '1',
  }),
  seed: option(countFromZero, {
    ...{ group: 'Run', commands: [...LEARNS], stage: 'both', ownStep: true },
    help: 'Random seed: order of the samples, dropout, initial values',
    shown: '0',
  }),
  device: option(choice(DEVICES), {
    ...{ group: 'Run', commands: [...RUNS, 'grad'], stage: 'run' },
    help: 'Execution provider',
    shown: 'cpu',
  }),
  threads: option(count, {
    ...{ group: 'Run', commands: [...RUNS, 'grad'], stage: 'run' },
    help: 'Threads',
    shown: 'number of cores',
  }),
  extend: option(texts, {
    ...{
      group: 'Run',
      commands: [...LEARNS, 'inspect', 'export', 'landscapes'],
      stage: 'both',
      ownStep: true,
    },
    help: 'Module that defines gradients, optimizers or losses; may be repeated',
  }),
  config: option(text, {
    ...{ group: 'Run', commands: [...LEARNS], stage: 'both', ownStep: true },
    help: 'JSON, YAML, TypeScript or JavaScript file of options; flags take precedence',
  }),

  dumpPasses: option(text, {
    ...{
      group: 'Model',
      commands: ['inject', 'train', 'grad'],
      stage: 'inject',
      ownStep: true,
      expert: true,
    },
    help: 'Write the model after each pass that changes it, as NN-PASS.onnx, to this folder',
  }),

  frozen: option(texts, library('Names of parameters that stay as they are')),
  exports: option(texts, library('Outputs that the model to write computes')),
  values: option(
    given<ReadonlyMap<string, Tensor>>('a Map of tensors', x => x instanceof Map),
    { ...library('Values of inputs and initializers, by name'), ownStep: true },
  ),
  updates: option(
    given<(fed: Fed) => number>('a function', x => typeof x === 'function'),
    { ...library('Number of updates of the run: the total of a schedule without one'), ownStep: true },
  ),
  checkpoint: option(given<StoredCheckpoint>('a checkpoint', isObject), {
    ...library('Kept in the description'),
    ownStep: true,
  }),
  original: option(
    given<Uint8Array>('a Uint8Array', x => x instanceof Uint8Array),
    { ...library('The file that trained values go back into'), ownStep: true },
  ),
} satisfies Record<string, Option>;

function library(help: string) {
  return { group: 'Model', commands: [], stage: 'inject', help } as const;
}

export type OptionName = keyof typeof OPTIONS;
type ValueOf<K extends OptionName> = v.InferOutput<(typeof OPTIONS)[K]['type']>;
type Stages<K extends OptionName> = (typeof OPTIONS)[K]['stage'];

/** The options that the library keeps under their own names. */
type Plain = { [K in OptionName]: (typeof OPTIONS)[K] extends { path: string } ? never : K }[OptionName];

/** What `inject` is told. Every option may be left out, but for a loss where the model has neither gradients nor a step. */
export type InjectOptions = {
  -readonly [K in Plain as Stages<K> extends 'run'
    ? never
    : K extends 'params' | 'initialize' | 'config' | 'extend'
      ? never
      : K]?: ValueOf<K>;
} & { loss?: LossSpec; optimizer?: OptimizerSpec };

/** What a step does besides the optimizer's own formulas. */
export type StepOptions = Pick<
  InjectOptions,
  | ('schedule' | 'clipGradNorm' | 'clipGradValue' | 'accumulate' | 'ema' | 'onNonfinite')
  | ('lazyRows' | 'compensate' | 'telemetry' | 'tile' | 'scalars')
>;
export type ScalarType = NonNullable<InjectOptions['scalars']>;
/** Which parameters train. */
export type SelectOptions = Pick<InjectOptions, 'train' | 'freeze' | 'frozen' | 'straightThrough'>;

type Recorded = { [K in OptionName]: (typeof OPTIONS)[K] extends { recorded: true } ? K : never }[OptionName];

/** The options that an injected file's description holds, as they were given. */
export type RecordedOptions = { -readonly [K in Recorded]?: ValueOf<K> };

/** Options that commands read before they call the library, which takes models and values, not files. */
export type FileOptions = { [K in 'params' | 'initialize' | 'config' | 'extend']?: ValueOf<K> };

export type { OptimizerSpec };

/** The options of a run on data that exist already, under the names of the library. */
export type RunOptions = {
  -readonly [K in Plain as Stages<K> extends 'inject' ? never : K]?: ValueOf<K>;
} & { bind?: { map?: ValueOf<'map'>; scale?: ValueOf<'scale'>; whole?: ValueOf<'whole'> } };

const entries = Object.entries<Option>(OPTIONS);
const FILES = new Set(['params', 'initialize', 'config', 'extend']);
const INJECT_OPTIONS = new Map(
  entries.flatMap(([name, o]) =>
    o.stage === 'run' || o.path || FILES.has(name) ? [] : [[name, o] as const],
  ),
);
const NESTED = ['loss', 'optimizer'];

/** The types of what a description records. */
export const RECORDED = Object.fromEntries(
  entries.flatMap(([name, { recorded, type }]) => (recorded ? [[name, type]] : [])),
) as Record<Recorded, OptionType>;

export const recordedOptions = (options: InjectOptions): RecordedOptions =>
  Object.fromEntries(
    entries.flatMap(([name, { recorded }]) => (recorded ? [[name, options[name as Recorded]]] : [])),
  );

/** The part of these options that `inject` takes. */
export const injectOptionsOf = (options: InjectOptions): InjectOptions =>
  Object.fromEntries(
    [...NESTED, ...INJECT_OPTIONS.keys()].flatMap(name => {
      const value = options[name as keyof InjectOptions];
      return value === undefined ? [] : [[name, value]];
    }),
  );

/** The first of these options, by its path, that is decided when a model is injected and does not apply to a run of one. */
export function decidedByInjection(options: Readonly<Record<string, unknown>>): string | undefined {
  const decided = new Set(
    entries.flatMap(([name, { stage, path }]) => (stage === 'inject' ? [path ?? name] : [])),
  );
  for (const [name, value] of Object.entries(options)) {
    if (value === undefined) continue;
    const parts = NESTED.includes(name)
      ? Object.keys(value as object).map(part => `${name}.${part}`)
      : [name];
    const found = parts.find(part => decided.has(part) || (name === 'optimizer' && part !== 'optimizer.lr'));
    if (found) return found;
  }
  return undefined;
}

/** The error where nothing says what to minimize. */
export const noLoss = () =>
  new AgdError(
    'bad-option',
    `Choose a loss with --loss (${LOSS_NAMES.join(', ')}), or name one that the model computes with --loss-output.`,
  );

/** Throws `bad-option` for an option of `inject` that is unknown or out of its range. Those of the optimizer it checks itself. */
export function checkInjectOptions(options: InjectOptions): void {
  for (const [name, value] of Object.entries(options)) {
    if (value === undefined || name === 'optimizer') continue;
    if (name === 'loss') checkLoss(options.loss!);
    else {
      const found = INJECT_OPTIONS.get(name);
      if (!found) throw unknownName('option', name, [...NESTED, ...INJECT_OPTIONS.keys()]);
      checkOption(name, found.type, value);
    }
  }
}

function checkLoss(loss: LossSpec): void {
  const known = new Map(
    entries.flatMap(([, o]) => (o.path?.startsWith('loss.') ? [[o.path.slice(5), o.type] as const] : [])),
  );
  for (const [name, value] of Object.entries(loss)) {
    if (value === undefined || (name === 'kind' && value === 'output')) continue;
    const type = known.get(name);
    if (!type || name === 'lossOutput') throw unknownName('option of a loss', name, [...known.keys()]);
    checkOption(name, type, value);
  }
}

/** The first option given that a model with its own training step has decided itself. */
export function decidedByOwnStep(options: InjectOptions): string | undefined {
  const isGiven = (value: unknown) => value !== undefined && !(Array.isArray(value) && !value.length);
  const own = Object.entries(options.optimizer ?? {}).find(([, value]) => isGiven(value))?.[0];
  const other = [...INJECT_OPTIONS].find(
    ([name, { ownStep }]) => !ownStep && isGiven(options[name as keyof InjectOptions]),
  );
  return own ?? other?.[0];
}

/** An option of one or several optimizers, with the default that each has. */
export type OptimizerFlag = OptimizerOption & {
  name: string;
  owners: { optimizer: string; value: unknown }[];
};

/** The options of all optimizers, each once. */
export function optimizerFlags(): OptimizerFlag[] {
  const found = new Map<string, OptimizerFlag>();
  for (const optimizer of allOptimizerNames)
    for (const [name, entry] of Object.entries<OptimizerOption>(optimizerNamed(optimizer).options)) {
      const known = found.get(name) ?? { ...entry, name, owners: [] };
      known.owners.push({ optimizer, value: entry.default });
      found.set(name, known);
    }
  return [...found.values()];
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** `GLOB,GLOB: name=value, name=value`, with PyTorch's or this project's names of the options. */
function parseGroup(text: string): ParameterGroup<AnyOptions> {
  const [, globs, list] = /^(.*?):\s*(\w[\w-]*\s*=.*)$/s.exec(text) ?? [];
  if (!globs?.trim() || list === undefined)
    throw new AgdError('bad-option', `expected GLOBS: name=value, ..., not '${text}'.`);
  // Commas in {a,b} belong to a glob, those in betas=0.9,0.99 to a value.
  const match = globs.split(/,(?![^{]*\})/).map(glob => glob.trim());
  return { match, options: parseAssignments(list) };
}

/** `name=value, name=value`, in which commas may belong to a value. */
export function parseAssignments(list: string): AnyOptions {
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

/** Throws `bad-option` for what is not numbers. */
export function parseNumbers(text: string, flag = ''): number[] {
  const values = text.split(',').map(Number);
  if (text.trim() === '' || !values.every(Number.isFinite))
    throw new AgdError(
      'bad-option',
      `${flag && `${flag}: `}expected comma-separated numbers, not '${text}'.`,
    );
  return values;
}

function parsePair(text: string): [string, string] {
  const at = text.indexOf('=');
  if (at < 1 || at === text.length - 1)
    throw new AgdError('bad-option', `expected INPUT=VALUE, not '${text}'.`);
  return [text.slice(0, at), text.slice(at + 1)];
}

function parseScales(list: readonly string[]): number | Record<string, number> {
  if (list.length === 1 && !list[0]!.includes('=')) return parseScale(list[0]!);
  return Object.fromEntries(list.map(parsePair).map(([input, factor]) => [input, parseScale(factor)]));
}

/** A factor as users write it: a number or a quotient of two, `0.5` or `1/255`. Throws `bad-option`. */
export function parseScale(text: string): number {
  const [numerator, denominator = '1', ...rest] = text.split('/');
  const scale = Number(numerator) / Number(denominator);
  if (rest.length > 0 || !Number.isFinite(scale) || scale === 0)
    throw new AgdError(
      'bad-option',
      `expected a number other than 0 or a quotient such as 1/255, not '${text}'.`,
    );
  return scale;
}
