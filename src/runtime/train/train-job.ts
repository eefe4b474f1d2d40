import { existsSync } from 'node:fs';
import { mkdtemp, realpath, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { AgdError } from '../../graph/errors.js';
import { checkWritable } from '../../graph/files.js';
import type { Model } from '../../graph/ir.js';
import { openModel } from '../../graph/open-model.js';
import { decodeModel, encodeModel } from '../../graph/proto/codec.js';
import { checkState, saveState as saveSnapshot } from '../../graph/state-file.js';
import { isInjected, readDescription } from '../../passes/file/step-metadata.js';
import type { InjectOptions } from '../../passes/options.js';
import { readRecipe } from '../../passes/recipe/read-recipe.js';
import { withRecipe } from '../../passes/recipe/recipe.js';
import { demandAgreement, hashJson } from '../collective/agreement.js';
import { broadcastBytes, type Collective, onFirstRank } from '../collective/collective.js';
import { localCollectives } from '../collective/local.js';
import { openCollective, TIMEOUT } from '../collective/mpi.js';
import { describeRanks } from '../collective/ranks.js';
import { watched } from '../collective/watched.js';
import type { BindOptions } from '../data/bind.js';
import { type DataOptions, dataOptionsOf, OpenedData } from '../data/data.js';
import { openData } from '../data/open.js';
import { loadRecipe, saveRecipe } from '../data/recipe/recipe-file.js';
import { readSafetensors, writeSafetensors } from '../data/safetensors.js';
import { withDevice } from '../devices/choose.js';
import { checkExport, exportFile, neededRecipe } from '../export.js';
import { loadExtensions } from '../extensions.js';
import type { Beginning } from '../formats/artifacts.js';
import { checkMetrics, metricNamed } from '../metrics/index.js';
import { freeMemory, type SessionOptions } from '../session.js';
import { Checkpoints, checkpointFolder } from './checkpoints.js';
import { crossValidate } from './cross-validate.js';
import { dryRun } from './dry-run.js';
import type { TrainEvent } from './events.js';
import { findRate } from './find-lr.js';
import type { TrainerOptions } from './load-step.js';
import { directionOf, type MonitorOptions } from './monitor.js';
import { planTogether } from './plan-together.js';
import {
  bind,
  bindingOf,
  bindTraining,
  dataProgress,
  type Emit,
  openHeld,
  trainableFile,
  withMixedTargets,
  withSchedule,
  worstOf,
} from './prepare.js';
import { accountingOf, checkBudget, checkResumed, type PrivacyOptions, seedOf } from './privacy.js';
import {
  beginRun,
  fitHistory,
  NOTHING_SAVED,
  type Run,
  type RunSource,
  readRun,
  settingsOf,
  sourceOf,
  withRun,
} from './run-state.js';
import { Trainer } from './trainer.js';
import { parseInterval, trainRun } from './training-run.js';

/** A training run from files to files. */
export type TrainJob = SessionOptions &
  Beginning &
  MonitorOptions & {
    /** An injected model, or a plain one together with `inject`. */
    model: string;
    /** Modules that define the gradients, optimizers and losses of extensions, loaded in the thread that trains. */
    extend?: readonly string[];
    inject?: InjectOptions;
    /** Files, or globs, which are read one after the other. */
    data: string | readonly string[];
    validation?: string | readonly string[];
    /** Where the trained model goes: the original model with its new weights. Not written if not given. */
    output?: string;
    /** Cross-validation with so many folds, each of which is held out in a run of its own. */
    folds?: number;
    /** The folder for the model of each fold. */
    outDir?: string;
    /** Where the training step with its state goes, after every epoch and when stopped: a run can go on from it. */
    state?: string;
    /** A .safetensors file of parameters and optimizer state in PyTorch's terms, from which the run goes on. */
    resumePytorch?: string;
    /** When to save the state: `500steps`, `10min`, or `1epoch`, which is the default. */
    saveEvery?: string;
    /** How many of the best epochs, and of the last versions saved, to keep in `STATE.checkpoints/`. */
    keepBest?: number;
    keepLast?: number;
    /** Which weights go to `output`: those of the best epoch by validation, which is the default, or the last ones. */
    export?: 'best' | 'last';
    /** Does a few steps and reports what the run would take, in an event; writes nothing. */
    dryRun?: boolean;
    /** Tries learning rates and reports the losses, in an event, without a schedule; writes nothing. */
    findLr?: boolean;
    /** Writes the moving average of the weights to `output`, not the weights. */
    exportEma?: boolean;
    /** A recipe of columns that was fitted before: JSON, or a model that has one. */
    recipe?: string;
    /** Where the recipe of the columns is written, too, as JSON. */
    recipeOut?: string;
    /** `output` takes raw columns: what the recipe does is in its graph. */
    bakePreprocessing?: boolean;
    epochs: number;
    /**
     * The most memory that the process that trains may take, in bytes: `trainInWorker` chooses how batches are computed.
     */
    memory?: number;
    /** That limit where it is chosen already: the number of steps of a run follows from it. */
    memoryLimit?: number;
    batchSize?: number;
    seed?: number;
    lr?: number;
    /** Names of metrics for validation; what is usual for the loss and the output if not given. */
    metrics?: readonly string[];
    /** Also evaluate, after every epoch, samples of the training data: so many, or at most 10,000. */
    trainMetrics?: boolean | number;
    /** How many of the validation samples with the largest loss the last event tells; none if not given. */
    worstSamples?: number;
    bind?: Omit<BindOptions, 'labels' | 'source'>;
    /** Trains together with the other processes that `mpirun` or `srun` started: see `openCollective`. */
    distributed?: boolean;
    mpiLibrary?: string;
    /** Trains as the one rank of a run in this process, to measure what a rank takes. */
    isOnlyRank?: boolean;
    /** Seconds that a rank waits for the others before it ends the run; 600 if not given. */
    timeout?: number;
  } & PrivacyOptions &
  Pick<
    TrainerOptions,
    'collective' | 'compress' | 'syncEvery' | 'outerLr' | 'outerMomentum' | 'shardOptimizer'
  > &
  Omit<DataOptions, 'recipe' | 'progress'>;

/**
 * Runs a job and reports what happens. When `signal` asks to stop, the loss is no longer finite, or a sample cannot be read,
 * the state of the last good step is written before returning or throwing: to `state`, or beside `output`.
 */
export async function runTrainJob(
  job: TrainJob,
  report: (event: TrainEvent) => void,
  signal: { readonly aborted: boolean } = { aborted: false },
): Promise<void> {
  const note = (text: string) => report({ type: 'note', time: Date.now(), text, level: 'warning' });
  if (job.distributed && !job.collective) {
    const { timeout = TIMEOUT, mpiLibrary: library, memory } = job;
    const before = process.memoryUsage().rss;
    const collective = watched(await openCollective({ library, timeout }), { timeout, warn: note });
    const ranks = await describeRanks(collective);
    note(ranks.text);
    const carrier = Math.max(0, process.memoryUsage().rss - before);
    const own = { threads: ranks.threads, ...given(job) };
    const { measured } = await import('./worker.js');
    const planned =
      memory === undefined
        ? own
        : await planTogether({ ...own, memory }, collective, { measure: measured, carrier, note });
    await runTrainJob({ ...planned, collective }, report, signal);
    // Not after a failure: the other ranks would not come.
    return collective.close();
  }
  if (job.isOnlyRank) {
    const [collective] = localCollectives(1);
    return runTrainJob({ ...job, isOnlyRank: undefined, collective }, report, signal);
  }
  const placed = await withDevice(job.collective ? ofRank(job, job.collective) : job, note);
  return job.folds === undefined
    ? runOnce(placed, report, signal)
    : crossValidate(placed, runOnce, report, signal);
}

/** The job without what is undefined. */
const given = (job: TrainJob): TrainJob =>
  Object.fromEntries(Object.entries(job).filter(([, value]) => value !== undefined)) as TrainJob;

/** What a rank does of a distributed job: the first one writes the files. Throws `bad-option` for what is not distributed. */
function ofRank(job: TrainJob, { rank }: Collective): TrainJob {
  if (job.dryRun && job.distributed)
    throw new AgdError('bad-option', '--dry-run cannot be combined with --distributed.');
  const { inject } = job;
  const all = { ...job, inject: inject && { ...inject, lossDivisor: true } };
  if (rank === 0) return all;
  return {
    ...{
      ...all,
      output: undefined,
      outDir: undefined,
      recipeOut: undefined,
      exportEma: undefined,
      worstSamples: undefined,
    },
    ...{ bakePreprocessing: undefined, export: 'last', keepBest: undefined, keepLast: undefined },
  };
}

async function runOnce(
  job: TrainJob,
  report: (event: TrainEvent) => void,
  signal: { readonly aborted: boolean },
): Promise<void> {
  checkRetention(job);
  const opened = new OpenedData();
  try {
    // Rates are tried from the beginning, as they are.
    const { inject } = job;
    const asked = job.findLr
      ? { ...job, ...NOTHING_SAVED, inject: inject && { ...inject, schedule: undefined } }
      : job;
    await runOnData(asked, report, signal, opened);
  } finally {
    await opened.close();
  }
}

async function runOnData(
  given: TrainJob,
  report: (event: TrainEvent) => void,
  signal: { readonly aborted: boolean },
  opened: OpenedData,
): Promise<void> {
  const { inject, augment } = given;
  let job = inject ? { ...given, inject: withMixedTargets(inject, augment) } : given;
  checkBudget(job.inject, job);
  const emit: Emit = event => report({ time: Date.now(), ...event } as TrainEvent);
  await loadExtensions(job.extend);
  job.metrics?.forEach(metricNamed);
  if (!job.collective?.rank)
    for (const path of [job.output, stateFile(job)]) if (path !== undefined) await checkWritable(path);
  const recipe = job.recipe === undefined ? undefined : await loadRecipe(job.recipe);
  const progress = dataProgress(emit);
  const data = opened.add(await openData(job.data, { ...dataOptionsOf(job), recipe, progress }));
  const { collective } = job;
  const isWriter = !collective?.rank;
  // What one rank does while the others wait, which may take longer than these would wait for a hung one.
  const onWriter = <T>(work: () => Promise<T>) => (collective ? onFirstRank(collective, work) : work());
  if (collective) await demandAgreement(collective, await agreed(job));
  const resumed = collective ? await sharedState(job, collective) : await resumable(job);
  if (resumed) emit({ type: 'note', text: `resumes the run in ${job.state}`, level: 'warning' });
  if (resumed) data.use(await readRecipe(resumed));
  const model = resumed ?? (await trainableFile(job, data, emit));
  if (job.exportEma && readDescription(model).ema === undefined)
    throw new AgdError(
      'bad-option',
      'The model keeps no average of its weights: inject it with --ema DECAY.',
    );
  job = { ...job, seed: seedOf(readDescription(model), job.seed, await readRun(model)) };
  let trainer = await Trainer.create(model, job);
  try {
    if (job.resumePytorch !== undefined && !resumed) await resume(trainer, job.resumePytorch, emit);
    const { target } = trainer.description.loss;
    const train = await bindTraining(job, data, trainer);
    for (const note of train.reportOn(job)) emit({ type: 'note', ...note });
    const privacy = await accountingOf(trainer.description, train, job);
    for (const text of privacy?.notes ?? []) emit({ type: 'note', text, level: 'warning' });
    const { validation: path } = job;
    const validation =
      path === undefined
        ? await data.validation(trainer.inputs, bindingOf(job, target))
        : await bind(
            job,
            opened.add(await openHeld(path, { ...job, progress }, data)),
            trainer.inputs,
            target,
          );
    checkMetrics(trainer.description.loss, job.metrics, data.recipe);
    trainer = await withSchedule(trainer, job, train, emit, model);
    trainer.keepRecipe(data.recipe);
    if (job.bakePreprocessing) await checkExport(withRecipe(model, data.recipe), { bakePreprocessing: true });
    const recipeToSave = job.recipeOut === undefined ? undefined : neededRecipe(data.recipe);
    if (job.dryRun) {
      const files = { source: job.model, output: job.output, state: job.state };
      emit(await dryRun(trainer, { train, validation }, job, files));
      return;
    }
    if (job.findLr) {
      emit(await findRate(trainer, train, job));
      return;
    }
    if (recipeToSave) {
      await saveRecipe(job.recipeOut!, recipeToSave);
      emit({ type: 'saved', path: job.recipeOut!, what: 'recipe' });
    }
    const before = await readRun(model);
    const warn = (text: string) => emit({ type: 'note', text, level: 'warning' });
    if (before && job.state === undefined)
      warn(`${job.model} stays as it is: --state ${job.model} updates it`);
    const settings = await settingsOf(job, data, train);
    checkResumed(trainer.description, before, settings, trainer.batchCount);
    const run = beginRun(before, settings, trainer.batchCount, warn, trainer.lr);
    if (collective) await demandAgreement(collective, { data: String(settings.data) });
    const stepsBefore = trainer.batchCount;
    if (job.fold && stepsBefore)
      throw new AgdError(
        'bad-option',
        `${job.model} was trained for ${stepsBefore} steps already, on samples of every fold: cross-validate the original model.`,
      );
    const metric = job.monitor ?? 'loss';
    const keepsBest = validation !== undefined && job.export !== 'last';
    const checkpoints = new Checkpoints({
      best: job.keepBest ?? (keepsBest ? 1 : 0),
      last: job.keepLast ?? 0,
      better: directionOf(metric),
    });
    const lost = checkpoints.restore(run.checkpoints ?? [], resumed ? job.state! : job.model);
    if (lost.length)
      emit({
        type: 'note',
        text: `${lost.join(', ')}: not found, so these versions are no longer kept`,
        level: 'warning',
      });
    const save = async (to: string) => {
      fitHistory(run.history, trainer.batchCount);
      await trainer.fetchState();
      if (job.keepLast) {
        const model = await withRun(trainer.snapshot(), { ...run, checkpoints: [] });
        checkpoints.add(model, trainer.batchCount, { isLast: true });
      }
      for (const path of await checkpoints.write(to)) emit({ type: 'saved', path, what: 'checkpoint' });
      const best = checkpoints.bestEpoch(metric);
      await saveState(to, trainer, { ...run, checkpoints: checkpoints.list, best }, emit);
      await checkpoints.prune(to);
    };
    const { state } = job;
    try {
      const hooks = { emit, signal, save: state === undefined || !isWriter ? undefined : () => save(state) };
      const { reason } = await trainRun(trainer, { train, validation }, job, run, checkpoints, hooks);
      const kept = state ?? (signal.aborted ? stateFile(job) : undefined);
      const best = keepsBest ? checkpoints.bestEpoch(metric) : undefined;
      const chosen = await onWriter(async () => {
        if (kept !== undefined) await save(kept);
        return best && checkpoints.bestModel();
      });
      if (!chosen) await trainer.fetchState();
      // Only rank 0 may have the whole state.
      const judged = chosen ?? (isWriter ? trainer.snapshot() : undefined);
      const { output, exportEma, bakePreprocessing } = job;
      // The trained model and the session need not be in memory together.
      await trainer.release();
      freeMemory();
      const finish = async () => {
        if (judged && output !== undefined) {
          await exportFile(judged, output, { ema: exportEma, bakePreprocessing });
          emit({ type: 'saved', path: output, what: 'model', ...(best ? { best } : {}) });
        }
        const about = { ...job, paths: job.validation ?? job.data };
        return validation && judged && worstOf(judged, validation, job.worstSamples, about, emit);
      };
      const worst = await onWriter(finish);
      const versions = checkpoints.list;
      emit({
        type: 'end',
        stopped: signal.aborted,
        reason,
        steps: trainer.stepCount,
        skipped: trainer.skippedCount,
        ...(privacy ? { privacy: privacy.spent(trainer.batchCount) } : {}),
        ...(best ? { best } : {}),
        ...(state && versions.length
          ? { checkpoints: { folder: checkpointFolder(state), kept: versions } }
          : {}),
        ...(worst?.length ? { worst } : {}),
      });
    } catch (error) {
      if (!(error instanceof AgdError)) throw error;
      const hasLearned = error.code === 'bad-data' && trainer.batchCount > stepsBefore;
      // The same step is not finite for all ranks; another error may be that of one.
      const isBroken = error.code === 'non-finite';
      const isKept = trainer.isWhole && (isBroken || (!collective && hasLearned));
      const rescue = isKept ? stateFile(job) : undefined;
      if (isBroken) await trainer.settle();
      const keep = async () => {
        if (rescue !== undefined) await save(rescue);
      };
      // The launcher ends all ranks as soon as one fails.
      if (isBroken) await onWriter(keep);
      else await keep();
      throw error.code === 'io' && !job.fold ? await rescued(trainer, job, run, error) : error;
    }
  } finally {
    await trainer.release();
  }
}

/** Throws `bad-option` for what cannot be kept. */
function checkRetention({ state, keepBest, keepLast, saveEvery, validation, valSplit }: TrainJob): void {
  const flags = Object.entries({ 'keep-best': keepBest, 'keep-last': keepLast, 'save-every': saveEvery });
  const [flag] = flags.find(([, value]) => value !== undefined) ?? [];
  if (flag && state === undefined)
    throw new AgdError('bad-option', `--${flag} needs a file to save the state to: give --state FILE.`);
  if (keepBest !== undefined && validation === undefined && valSplit === undefined)
    throw new AgdError(
      'bad-option',
      '--keep-best needs validation data: give them with --val or --val-split.',
    );
  if (saveEvery !== undefined) parseInterval(saveEvery);
}

/**
 * The state that a job is to be resumed from: the one that it would write, where it is there already, as of a job that is
 * started again. Throws `bad-option` where that file is not the state of a run, or is that of another.
 */
async function resumable(job: TrainJob): Promise<Model | undefined> {
  const { state } = job;
  if (state === undefined || !existsSync(state) || (await isSameFile(state, job.model))) return undefined;
  const restart = `to start over, remove it first: rm ${state}`;
  const model = await openModel(state);
  if (!isInjected(model))
    throw new AgdError(
      'bad-option',
      `${state} already exists and is not a training state: choose another file, or ${restart}.`,
    );
  const run = await readRun(model);
  const source = await sourceOf(job);
  const before: RunSource = run?.settings ?? {};
  const differs = (key: 'teacher' | 'lossModel') =>
    before[key] !== undefined && source[key] !== undefined && before[key] !== source[key];
  const differences = [
    before.sha256 !== source.sha256 && `another model than ${job.model}`,
    before.inject !== source.inject && 'other options',
    differs('teacher') && `another teacher than ${job.teacher}`,
    differs('lossModel') && `another loss model than ${job.lossModel}`,
  ];
  const other = differences.find(text => text !== false);
  if (other)
    throw new AgdError(
      'bad-option',
      `${state} already exists and is the state of a run with ${other}. To continue that run: agd-onnx train ${state} --data ${[job.data].flat().join(' --data ')} --state ${state}; ${restart}.`,
    );
  await checkExport(model);
  await checkState(model, state);
  return model;
}

/** The state that rank 0 finds, on all ranks: the others may be on machines that have no such file. */
async function sharedState(job: TrainJob, collective: Collective): Promise<Model | undefined> {
  const own = await onFirstRank(collective, () => resumable(job));
  const bytes = await broadcastBytes(collective, own && encodeModel(own));
  return own ?? (bytes.length ? decodeModel(bytes) : undefined);
}

/** What has to be the same on all ranks before they exchange anything of the model. */
async function agreed(job: TrainJob) {
  const { sha256 = '', ...source } = await sourceOf(job);
  const { batchSize, seed, lr, augment, sampler, bind } = job;
  const { epochs, patience, monitor, minDelta, saveEvery } = job;
  const { compress, syncEvery, outerLr, outerMomentum, shardOptimizer, fold, findLr } = job;
  return {
    model: sha256,
    options: hashJson({
      ...{ source, fold, findLr, batchSize, seed, lr, augment, sampler, bind },
      ...{ epochs, patience, monitor, minDelta, saveEvery },
      ...{ compress, syncEvery, outerLr, outerMomentum, shardOptimizer },
    }),
  };
}

async function isSameFile(a: string, b: string): Promise<boolean> {
  const [one, other] = await Promise.all([a, b].map(path => realpath(path).catch(() => path)));
  return one === other;
}

/** Of a fold nothing can be resumed. */
const stateFile = (job: TrainJob) =>
  job.fold ? undefined : (job.state ?? job.output?.replace(/(\.onnx)?$/, '.agd.onnx'));

/**
 * Where the disk is full or a folder has gone, what was learnt goes to the system's folder for temporary files; without the
 * rest of the model where that can no longer be read.
 */
async function rescued(trainer: Trainer, job: TrainJob, run: Run, error: AgdError): Promise<AgdError> {
  const folder = await mkdtemp(join(tmpdir(), 'agd-onnx-'));
  const path = join(folder, basename(stateFile(job) ?? `${job.model}.agd.onnx`));
  const values = `${path.replace(/(\.agd)?\.onnx$/, '')}.safetensors`;
  const reason = error.message.replace(/\.$/, '');
  const saved = (text: string) =>
    new AgdError('io', `${reason}. The progress is saved in ${text}`, { cause: error });
  try {
    await trainer.fetchState();
    await saveSnapshot(await withRun(trainer.snapshot(), run), path);
    return saved(`${path}: agd-onnx export extracts the model.`);
  } catch {}
  try {
    await writeSafetensors(values, trainer.checkpoint());
    return saved(
      `${values}: to continue from there, use the original model with --resume-pytorch ${values}.`,
    );
  } catch {
    await rm(folder, { recursive: true });
    return error;
  }
}

async function saveState(path: string, trainer: Trainer, run: Run, emit: Emit): Promise<void> {
  await trainer.lend(async snapshot => saveSnapshot(await withRun(snapshot, run), path));
  emit({ type: 'saved', path, what: 'state' });
}

async function resume(trainer: Trainer, path: string, emit: Emit): Promise<void> {
  const unused = trainer.restore((await readSafetensors(path)).tensors);
  emit({ type: 'note', text: `resumes from ${path}, after ${trainer.stepCount} updates`, level: 'warning' });
  if (unused.length)
    emit({ type: 'note', text: `${path}: nothing here is called ${unused.join(', ')}`, level: 'warning' });
}
