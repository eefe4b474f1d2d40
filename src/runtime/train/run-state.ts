/** What a state keeps of the run that it belongs to, beside the tensors: how it was asked for, and how it went. */
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { fromBase64, toBase64 } from '../../graph/bytes.js';
import { Model } from '../../graph/ir.js';
import type { InjectOptions } from '../../passes/options.js';
import type { BindOptions } from '../data/bind.js';
import type { Data } from '../data/data.js';
import type { Dataset } from '../data/dataset.js';
import type { BestEpoch, EpochEvent, LoopEvent, TelemetryRow } from './events.js';

/** Numbers of each step; NaN where they are not known. */
type StepNumbers = {
  losses: number[];
  /** Learning rates, the schedule included. */
  rates: number[];
  /** Norms of the gradients before clipping. */
  gradNorms: number[];
  /** When each step was done, in milliseconds since 1970. */
  times: number[];
};

/** The numbers of each step, the result of each epoch, and a table for each update that telemetry shows. */
export type RunHistory = StepNumbers & {
  /** How long the run took, validation included and pauses between resumed parts not. */
  seconds: number;
  epochs: EpochEvent[];
  telemetry: (readonly TelemetryRow[])[];
};

export type RunSettings = {
  /** Of the model file, in hex; undefined for what is no file. */
  sha256?: string;
  /** The options of injection as JSON. */
  inject?: string;
  /** Of the files of a teacher and of a loss, the same as of the model. */
  teacher?: string;
  lossModel?: string;
  /** The fingerprint of the training data. */
  data: number;
  batchSize: number;
  /** How many samples there are to train on, and how they are drawn; states of earlier versions lack both. */
  samples?: number;
  sampler?: 'shuffle' | 'poisson';
  seed: number;
  lr?: number;
  bind?: string;
  /** The augmentations as JSON. */
  augment?: string;
};

/** A version of the state that is kept in the folder of checkpoints, after `step` steps. */
export type KeptCheckpoint = {
  file: string;
  step: number;
  /** Of one that is kept for its monitored value: that value, and the epoch that it is of. */
  epoch?: number;
  value?: number;
  /** One of those that were saved at regular times. */
  isLast?: true;
};

/**
 * `checkpoints` are those that belong to this version of the state; see `Checkpoints`. `best` is the best of them by the
 * monitored value; states of earlier versions lack it.
 */
export type Run = {
  settings: RunSettings;
  history: RunHistory;
  checkpoints?: readonly KeptCheckpoint[];
  best?: BestEpoch;
};

/** Options of a job that leaves no state. */
export const NOTHING_SAVED = {
  state: undefined,
  saveEvery: undefined,
  keepBest: undefined,
  keepLast: undefined,
};

const KEY = 'agd.run';

/** The model with the run in its metadata; graph and tensors are shared. */
export async function withRun(
  model: Model,
  { settings, history, checkpoints = [], best }: Run,
): Promise<Model> {
  const { epochs, telemetry, seconds } = history;
  const numbers = STEP_NUMBERS.map(async name => [name, await packed(history[name])]);
  const text = JSON.stringify({
    ...{ settings, epochs, telemetry, seconds },
    ...(checkpoints.length ? { checkpoints, best } : {}),
    ...Object.fromEntries(await Promise.all(numbers)),
  });
  const metadata = new Map(model.metadata).set(KEY, text);
  return Object.assign(new Model(model.graph), model, { metadata });
}

/** The run that a state belongs to; undefined for a model that was only injected, and where it cannot be read. */
export async function readRun({ metadata }: Model): Promise<Run | undefined> {
  try {
    const kept = JSON.parse(metadata.get(KEY) ?? 'null');
    const { settings, epochs, telemetry, seconds = 0, checkpoints = [], best } = kept;
    const found = STEP_NUMBERS.map(async name => [name, await unpacked(kept[name])]);
    const numbers = Object.fromEntries(await Promise.all(found)) as StepNumbers;
    if (typeof seconds !== 'number') return undefined;
    if (!epochs.every(isEpoch) || !telemetry.every(isTable) || typeof settings.data !== 'number')
      return undefined;
    if (!checkpoints.every(isCheckpoint)) return undefined;
    const history = fitHistory({ ...numbers, seconds, epochs, telemetry }, numbers.losses.length);
    return { settings, history, checkpoints, best };
  } catch {
    return undefined;
  }
}

const STEP_NUMBERS = ['losses', 'rates', 'gradNorms', 'times'] as const;

type Packed = { bytes: 4 | 8; base64: string; deflated?: true };

/** Numbers as text, exactly: most losses are of single precision, and most learning rates are the same. */
async function packed(values: readonly number[]): Promise<Packed> {
  const { deflateSync } = await import('fflate');
  const isSingle = values.every(value => Object.is(Math.fround(value), value));
  const array = isSingle ? Float32Array.from(values) : Float64Array.from(values);
  const base64 = toBase64(deflateSync(new Uint8Array(array.buffer), { level: 1 }));
  return { bytes: isSingle ? 4 : 8, base64, deflated: true };
}

/** States of earlier versions have losses alone, which are not compressed. */
async function unpacked(given: Packed | undefined): Promise<number[]> {
  if (!given) return [];
  const { inflateSync } = await import('fflate');
  const stored = fromBase64(given.base64);
  const bytes = Uint8Array.from(given.deflated ? inflateSync(stored) : stored);
  return Array.from(given.bytes === 4 ? new Float32Array(bytes.buffer) : new Float64Array(bytes.buffer));
}

/** JSON has null for what is not finite. */
const isNumber = (x: unknown) => typeof x === 'number' || x === null;
const isEpoch = (x: EpochEvent) =>
  x.type === 'epoch' && Number.isSafeInteger(x.epoch) && isNumber(x.trainLoss) && isNumber(x.seconds);
/** Metadata may come from anywhere: a name must not lead out of the folder. */
const isCheckpoint = ({ file, step, value }: KeptCheckpoint) =>
  typeof file === 'string' &&
  /^step-\d+\.agd\.onnx$/.test(file) &&
  Number.isSafeInteger(step) &&
  (value === undefined || typeof value === 'number');
const isTable = (rows: readonly TelemetryRow[]) =>
  rows.every(row => typeof row.parameter === 'string' && Object.values(row.values).every(isNumber));

export const emptyHistory = (): RunHistory => ({
  ...{ losses: [], rates: [], gradNorms: [], times: [] },
  ...{ seconds: 0, epochs: [], telemetry: [] },
});

/** Lets a history end after `steps` steps; numbers that nobody saw are NaN. */
export function fitHistory(history: RunHistory, steps: number): RunHistory {
  for (const name of STEP_NUMBERS) {
    const values = history[name];
    values.length = Math.min(values.length, steps);
    while (values.length < steps) values.push(Number.NaN);
  }
  return history;
}

export function follow(history: RunHistory, event: LoopEvent): void {
  if (event.type === 'step') {
    history.losses.push(event.loss);
    history.rates.push(event.lr ?? Number.NaN);
    history.gradNorms.push(event.gradNorm ?? Number.NaN);
    history.times.push(event.time);
  }
  if (event.type === 'epoch') history.epochs.push(event);
  if (event.type === 'telemetry') history.telemetry.push(event.rows);
}

/** What tells one job from another. */
type Job = {
  /** Its file, if it has one. */
  model?: string;
  teacher?: string;
  lossModel?: string;
  inject?: InjectOptions;
  seed?: number;
  lr?: number;
  bind?: Omit<BindOptions, 'labels' | 'source'>;
  augment?: readonly unknown[];
};

/** How a job is asked for. */
export async function settingsOf(
  job: Job & { batchSize?: number },
  data: Data,
  train: Dataset,
): Promise<RunSettings> {
  const { seed = 0, lr, bind, augment } = job;
  const batchSize = train.batchSize(job);
  return {
    ...(await sourceOf(job)),
    data: await data.fingerprint(),
    ...{ samples: train.length, sampler: train.isPoisson ? 'poisson' : 'shuffle' },
    ...{ batchSize, seed, lr, bind: JSON.stringify(bind), augment: augment && JSON.stringify(augment) },
  };
}

/** What a training step is made of. */
export type RunSource = Pick<RunSettings, 'sha256' | 'inject' | 'teacher' | 'lossModel'>;

/** The model that a job trains, how it is injected, and the models that its loss reads. */
export async function sourceOf({ model, inject, teacher, lossModel }: Job): Promise<RunSource> {
  const beside = {
    ...(teacher === undefined ? {} : { teacher: await digestOf(teacher) }),
    ...(lossModel === undefined ? {} : { lossModel: await digestOf(lossModel) }),
  };
  return {
    sha256: await digestOf(inject?.original ?? model),
    inject: inject && optionsText(inject),
    ...beside,
  };
}

/** Of a file, read in pieces, as it may be as large as what trains; undefined where it cannot be read. */
async function digestOf(source?: Uint8Array | string): Promise<string | undefined> {
  if (source === undefined) return undefined;
  const hash = createHash('sha256');
  if (typeof source !== 'string') return hash.update(source).digest('hex');
  try {
    for await (const piece of createReadStream(source)) hash.update(piece);
    return hash.digest('hex');
  } catch {
    return undefined;
  }
}

/** Less what does not change the step, and the seed, which a resumed run tells apart by itself. */
function optionsText(given: InjectOptions): string {
  const { values, updates, original, checkpoint, dumpPasses, seed, ...options } = given;
  return JSON.stringify(Object.fromEntries(Object.entries(options).sort(([a], [b]) => (a < b ? -1 : 1))));
}

/**
 * The run that begins, or continues `before`, whose history ends after `steps` steps, where the state does. Tells which
 * settings differ from what they were; `ownLr` is the model's own learning rate.
 */
export function beginRun(
  before: Run | undefined,
  settings: RunSettings,
  steps: number,
  note: (text: string) => void,
  ownLr?: number,
): Run {
  if (!before) return { settings, history: fitHistory(emptyHistory(), steps) };
  const differences = steps ? changes(before.settings, settings, ownLr) : [];
  if (differences.length)
    note(`resumed with ${differences.join(', ')}: results differ from an uninterrupted run`);
  const { sha256, inject, teacher, lossModel } = before.settings;
  return {
    ...before,
    settings: { ...settings, sha256, inject, teacher, lossModel },
    history: fitHistory(before.history, steps),
  };
}

/** The settings in which a resumed run differs from what it was, as a user calls them. */
function changes(before: RunSettings, now: RunSettings, ownLr = Number.NaN): string[] {
  // A rate that is given may be that which the file has in float32.
  const isSameLr = Math.fround(before.lr ?? ownLr) === Math.fround(now.lr ?? ownLr);
  const numbers = (['batchSize', 'seed', 'lr'] as const).map(name => {
    const flag = name === 'batchSize' ? 'batch-size' : name;
    const [was, is] = [before[name], now[name]];
    return was === is || (name === 'lr' && isSameLr)
      ? undefined
      : `--${flag} ${is ?? "of the model's own"} (was ${was ?? "the model's own"})`;
  });
  const others = [
    // States that `fit` made in earlier versions have 0.
    before.data !== 0 && before.data !== now.data && 'other data',
    before.bind !== now.bind && 'other --map, --scale or --whole',
    before.augment !== now.augment && 'other --augment',
  ];
  return [...numbers, ...others].flatMap(text => text || []);
}
