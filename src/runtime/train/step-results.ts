/** What the results of a run tell of its steps beside their losses: telemetry, learning rates, norms, loss scales. */
import { Tensor } from '../../graph/tensor.js';
import type { PlannedSchedule } from '../../ops/schedules.js';
import type { TrainingDescription } from '../../passes/file/description.js';
import { scheduleFactors } from '../../passes/run/schedule-factors.js';
import { type Feeds, Session } from '../session.js';
import type { TelemetryRow } from './events.js';

/**
 * `gradNorm` is that of an update's gradients before clipping, where the step clips their norm; else what telemetry tells.
 * `lossScale` is that after the step, `skipped` the number of batches skipped so far, if the step has them.
 */
export type StepInfo = { lr: number; gradNorm?: number; lossScale?: number; skipped?: number };

/** What the state counts: updates, accumulated batches since the last update, skipped batches. */
type Counts = { updates: number; batches: number; skipped: number };

/** Reads the results of runs. Release it when done. */
export class StepResults {
  #schedule: Session | undefined;

  /** `stacked` has the outputs that hold a state after each step of a run. */
  constructor(
    private readonly description: TrainingDescription,
    private readonly stacked: ReadonlyMap<string, string>,
  ) {}

  counts(state: Feeds): Counts {
    const { accumulation, step, skipped } = this.description;
    const count = (name: string | undefined) => (name === undefined ? 0 : state[name]!.numbers()[0]!);
    return { updates: count(step), batches: count(accumulation?.counter), skipped: count(skipped) };
  }

  /** What the updates of a run did, from the table `before` it on. One that did not change since the step before shows nothing new. */
  telemetry(before: Feeds, state: Feeds, results: Feeds): TelemetryRow[][] {
    const { telemetry, parameters } = this.description;
    if (!telemetry) return [];
    const { name, columns } = telemetry;
    const values = this.#afterEach(name, state, results)!;
    const size = parameters.length * columns.length;
    let [last] = before[name]!.numbers();
    const found: TelemetryRow[][] = [];
    for (let start = 0; start < values.length; start += size) {
      if (values[start] === last) continue;
      last = values[start];
      found.push(
        parameters.map(({ name: parameter }, i) => {
          const row = columns.map((column, j) => [column, values[start + i * columns.length + j]!]);
          return { parameter, values: Object.fromEntries(row) };
        }),
      );
    }
    return found;
  }

  /** What is known of `count` steps that began `before`, with the model's learning rate at `lr`. */
  async steps(
    count: number,
    before: Counts,
    lr: number,
    { state, results, telemetry }: { state: Feeds; results: Feeds; telemetry: readonly TelemetryRow[][] },
  ): Promise<StepInfo[]> {
    const { accumulation, schedule, gradNorm, skipped, scaling } = this.description;
    const afterEach = (name: string | undefined) => this.#afterEach(name, state, results);
    const perUpdate = accumulation?.batches ?? 1;
    let { batches } = before;
    const [counts, scales] = [afterEach(skipped), afterEach(scaling?.scale)];
    const updates = Array.from({ length: count }, (_, i) => {
      const update = before.updates + Math.floor(batches / perUpdate);
      const isSkipped = counts !== undefined && counts[i]! > (counts[i - 1] ?? before.skipped);
      if (!isSkipped) batches++;
      return { update, isDone: !isSkipped && batches % perUpdate === 0 };
    });
    const done = updates.map(({ update }) => update);
    const factors = schedule && (await this.#factors(schedule, done));
    const clipped = afterEach(gradNorm);
    const observed = new Map(
      telemetry.map(rows => [rows[0]!.values.update, rows.map(r => r.values.grad_norm!)]),
    );
    return updates.map(({ update, isDone }, i) => {
      const norms = observed.get(update + 1);
      const norm = isDone ? (clipped?.[i] ?? (norms && Math.hypot(...norms))) : undefined;
      return {
        lr: lr * (factors?.[i] ?? 1),
        ...(norm === undefined ? {} : { gradNorm: norm }),
        ...(scales ? { lossScale: scales[i]! } : {}),
        ...(counts ? { skipped: counts[i]! } : {}),
      };
    });
  }

  /** The values of a state after each step, where the run has them, or after the last. */
  #afterEach(name: string, state: Feeds, results: Feeds): number[];
  #afterEach(name: string | undefined, state: Feeds, results: Feeds): number[] | undefined;
  #afterEach(name: string | undefined, state: Feeds, results: Feeds): number[] | undefined {
    return name === undefined ? undefined : (results[this.stacked.get(name) ?? ''] ?? state[name]!).numbers();
  }

  /** The schedule's factors on the learning rate, after so many updates each. */
  async #factors(schedule: PlannedSchedule, done: readonly number[]): Promise<number[]> {
    this.#schedule ??= await Session.create(scheduleFactors(schedule), { threads: 1 });
    const { factor } = await this.#schedule.run({
      done: Tensor.from('float64', [done.length], Float64Array.from(done)),
    });
    return factor!.numbers();
  }

  async release(): Promise<void> {
    await this.#schedule?.release();
  }
}
