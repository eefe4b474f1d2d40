/** How many training steps a run of the session does: the policy of the training loop, which the bench follows too. */
import type { Feeds } from '../session.js';

/** A run of a quarter of a second keeps the progress smooth and makes the cost of starting it small. */
const RUN_MILLISECONDS = 250;
/** Large steps go together too, as each run copies the state in and out: so many, in so much time. */
const LARGE_STEPS = { count: 32, milliseconds: 2000 };
/** Of the inputs of one run. */
const RUN_BYTES = 32 * 2 ** 20;

/** How many steps to do in one run, from how long one takes and how large its batch is. */
export class RunLength {
  steps = 1;

  /** `inputs` are those of the last run, which took `milliseconds` for `steps` steps. */
  learn(inputs: Feeds, steps: number, milliseconds: number): void {
    const bytes = Object.values(inputs).reduce((n, t) => n + t.byteLength, 0) / steps;
    const step = milliseconds / steps;
    const large = Math.min(LARGE_STEPS.count, LARGE_STEPS.milliseconds / step);
    const wanted = Math.min(Math.max(RUN_MILLISECONDS / step, large), RUN_BYTES / bytes);
    // Doubling at most: the first runs are slower than those that follow.
    this.steps = Math.max(1, Math.min(Math.floor(wanted), 2 * this.steps));
  }
}
