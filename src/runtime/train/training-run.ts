/** One training run, whatever starts it: `runTrainJob` from files to files, or `fit` from a program. */
import { AgdError } from '../../graph/errors.js';
import { demandSameState } from '../collective/agreement.js';
import { anyRank, onFirstRank } from '../collective/collective.js';
import type { DataOptions } from '../data/data.js';
import type { Dataset } from '../data/dataset.js';
import type { Checkpoints } from './checkpoints.js';
import type { EndEvent, EpochEvent, LoopEvent, StartEvent } from './events.js';
import { Monitor, type MonitorOptions, metricsWith, monitoredValue, Plateau } from './monitor.js';
import { accountingOf, type PrivacyOptions } from './privacy.js';
import { fitHistory, follow, type Run, withRun } from './run-state.js';
import type { Trainer } from './trainer.js';
import { type LoopOptions, trainingLoop } from './training-loop.js';

/** What a callback answers: 'stop' ends the run. */
// biome-ignore lint/suspicious/noConfusingVoidType: a callback may return nothing.
export type Reply = 'stop' | void;

export type RunOptions = MonitorOptions &
  PrivacyOptions &
  Pick<LoopOptions, 'metrics' | 'trainMetrics' | 'memoryLimit'> & {
    epochs: number;
    sampler?: DataOptions['sampler'];
    sampleWeights?: string;
    batchSize?: number;
    seed?: number;
    lr?: number;
    /** When to save: `500steps`, `10min` or `1epoch`, which is what holds if not given. */
    saveEvery?: string;
    /** Runs one step at a time, so that a callback may stop after any step. */
    stepwise?: boolean;
  };

export type RunHooks = {
  emit: (event: LoopEvent | StartEvent) => Reply | Promise<Reply>;
  /** Saves the state at the times of `saveEvery`; nothing is saved during the run without it. */
  save?: () => Promise<void>;
  signal?: { readonly aborted: boolean };
  /** Which ranks take snapshots of a divided optimizer; rank 0 if not given. */
  wholeOn?: 'first' | 'all';
};

export type RunData = { train: Dataset; validation?: Dataset };

export type RunResult = { reason: EndEvent['reason']; epochs: readonly EpochEvent[] };

/**
 * Trains, follows the monitored value, keeps the best epochs in `checkpoints`, and stops early. `run.history` is extended in
 * place; epochs that it has already are observed again, so that a resumed run decides as one that was not interrupted.
 * Throws `non-finite` where the loss or a parameter is, and `bad-option`.
 */
export async function trainRun(
  trainer: Trainer,
  { train, validation }: RunData,
  options: RunOptions,
  run: Run,
  checkpoints: Checkpoints,
  { emit, save, signal, wholeOn }: RunHooks,
): Promise<RunResult> {
  const { epochs, batchSize, seed, lr, patience, stepwise, metrics, trainMetrics, memoryLimit } = options;
  const { history } = run;
  if (!validation && (patience !== undefined || options.monitor !== undefined))
    throw new AgdError(
      'bad-option',
      `${patience === undefined ? '--monitor' : '--patience'} needs validation data: give them with --val or --val-split.`,
    );
  const { schedule } = trainer.description;
  const plateau = schedule?.kind === 'plateau' ? new Plateau(schedule, options) : undefined;
  if (plateau && !validation)
    throw new AgdError(
      'bad-option',
      'The schedule plateau needs validation data: give them with --val or --val-split.',
    );
  const monitor = new Monitor(options);
  for (const event of history.epochs) {
    monitor.observe(event);
    plateau?.observe(event);
  }
  checkpoints.revalue(epoch => {
    const event = history.epochs.find(one => one.epoch === epoch);
    return event && monitoredValue(event, monitor.metric);
  });
  // The best epoch is the best of those whose weights are kept.
  if (checkpoints.keepsBest) monitor.best = checkpoints.bestEpoch(monitor.metric);
  const size = { batchSize: train.batchSize(options), stepsPerEpoch: train.batchCount(options) };
  const privacy = await accountingOf(trainer.description, train, options);
  const stepsBefore = trainer.batchCount;
  const before = stepsBefore ? { history: structuredClone(history) } : {};
  let asked = false;
  const tell = async (event: LoopEvent | StartEvent) => {
    if ((await emit(event)) === 'stop') asked = true;
  };
  await tell({
    type: 'start',
    time: Date.now(),
    epochs,
    samples: train.length,
    parameters: sizeOf(trainer),
    stepsBefore,
    ...size,
    ...before,
  });
  const secondsBefore = history.seconds;
  const begin = performance.now();
  const noteTime = () => {
    history.seconds = secondsBefore + (performance.now() - begin) / 1000;
  };
  const snapshot = () => withRun(trainer.snapshot(), { ...run, checkpoints: [] });
  const timer = new SaveTimer(options.saveEvery, stepsBefore, size.stepsPerEpoch);
  const { collective } = trainer;
  const saveIfDue = async () => {
    // Ranks that train for themselves ask each other when they meet.
    if (trainer.isApart) return;
    const isDue = !!save && timer.isDue(trainer.batchCount);
    // Rank 0 saves, but what is to be saved is on all ranks.
    if (!(collective ? await anyRank(collective, isDue) : isDue)) return;
    await trainer.settle(wholeOn);
    const work = async () => save?.();
    await (collective ? onFirstRank(collective, work) : work());
    timer.saved(trainer.batchCount);
  };
  const stop = {
    get aborted() {
      return asked || monitor.isExhausted || !!signal?.aborted;
    },
  };
  const limit = (done: number) => (stepwise ? 1 : timer.stepsLeft(done));
  const rate = plateau ? () => plateau.rate(lr, trainer.lr) : lr;
  const loop = { epochs, batchSize, seed, lr: rate, validation, trainMetrics, memoryLimit };
  const events = trainingLoop(trainer, train, {
    ...loop,
    metrics: metricsWith(options.monitor, metrics),
    signal: stop,
    limit,
    afterRun: saveIfDue,
    before: history.losses,
  });
  for await (const event of events) {
    noteTime();
    if (event.type !== 'epoch') {
      follow(history, event);
      await tell(event);
      continue;
    }
    await trainer.settle(wholeOn);
    if (collective) await demandSameState(collective, trainer.commonState, `after epoch ${event.epoch}`);
    plateau?.observe(event);
    const isBest = monitor.observe(event);
    const told = privacy ? { ...event, privacy: privacy.spent(trainer.batchCount) } : event;
    const shown: EpochEvent = isBest ? { ...told, best: true } : told;
    follow(history, shown);
    if (isBest && checkpoints.keepsBest) {
      const { epoch, value } = monitor.best!;
      await trainer.fetchState();
      checkpoints.add(await snapshot(), trainer.batchCount, { epoch, value });
    }
    await tell(shown);
    if (event.epoch < epochs) await saveIfDue();
  }
  await trainer.settle(wholeOn);
  fitHistory(history, trainer.batchCount);
  const isDone = trainer.batchCount >= epochs * size.stepsPerEpoch;
  const reason = signal?.aborted
    ? 'signal'
    : asked
      ? 'callback'
      : monitor.isExhausted && !isDone
        ? 'patience'
        : 'epochs';
  return { reason, epochs: history.epochs };
}

function sizeOf({ description: { parameters }, state }: Trainer) {
  const sizes = parameters.map(({ name }) => state.get(name)?.size ?? 0);
  return { tensors: sizes.length, elements: sizes.reduce((a, b) => a + b, 0) };
}

const UNITS = { step: 'steps', min: 'minutes', epoch: 'epochs' } as const;
export type Interval = { every: number; unit: (typeof UNITS)[keyof typeof UNITS] };

/** `500steps`, `10min`, `2epochs`, as the command line has it. Throws `bad-option`. */
export function parseInterval(text: string): Interval {
  const [, number, unit] = /^(\d+(?:\.\d+)?)\s*(step|min|epoch)(?:s|utes?)?$/.exec(text.trim()) ?? [];
  const every = Number(number);
  const isWhole = unit === 'min' || Number.isSafeInteger(every);
  if (!unit || !isWhole || !(every > 0))
    throw new AgdError('bad-option', `--save-every: expected 500steps, 10min or 2epochs, not '${text}'.`);
  return { every, unit: UNITS[unit as keyof typeof UNITS] };
}

/** Says when the state is to be saved. */
class SaveTimer {
  readonly #interval: Interval;
  #last: number;
  #time = performance.now();

  constructor(
    text = '1epoch',
    done: number,
    private readonly stepsPerEpoch: number,
  ) {
    this.#interval = parseInterval(text);
    this.#last = done;
  }

  /** How many steps may be done, after `done`, until it may be time to save. */
  stepsLeft(done: number): number {
    const { every, unit } = this.#interval;
    return unit === 'steps' ? every - (done % every) : Infinity;
  }

  isDue(done: number): boolean {
    const { every, unit } = this.#interval;
    if (done === this.#last) return false;
    if (unit === 'minutes') return performance.now() - this.#time >= every * 60_000;
    const steps = unit === 'steps' ? every : every * this.stepsPerEpoch;
    return Math.floor(done / steps) > Math.floor(this.#last / steps);
  }

  saved(done: number): void {
    this.#last = done;
    this.#time = performance.now();
  }
}
