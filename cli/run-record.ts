import type { JudgedSample, TelemetryRow, TrainEvent } from '../src/internal.js';

type Event<T extends TrainEvent['type']> = Extract<TrainEvent, { type: T }>;

/** What a run has shown of itself so far, before it was resumed too. */
export class RunRecord {
  readonly losses: number[] = [];
  /** Learning rates and norms of gradients of the same steps; NaN where they are not known. */
  readonly rates: number[] = [];
  readonly norms: number[] = [];
  readonly epochs: Event<'epoch'>[] = [];
  /** The number of losses at the end of each epoch. */
  readonly epochEnds: number[] = [];
  /** A table for each update that was shown, a row for each parameter. */
  readonly telemetry: (readonly TelemetryRow[])[] = [];
  start?: Event<'start'>;
  injected?: Event<'injected'>;
  /** Where a validation pass stands that is under way. */
  validation?: Event<'validation'>;
  end?: Event<'end'>;
  rangeTest?: Event<'rates'>;
  #start = 0;
  #last = 0;
  /** Seconds before a resumed run. */
  #before = 0;

  constructor(private readonly now: () => number = () => performance.now()) {}

  watch(event: TrainEvent): void {
    if (event.type === 'injected') this.injected = event;
    if (event.type === 'epoch') {
      this.epochs.push(event);
      this.epochEnds.push(this.losses.length);
    }
    if (event.type === 'telemetry') this.telemetry.push(event.rows);
    if (event.type === 'step') this.#step(event.loss, event.lr, event.gradNorm);
    if (event.type === 'end') this.end = event;
    if (event.type === 'rates') this.rangeTest = event;
    this.validation = event.type === 'validation' ? event : undefined;
    if (event.type === 'start') {
      this.start = event;
      const { losses = [], rates, gradNorms, epochs = [], telemetry = [] } = event.history ?? {};
      for (const [i, loss] of losses.entries()) this.#step(loss, rates![i], gradNorms![i]);
      for (const epoch of epochs) {
        this.epochs.push(epoch);
        this.epochEnds.push(Math.min(epoch.epoch * event.stepsPerEpoch, losses.length));
      }
      for (const rows of telemetry) this.telemetry.push(rows);
      this.#before = event.history?.seconds ?? 0;
      this.#start = this.now();
    }
    this.#last = this.now();
  }

  #step(loss: number, lr = Number.NaN, gradNorm = Number.NaN): void {
    this.losses.push(loss);
    this.rates.push(lr);
    this.norms.push(gradNorm);
  }

  /** From the first step on, evaluation included, and what came before a resumed run. */
  get seconds(): number {
    return this.#before + (this.#last - this.#start) / 1000;
  }

  /** The best epoch so far: as the run says, or else that of the lowest loss on the validation data. */
  get best(): Event<'epoch'> | undefined {
    const named = this.epochs.findLast(epoch => 'best' in epoch && epoch.best);
    if (named) return named;
    const lossOf = ({ validation }: Event<'epoch'>) => validation?.loss ?? Number.NaN;
    const validated = this.epochs.filter(epoch => Number.isFinite(lossOf(epoch)));
    return validated.reduce<Event<'epoch'> | undefined>(
      (best, epoch) => (!best || lossOf(epoch) < lossOf(best) ? epoch : best),
      undefined,
    );
  }

  get accuracy(): number | undefined {
    return this.epochs.at(-1)?.validation?.accuracy;
  }

  get worst(): readonly JudgedSample[] {
    return this.end?.worst ?? [];
  }
}
