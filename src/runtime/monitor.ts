/** The value by which epochs are compared: which one is the best, and whether the run still improves. */
import { AgdError } from '../graph/errors.js';
import type { BestEpoch, EpochEvent } from './events.js';
import { metricNamed } from './metrics/index.js';

export type MonitorOptions = {
  /** The validation value to compare epochs by: 'loss' (the default) or a metric. */
  monitor?: string;
  /** Epochs without improvement after which the run stops; never if not given. */
  patience?: number;
  /** The least change that counts as an improvement for `patience`; 0 if not given. */
  minDelta?: number;
};

export type Direction = 'higher' | 'lower';

/** Whether larger values of a metric are better. Throws `bad-option` for a metric that has no better or worse. */
export function directionOf(metric: string): Direction {
  if (metric === 'loss') return 'lower';
  const { better } = metricNamed(metric.split('/')[0]!);
  if (better) return better;
  throw new AgdError(
    'bad-option',
    `--monitor ${metric}: of this metric neither higher nor lower values are better.`,
  );
}

/** The value of a metric after an epoch; undefined where the epoch was not validated. Throws `bad-option` where it has no such value. */
export function monitoredValue({ validation }: EpochEvent, metric: string): number | undefined {
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
    this.better = directionOf(this.metric);
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
