import { readFile } from 'node:fs/promises';
import { AgdError } from '../../graph/errors.js';
import type { Model } from '../../graph/ir.js';
import { unknownName } from '../../ops/core/option-type.js';
import type { LossFunction } from '../../passes/normalize/loss-function.js';
import { withLossFunction } from '../../passes/normalize/with-loss-function.js';
import { parseLoss } from '../../passes/options/parse-loss.js';
import {
  INJECT_OPTION_NAMES,
  type InjectOptions,
  injectOptionsOf,
  type LossSpec,
  type OptimizerSpec,
} from '../../passes/options.js';
import { type Augmentation, parseAugmentations } from '../../passes/recipe/augmentation.js';
import { readRecipe } from '../../passes/recipe/read-recipe.js';
import { type Data, type DataBinding, type DataOptions, dataOptionsOf, OpenedData } from '../data/data.js';
import { arePaths, dataFrom, type FitData, isOpen } from '../data/from-values.js';
import { withDevice } from '../devices/choose.js';
import { trainedModel } from '../export.js';
import { Checkpoints } from './checkpoints.js';
import type {
  BestEpoch,
  EndEvent,
  EpochEvent,
  LoopEvent,
  NewEvent,
  StartEvent,
  StepEvent,
  TrainEvent,
} from './events.js';
import type { TrainerOptions } from './load-step.js';
import { directionOf } from './monitor.js';
import {
  bind,
  bindingOf,
  bindTraining,
  dataProgress,
  trainable,
  withMixedTargets,
  withSchedule,
  worstOf,
} from './prepare.js';
import { accountingOf, checkBudget, checkResumed, seedOf } from './privacy.js';
import {
  beginRun,
  fitHistory,
  type Run,
  type RunHistory,
  readRun,
  settingsOf,
  withRun,
} from './run-state.js';
import { Trainer } from './trainer.js';
import { type Reply, type RunOptions, trainRun } from './training-run.js';

type Answer = Reply | Promise<Reply>;

/** Functions that are called as a run goes on; each may be asynchronous, and is awaited. The trainer holds the state. */
export type Callbacks = {
  /** Before the first step. May return 'stop', as all but `onEnd`. */
  onStart?(event: StartEvent, trainer: Trainer): Answer;
  /** After each step. Where there is such a function, steps run one by one, which takes longer for small models. */
  onStep?(event: StepEvent, trainer: Trainer): Answer;
  /** After each epoch and its validation. */
  onEpoch?(event: EpochEvent, trainer: Trainer): Answer;
  /** After the last step. The trainer is released after it. */
  onEnd?(event: EndEvent, trainer: Trainer): void | Promise<void>;
};

export type FitOptions = Omit<InjectOptions, 'loss' | 'optimizer'> &
  Omit<RunOptions, 'epochs' | 'saveEvery' | 'stepwise'> &
  TrainerOptions &
  Omit<DataOptions, 'recipe' | 'seed' | 'augment' | 'progress' | 'fold'> & {
    /**
     * What to minimize, where the model has no training step yet: a specification, the text of --loss, or a function that writes
     * it as an expression.
     */
    loss?: LossSpec | string | LossFunction;
    optimizer?: OptimizerSpec | OptimizerSpec['name'];
    /** What is done to images in training, in the words of `--augment` too: 'flip,crop:padding=4,mixup'. */
    augment?: string | readonly Augmentation[];
    /** Passes over the data; 1 if not given. Of a state, those that it has behind it included. */
    epochs?: number;
    /** Evaluated after each epoch. */
    validation?: FitData;
    /** How arrays feed the inputs. */
    bind?: Omit<DataBinding, 'labels'>;
    /** Whose weights to return: those of the best epoch by validation, which is the default, or the last ones. */
    export?: 'best' | 'last';
    /** How many of the validation samples with the largest loss the last event tells; none if not given. */
    worstSamples?: number;
    callbacks?: Callbacks | readonly Callbacks[];
    /** Told every event, notes too. */
    onEvent?: (event: TrainEvent) => void;
    /** Stops the run after the steps under way. */
    signal?: { readonly aborted: boolean };
  };

export type FitResult = {
  /** The original model with trained weights: `saveModel` writes it. */
  model: Model;
  /** The injected model after the last step: a run can be resumed from it, by `fit` too. */
  state: Model;
  /** The losses of the steps, and the epochs. */
  history: RunHistory;
  /** The epoch whose weights `model` has, where there is validation data. */
  best?: BestEpoch;
  /** Why the run ended. */
  reason: EndEvent['reason'];
};

const OWN = [
  'epochs',
  'batchSize',
  'seed',
  'lr',
  'monitor',
  'patience',
  'minDelta',
  'metrics',
  'trainMetrics',
  'dpEpsilon',
  'dpDelta',
];
const OTHER = [
  ...['collective', 'compress', 'syncEvery', 'outerLr', 'outerMomentum', 'shardOptimizer'],
  'validation',
  'bind',
  'export',
  'worstSamples',
  'callbacks',
  'onEvent',
  'signal',
  'device',
  'threads',
  'inPlace',
];
const DATA = [
  ...['columns', 'label', 'valSplit', 'sampler', 'sampleWeights', 'shuffleBuffer'],
  ...['augment', 'skipMissing', 'skipDamaged'],
];

/** The error that a run of `fit` ended with, and the state after the last good step, from which to resume. */
export class FitError extends AgdError {
  constructor(
    cause: AgdError,
    readonly state: Model,
  ) {
    super(cause.code, cause.message, { cause });
  }
}

/**
 * Trains a model on data, from a plain model, an injected one or a file of either. The model given is not changed. Throws
 * `bad-option`, `bad-data`, `bad-shape` and `non-finite`, as `inject`, `bindData` and `trainingLoop` do. Where a run ends with
 * `non-finite` or `bad-data`, and leaves a whole state (see `inPlace`), the error is a `FitError`.
 */
export async function fit(
  model: Model | string,
  data: FitData,
  options: FitOptions = {},
): Promise<FitResult> {
  const opened = new OpenedData();
  try {
    return await fitOn(model, data, options, opened);
  } finally {
    await opened.close();
  }
}

async function fitOn(
  model: Model | string,
  data: FitData,
  options: FitOptions,
  own: OpenedData,
): Promise<FitResult> {
  const known = ['loss', 'optimizer', ...INJECT_OPTION_NAMES, ...OWN, ...OTHER, ...DATA];
  const stranger = Object.keys(options).find(name => !known.includes(name));
  if (stranger !== undefined) throw unknownName('option', stranger, known);
  const { epochs = 1, batchSize, validation, device, threads, onEvent, signal, bind: binding } = options;
  const callbacks = [options.callbacks ?? []].flat() as Callbacks[];
  const emit = (event: NewEvent) => onEvent?.({ time: Date.now(), ...event } as TrainEvent);
  const augment = typeof options.augment === 'string' ? parseAugmentations(options.augment) : options.augment;
  const decided = injectOptions(options);
  const mixed = decided && withMixedTargets(decided, augment);
  const inject = mixed && options.collective ? { ...mixed, lossDivisor: true } : mixed;
  const open = async (what: FitData, name: string | undefined, how: DataOptions) => {
    const found = await dataFrom(what, name, how);
    return isOpen(what) ? found : own.add(found);
  };
  const how = { ...dataOptionsOf({ ...options, augment }), progress: dataProgress(emit) };
  const given = await open(data, undefined, how);
  const { collective, compress, syncEvery, outerLr, outerMomentum, shardOptimizer } = options;
  const together = { collective, compress, syncEvery, outerLr, outerMomentum, shardOptimizer };
  const session = await withDevice({ device, threads, ...together }, text =>
    emit({ type: 'note', text, level: 'warning' }),
  );
  const opened =
    typeof model === 'string'
      ? await (await import('../formats/open-for-injection.js')).openForInjection(
          model,
          inject ? { ...inject, original: await readFile(model).catch(() => undefined) } : {},
        )
      : { model, options: inject ?? {} };
  const { sampler, dpEpsilon, dpDelta } = options;
  checkBudget(inject, options);
  const budget = { sampler, dpEpsilon, dpDelta };
  const prepared = { bind: binding, batchSize, epochs, inject, augment, ...budget, ...session };
  const injected = await trainable(
    opened,
    prepared,
    typeof model === 'string' ? model : 'The model',
    given,
    emit,
  );
  given.use(await readRecipe(injected));
  let trainer = await Trainer.create(injected, session);
  try {
    const { target } = trainer.description.loss;
    const train = await bindTraining(prepared, given, trainer);
    for (const note of train.reportOn({ batchSize })) emit({ type: 'note', ...note });
    const held =
      validation === undefined
        ? await given.validation(trainer.inputs, bindingOf(prepared, target))
        : await bind(
            prepared,
            await open(
              validation,
              'the validation data',
              heldOptions(options, given, arePaths(validation), arePaths(data)),
            ),
            trainer.inputs,
            target,
          );
    trainer = await withSchedule(trainer, prepared, train, emit, injected);
    trainer.keepRecipe(given.recipe);
    const { lr } = options;
    const before = await readRun(injected);
    const seed = seedOf(trainer.description, options.seed, before);
    const privacy = await accountingOf(trainer.description, train, { ...options, epochs });
    for (const text of privacy?.notes ?? []) emit({ type: 'note', text, level: 'warning' });
    const asked = { batchSize, seed, lr, bind: binding, augment };
    const settings = await settingsOf(asked, given, train);
    const note = (text: string) => emit({ type: 'note', text, level: 'warning' });
    checkResumed(trainer.description, before, settings, trainer.batchCount);
    const begun = beginRun(before, settings, trainer.batchCount, note, trainer.lr);
    const run: Run = { ...begun, checkpoints: [] };
    const metric = options.monitor ?? 'loss';
    const keepsBest = held !== undefined && options.export !== 'last';
    const checkpoints = new Checkpoints({
      best: keepsBest ? 1 : 0,
      last: 0,
      better: directionOf(metric, options.metrics),
    });
    const tell = async (event: LoopEvent | StartEvent): Promise<Reply> => {
      onEvent?.(event);
      const replies: Reply[] = [];
      for (const callback of callbacks) replies.push(await calledBy(callback, event, trainer));
      return replies.includes('stop') ? 'stop' : undefined;
    };
    const plan = { ...options, seed, epochs, stepwise: callbacks.some(({ onStep }) => onStep) };
    const stateNow = async () => {
      fitHistory(run.history, trainer.batchCount);
      await trainer.fetchState();
      return withRun(trainer.snapshot(), run);
    };
    // Every rank returns model and state.
    const hooks = { emit: tell, signal, wholeOn: 'all' as const };
    const sets = { train, validation: held };
    const { reason } = await trainRun(trainer, sets, plan, run, checkpoints, hooks).catch(async error => {
      // It is the same error on all ranks.
      if (error instanceof AgdError && error.code === 'non-finite') await trainer.settle('all');
      if (error instanceof AgdError && trainer.isWhole && ['non-finite', 'bad-data'].includes(error.code))
        throw new FitError(error, await stateNow());
      throw error;
    });
    const best = keepsBest ? checkpoints.bestEpoch(metric) : undefined;
    const chosen = best && (await checkpoints.bestModel());
    const files = validation ?? data;
    const about = { batchSize, ...session, ...(arePaths(files) ? { paths: files } : {}) };
    if (!chosen) await trainer.fetchState();
    const worst =
      held && (await worstOf(chosen ?? trainer.snapshot(), held, options.worstSamples, about, emit));
    const end: EndEvent = {
      type: 'end',
      time: Date.now(),
      stopped: !!signal?.aborted,
      reason,
      steps: trainer.stepCount,
      skipped: trainer.skippedCount,
      ...(privacy ? { privacy: privacy.spent(trainer.batchCount) } : {}),
      ...(best ? { best } : {}),
      ...(worst?.length ? { worst } : {}),
    };
    onEvent?.(end);
    for (const callback of callbacks) await callback.onEnd?.(end, trainer);
    const state = await stateNow();
    return {
      model: await trainedModel(chosen ?? state),
      state,
      history: run.history,
      ...(best ? { best } : {}),
      reason,
    };
  } finally {
    await trainer.release();
  }
}

function calledBy(callback: Callbacks, event: LoopEvent | StartEvent, trainer: Trainer): Answer {
  switch (event.type) {
    case 'start':
      return callback.onStart?.(event, trainer);
    case 'step':
      return callback.onStep?.(event, trainer);
    case 'epoch':
      return callback.onEpoch?.(event, trainer);
    default:
      return undefined;
  }
}

/** What is decided when a model is injected; undefined where nothing of it is given. */
function injectOptions({ loss, optimizer, ...options }: FitOptions): InjectOptions | undefined {
  const found: InjectOptions = injectOptionsOf({
    ...options,
    ...withLossFunction({ ...options, loss: typeof loss === 'string' ? parseLoss(loss) : loss }),
    optimizer: typeof optimizer === 'string' ? ({ name: optimizer } as OptimizerSpec) : optimizer,
  });
  const { seed, ...decided } = found;
  return Object.keys(decided).length ? found : undefined;
}

/** Of validation data, columns become inputs as they do in training. */
const heldOptions = (
  { columns, label, shuffleBuffer, skipMissing, skipDamaged }: FitOptions,
  { recipe }: Data,
  areFiles: boolean,
  ofFiles: boolean,
): DataOptions => ({
  // What belongs to columns of the training files means nothing for arrays.
  ...(areFiles ? { columns, label, skipDamaged } : {}),
  ...(areFiles || !ofFiles ? { skipMissing } : {}),
  shuffleBuffer,
  recipe,
});
