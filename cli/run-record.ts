import type { TelemetryRow, TrainEvent } from '../src/internal.js';

type Event<T extends TrainEvent['type']> = Extract<TrainEvent, { type: T }>;

/** What a run has shown of itself so far, before it was resumed too. */
export class RunRecord {
  readonly losses: number[] = [];
  readonly epochs: Event<'epoch'>[] = [];
  /** The number of losses at the end of each epoch. */
  readonly epochEnds: number[] = [];
  /** A table for each update that was shown, a row for each parameter. */
  readonly telemetry: (readonly TelemetryRow[])[] = [];
  start?: Event<'start'>;
  injected?: Event<'injected'>;
  #start = 0;
  #last = 0;
  /** Of the epochs before a resumed run. */
  #before = 0;

  constructor(private readonly now: () => number = () => performance.now()) {}

  watch(event: TrainEvent): void {
    if (event.type === 'injected') this.injected = event;
    if (event.type === 'epoch') {
      this.epochs.push(event);
      this.epochEnds.push(this.losses.length);
    }
    if (event.type === 'telemetry') this.telemetry.push(event.rows);
    if (event.type === 'step') this.losses.push(event.loss);
    if (event.type === 'start') {
      this.start = event;
      const { losses = [], epochs = [], telemetry = [] } = event.history ?? {};
      for (const loss of losses) this.losses.push(loss);
      for (const epoch of epochs) this.epochs.push(epoch);
      for (const rows of telemetry) this.telemetry.push(rows);
      this.#before = epochs.reduce((sum, { seconds }) => sum + seconds, 0);
      this.#start = this.now();
    }
    this.#last = this.now();
  }

  /** From the first step on, evaluation included; of the epochs before a resumed run, those of the ones completed. */
  get seconds(): number {
    return this.#before + (this.#last - this.#start) / 1000;
  }

  get accuracy(): number | undefined {
    return this.epochs.at(-1)?.validation?.accuracy;
  }
}
