/**
 * The registry of options: one entry defines everything about an option. Derived from it are the TypeScript types, the
 * flags of the command line with their help, configuration files with their JSON schema, checks and their errors, what
 * an injected file records, what `train` refuses for such a file, and docs/reference/options.md.
 */
import type * as v from 'valibot';
import { AgdError } from '../graph/errors.js';
import { checkOption, type OptionType, unknownName } from '../ops/core/option-type.js';
import { LOSS_NAMES, type LossKind } from '../ops/losses/index.js';
import type { LossOptions } from '../ops/losses/loss.js';
import { allOptimizerNames, type OptimizerSpec, optimizerNamed } from '../ops/optimizers/index.js';
import type { OptimizerOption } from '../ops/optimizers/optimizer.js';
import { ADAPTER_OPTIONS } from './options/adapters.js';
import { DATA_OPTIONS } from './options/data.js';
import { IMAGE_OPTIONS } from './options/images.js';
import { LIBRARY_OPTIONS } from './options/library.js';
import { LOSS_OPTIONS } from './options/loss.js';
import { MODEL_OPTIONS } from './options/model.js';
import type { Option } from './options/option.js';
import { PARAMETER_OPTIONS } from './options/parameters.js';
import { PRIVACY_OPTIONS } from './options/privacy.js';
import { QUANTIZATION_OPTIONS } from './options/quantization.js';
import { RUN_OPTIONS } from './options/run.js';
import { SHARPNESS_OPTIONS } from './options/sharpness.js';
import { UPDATE_OPTIONS } from './options/update.js';

export { type Device, placeOf } from './options/device.js';
export type { Fed, LeastBatch, StoredCheckpoint, StoredProperty } from './options/library.js';
export { type Command, GROUPS, type Option } from './options/option.js';
export type { DpSgd } from './options/privacy.js';
export type { Ball } from './options/sharpness.js';
export { type ParameterGroup, parseAssignments, parseNumbers, parseScale } from './options/text.js';

/** The loss: computed from an output and a target, or by the model itself, which may take a target. */
export type LossSpec =
  | (LossTerm & { plus?: readonly LossTerm[] })
  | { kind: 'output'; output: string; target?: string };

/** A loss between an output and a target; `weight` is its factor in a sum, 1 if not given. */
export type LossTerm = { kind: LossKind; output?: string; target?: string; weight?: number } & LossOptions;

/** Help shows them in this order within each group. */
export const OPTIONS = {
  ...LOSS_OPTIONS,
  ...PARAMETER_OPTIONS,
  ...ADAPTER_OPTIONS,
  ...UPDATE_OPTIONS,
  ...SHARPNESS_OPTIONS,
  ...PRIVACY_OPTIONS,
  ...MODEL_OPTIONS,
  ...QUANTIZATION_OPTIONS,
  ...DATA_OPTIONS,
  ...IMAGE_OPTIONS,
  ...RUN_OPTIONS,
  ...LIBRARY_OPTIONS,
} satisfies Record<string, Option>;

/** Options that name files: commands read them, as the library takes models and values. */
const FILES = ['teacher', 'lossModel', 'params', 'initialize', 'adapter', 'config', 'extend'] as const;
type File = (typeof FILES)[number];

export type OptionName = keyof typeof OPTIONS;
type ValueOf<K extends OptionName> = v.InferOutput<(typeof OPTIONS)[K]['type']>;
type Stages<K extends OptionName> = (typeof OPTIONS)[K]['stage'];

/** The options that the library takes under their own names. */
type Plain = { [K in OptionName]: (typeof OPTIONS)[K] extends { path: string } ? never : K }[OptionName];

/** The options of `inject`. All are optional, except a loss if the model has neither gradients nor a step. */
export type InjectOptions = {
  -readonly [K in Exclude<Plain, File> as Stages<K> extends 'run' ? never : K]?: ValueOf<K>;
} & { loss?: LossSpec; optimizer?: OptimizerSpec };

/** Options of a step other than those of the optimizer. */
export type StepOptions = Pick<
  InjectOptions,
  | ('schedule' | 'clipGradNorm' | 'clipGradValue' | 'accumulate' | 'ema' | 'onNonfinite')
  | ('lazyRows' | 'compensate' | 'telemetry' | 'tile' | 'scalars' | 'dpSgd')
>;
export type ScalarType = NonNullable<InjectOptions['scalars']>;
/** Which parameters train. */
export type SelectOptions = Pick<
  InjectOptions,
  'train' | 'freeze' | 'unfreezeLast' | 'frozen' | 'straightThrough'
>;

type Recorded = { [K in OptionName]: (typeof OPTIONS)[K] extends { recorded: true } ? K : never }[OptionName];

/** The options that an injected file's description records, as given. */
export type RecordedOptions = { -readonly [K in Recorded]?: ValueOf<K> };

/** The same options, with their types. */
export type FileOptions = { [K in File]?: ValueOf<K> };

export type { OptimizerSpec };

/** The options of a run on data that exist already, under the names of the library. */
export type RunOptions = {
  -readonly [K in Plain as Stages<K> extends 'inject' ? never : K]?: ValueOf<K>;
} & { bind?: { map?: ValueOf<'map'>; scale?: ValueOf<'scale'>; whole?: ValueOf<'whole'> } };

const entries = Object.entries<Option>(OPTIONS);
const isFile = (name: string) => (FILES as readonly string[]).includes(name);
const INJECT_OPTIONS = new Map(
  entries.flatMap(([name, o]) => (o.stage === 'run' || o.path || isFile(name) ? [] : [[name, o] as const])),
);
const NESTED = ['loss', 'optimizer'];

/** The options of `inject` other than loss and optimizer. */
export const INJECT_OPTION_NAMES: readonly string[] = [...INJECT_OPTIONS.keys()];

/** The types of the options that a description records. */
export const RECORDED = Object.fromEntries(
  entries.flatMap(([name, { recorded, type }]) => (recorded ? [[name, type]] : [])),
) as Record<Recorded, OptionType>;

export const recordedOptions = (options: InjectOptions): RecordedOptions =>
  Object.fromEntries(
    entries.flatMap(([name, { recorded }]) => (recorded ? [[name, options[name as Recorded]]] : [])),
  );

/** The subset of these options that `inject` takes. */
export const injectOptionsOf = (options: InjectOptions): InjectOptions =>
  Object.fromEntries(
    [...NESTED, ...INJECT_OPTIONS.keys()].flatMap(name => {
      const value = options[name as keyof InjectOptions];
      return value === undefined ? [] : [[name, value]];
    }),
  );

/**
 * The path of the first of these options that is fixed at injection and does not apply to a run of an injected model.
 */
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

/** The error if there is nothing to minimize. */
export const noLoss = () =>
  new AgdError(
    'bad-option',
    `Choose a loss with --loss (${LOSS_NAMES.join(', ')}), or name one that the model computes with --loss-output.`,
  );

/**
 * Throws `bad-option` for an option of `inject` that is unknown or out of its range. Optimizers check their own
 * options.
 */
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
    if (name === 'plus') {
      for (const term of value as readonly LossTerm[]) checkLoss(term);
      continue;
    }
    const type = known.get(name);
    if (!type || name === 'lossOutput') throw unknownName('option of a loss', name, [...known.keys()]);
    checkOption(name, type, value);
  }
}

/** The first of the options given that a model's own training step determines. */
export function decidedByOwnStep(options: InjectOptions): string | undefined {
  const isGiven = (value: unknown) => value !== undefined && !(Array.isArray(value) && !value.length);
  const own = Object.entries(options.optimizer ?? {}).find(([, value]) => isGiven(value))?.[0];
  const other = [...INJECT_OPTIONS].find(
    ([name, { ownStep }]) => !ownStep && isGiven(options[name as keyof InjectOptions]),
  );
  return own ?? other?.[0];
}

/** An option of one or several optimizers, with the default for each. */
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
