/** The value by which epochs are compared: which one is the best, and whether the run still improves. */
import { AgdError } from '../../graph/errors.js';
import { type PlannedSchedule, resolveSchedule } from '../../ops/schedules.js';
import { type MetricChoice, metricNamed } from '../metrics/index.js';
import type { BestEpoch, EpochEvent } from './events.js';

export type MonitorOptions = {
  /** The validation value to compare epochs by: 'loss' (the default) or a metric. */
  monitor?: string;
  /** Epochs without improvement after which the run stops; never if not given. */
  patience?: number;
  /** The least change that counts as an improvement for `patience`; 0 if not given. */
  minDelta?: number;
  /** The metrics that are computed, where some are definitions of one's own. */
  metrics?: readonly MetricChoice[];
};

export type Direction = 'higher' | 'lower';

/** Whether larger values of a metric are better. Throws `bad-option` for a metric that has no better or worse. */
export function directionOf(metric: string, metrics: readonly MetricChoice[] = []): Direction {
  if (metric === 'loss') return 'lower';
  const [name] = metric.split('/') as [string];
  const own = metrics.find(choice => typeof choice !== 'string' && choice.name === name);
  const { better } = metricNamed(own ?? name);
  if (better) return better;
  throw new AgdError(
    'bad-option',
    `--monitor ${metric}: neither higher nor lower values of this metric are better.`,
  );
}

/** The value of a metric after an epoch; undefined where the epoch was not validated. Throws `bad-option` where it has no such value. */
export function monitoredValue(
  { validation }: Pick<EpochEvent, 'validation'>,
  metric: string,
): number | undefined {
  if (!validation) return undefined;
  const values = new Map(Object.entries({ loss: validation.loss, ...validation.metrics }));
  // A history that was saved has null where a value was not a number.
  if (values.has(metric)) return values.get(metric) ?? Number.NaN;
  const names = [...values.keys()].join(', ');
  throw new AgdError(
    'bad-option',
    `--monitor ${metric}: the validation gives ${names}, but not '${metric}'.`,
  );
}

/** Counts values, each better than the one before by more than `minDelta` or not. Values that are not numbers are no improvement. */
export class Patience {
  /** Values since the last improvement. */
  waited = 0;
  #reference: number | undefined;

  constructor(
    private readonly better: Direction,
    private readonly minDelta = 0,
  ) {}

  observe(value: number): void {
    const sign = this.better === 'higher' ? 1 : -1;
    const gain = this.#reference === undefined ? Infinity : sign * (value - this.#reference);
    if (!Number.isNaN(value) && gain > this.minDelta) {
      this.#reference = value;
      this.waited = 0;
    } else this.waited++;
  }
}

/** Follows the monitored value. Its state depends on the epochs observed alone: a resumed run observes those before again. */
export class Monitor {
  readonly metric: string;
  readonly better: Direction;
  best: BestEpoch | undefined;
  readonly #patience: Patience;

  constructor(private readonly options: MonitorOptions) {
    this.metric = options.monitor ?? 'loss';
    this.better = directionOf(this.metric, options.metrics);
    this.#patience = new Patience(this.better, options.minDelta);
  }

  /** Whether the run has not improved for `patience` epochs. */
  get isExhausted(): boolean {
    const { patience } = this.options;
    return patience !== undefined && this.#patience.waited >= patience;
  }

  /** Whether the epoch is the best so far. */
  observe(event: EpochEvent): boolean {
    const value = monitoredValue(event, this.metric);
    if (value === undefined) return false;
    this.#patience.observe(value);
    const improves =
      !Number.isNaN(value) &&
      (!this.best || (this.better === 'higher' ? value > this.best.value : value < this.best.value));
    if (improves) this.best = { epoch: event.epoch, metric: this.metric, value };
    return improves;
  }
}

/** The schedule `plateau`: a factor on the learning rate, which depends on the epochs observed alone. */
export class Plateau {
  factor = 1;
  readonly #metric: string;
  readonly #patience: Patience;

  constructor(
    private readonly schedule: PlannedSchedule,
    { monitor = 'loss', minDelta, metrics }: MonitorOptions,
  ) {
    this.#metric = monitor;
    this.#patience = new Patience(directionOf(monitor, metrics), minDelta);
  }

  observe(event: EpochEvent): void {
    const value = monitoredValue(event, this.#metric);
    if (value === undefined) return;
    const { factor, patience, final } = resolveSchedule(this.schedule);
    this.#patience.observe(value);
    if (this.#patience.waited < patience) return;
    this.factor = Math.max(final, this.factor * factor);
    this.#patience.waited = 0;
  }

  /** The learning rate to feed, where `given` or else `own` is the one to begin with. */
  rate(given: number | undefined, own: number): number | undefined {
    return this.factor === 1 ? given : (given ?? own) * this.factor;
  }
}

/** The metrics to compute where this one is monitored. */
export function metricsWith(
  monitor: string | undefined,
  metrics: readonly MetricChoice[] | undefined,
): readonly MetricChoice[] | undefined {
  if (monitor === undefined || monitor === 'loss') return metrics;
  const [name] = monitor.split('/') as [string];
  const isThere = metrics?.some(choice => (typeof choice === 'string' ? choice : choice.name) === name);
  return isThere ? metrics : [...(metrics ?? ['default']), name];
}
