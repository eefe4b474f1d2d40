/** How many training steps a run of the session does: the policy of the training loop, which the bench follows too. */
import { freemem } from 'node:os';
import type { Feeds } from '../session.js';

/** A run of a quarter of a second keeps the progress smooth and makes the cost of starting it small. */
const RUN_MILLISECONDS = 250;
/** Large steps go together too, as each run copies the state in and out: so many, in so much time. */
const LARGE_STEPS = { count: 32, milliseconds: 2000 };
/** Of the inputs of one run. */
export const RUN_BYTES = 32 * 2 ** 20;
/** The same where the state also goes to a device and back: more, of which the free memory is many times. */
const DEVICE_BYTES = { most: 2 ** 30, share: 1 / 16 };
/** The share of the time of a run on a device that its start may take, which is mostly transfers; but no longer runs than these. */
const TRANSFERS = { share: 0.05, milliseconds: 15_000 };
/** Numbers of steps whose times are remembered. */
const REMEMBERED = 16;

/** `onDevice`: the state is transferred at each run. `bytes`: of the inputs of one run, at most. */
export type RunLimits = { onDevice?: boolean; bytes?: number };

/** How many steps to do in one run, from how long one takes and how large its batch is. */
export class RunLength {
  steps = 1;
  readonly #onDevice: boolean;
  readonly #bytes: number;
  /** The least time of a run, by its number of steps; undefined before the first run, which also compiles kernels. */
  #times: Map<number, number> | undefined;

  constructor({ onDevice = false, bytes }: RunLimits = {}) {
    this.#onDevice = onDevice;
    const free = Math.max(RUN_BYTES, Math.min(DEVICE_BYTES.most, DEVICE_BYTES.share * freemem()));
    this.#bytes = bytes ?? (onDevice ? free : RUN_BYTES);
  }

  /** `inputs` are those of the last run, which took `milliseconds` for `steps` steps. */
  learn(inputs: Feeds, steps: number, milliseconds: number): void {
    const bytes = Object.values(inputs).reduce((n, t) => n + t.byteLength, 0) / steps;
    const step = milliseconds / steps;
    const large = Math.min(LARGE_STEPS.count, LARGE_STEPS.milliseconds / step);
    if (this.#onDevice) this.#remember(steps, milliseconds);
    const least = Math.max(RUN_MILLISECONDS / step, large, this.#stepsForTransfers());
    const wanted = Math.min(least, this.#bytes / bytes);
    // Doubling at most: the first runs are slower than those that follow.
    this.steps = Math.max(1, Math.min(Math.floor(wanted), 2 * this.steps));
  }

  /** The time that a run takes whatever its number of steps, and that of a step, by the line through the runs so far. */
  get costs(): { start: number; step: number } | undefined {
    const runs = [...(this.#times ?? [])];
    if (runs.length < 2) return undefined;
    const mean = (values: number[]) => values.reduce((a, b) => a + b, 0) / values.length;
    const [k, t] = [mean(runs.map(([steps]) => steps)), mean(runs.map(([, ms]) => ms))];
    const product = mean(runs.map(([steps, ms]) => (steps - k) * (ms - t)));
    const step = product / mean(runs.map(([steps]) => (steps - k) ** 2));
    return { start: Math.max(0, t - step * k), step };
  }

  #remember(steps: number, milliseconds: number): void {
    if (!this.#times) {
      this.#times = new Map();
      return;
    }
    const least = Math.min(milliseconds, this.#times.get(steps) ?? milliseconds);
    this.#times.delete(steps);
    this.#times.set(steps, least);
    const [oldest] = this.#times.keys();
    if (this.#times.size > REMEMBERED) this.#times.delete(oldest!);
  }

  #stepsForTransfers(): number {
    const { start, step } = this.costs ?? { start: 0, step: 0 };
    if (step <= 0) return 0;
    const enough = Math.ceil((start * (1 - TRANSFERS.share)) / (TRANSFERS.share * step));
    return Math.min(enough, (TRANSFERS.milliseconds - start) / step);
  }
}
