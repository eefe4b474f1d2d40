/** How many training steps a run of the session does: the policy of the training loop, which the bench follows too. */
import type { Feeds } from '../session.js';

/** A run of a quarter of a second keeps the progress smooth. */
const RUN_MILLISECONDS = 250;
/** Longer runs only where their start takes a larger share of the time, and no longer than a user waits for Ctrl-C. */
const START = { share: 0.05, milliseconds: 15_000 };
/** The inputs of one run: of a short one, and the share of the free memory of one that is longer for its start. */
const RUN_BYTES = 32 * 2 ** 20;
const LONG_RUN_BYTES = { most: 2 ** 30, share: 1 / 16 };
/** Between steps of one run, the runtime has two more copies of the state; they may take this share of the free memory. */
const COPIES = { count: 2, share: 1 / 2 };
/** Their share of a limit on the memory of the process. */
const SHARE_OF_LIMIT = 1 / 16;
/** Numbers of steps whose times are remembered. */
const REMEMBERED = 16;

/** What a run costs: `start` milliseconds whatever its number of steps, mostly for the state, and `step` for each. */
export type RunCosts = { start: number; step: number };

/** In bytes: the state, the memory that is free, and the limit on what the process takes, if there is one. */
export type RunLimits = { state: number; free: number; limit?: number };

/**
 * How many steps to do in one run, for steps of `milliseconds` with inputs of `bytes`, and the costs where they are
 * known: a quarter of a second of them, or as many as keep the start below its share.
 */
export function stepsOfRun(
  { milliseconds, bytes, costs }: { milliseconds: number; bytes: number; costs?: RunCosts },
  { state, free, limit }: RunLimits,
): number {
  const room = limit === undefined ? free * COPIES.share : limit * SHARE_OF_LIMIT;
  if (COPIES.count * state > room) return 1;
  const short = Math.min(RUN_MILLISECONDS / milliseconds, RUN_BYTES / bytes);
  const most = limit === undefined ? Math.min(LONG_RUN_BYTES.most, LONG_RUN_BYTES.share * free) : 0;
  const long = Math.min(stepsForStart(milliseconds, costs), Math.max(RUN_BYTES, most) / bytes);
  return Math.max(1, Math.floor(Math.max(short, long)));
}

function stepsForStart(milliseconds: number, costs: RunCosts | undefined): number {
  // A second length of runs tells the costs.
  if (!costs) return START.milliseconds / milliseconds;
  const { start, step } = costs;
  if (step <= 0) return 1;
  const enough = Math.ceil((start * (1 - START.share)) / (START.share * step));
  return Math.min(enough, (START.milliseconds - start) / step);
}

/** Learns from the runs so far how many steps the next one is to do. */
export class RunLength {
  steps = 1;
  readonly #state: number;
  readonly #limit: number | undefined;
  readonly #isInPlace: boolean;
  readonly #isReplaced: boolean;
  #free: number | undefined;
  /** The least time of a run, by its number of steps; undefined before the first run, which also compiles kernels. */
  #times: Map<number, number> | undefined;

  /**
   * `free` is that after the first run, if not given. With `inPlace`, starting a run costs nothing for the state. With
   * `replaced`, each run is one step: the state is then in memory once.
   */
  constructor({
    state = 0,
    free,
    limit,
    inPlace = false,
    replaced = false,
  }: Partial<RunLimits> & { inPlace?: boolean; replaced?: boolean } = {}) {
    this.#state = state;
    this.#isInPlace = inPlace;
    this.#isReplaced = replaced;
    this.#free = free;
    this.#limit = limit;
  }

  /** `inputs` are those of the last run, which took `milliseconds` for `steps` steps. */
  learn(inputs: Feeds, steps: number, milliseconds: number): void {
    this.#free ??= process.availableMemory();
    this.#remember(steps, milliseconds);
    const bytes = Object.values(inputs).reduce((n, t) => n + t.byteLength, 0) / steps;
    const step = milliseconds / steps;
    const wanted = stepsOfRun(
      { milliseconds: step, bytes, costs: this.#isInPlace ? { start: 0, step } : this.costs },
      { state: this.#state, free: this.#free, limit: this.#limit },
    );
    // Doubling at most: the first runs are slower than those that follow.
    this.steps = this.#isReplaced ? 1 : Math.min(wanted, 2 * this.steps);
  }

  /**
   * By the line through the times of the runs so far, of which each counts relative to its length: a share of a long run by
   * which it varies would be a multiple of what the start takes.
   */
  get costs(): RunCosts | undefined {
    const runs = [...(this.#times ?? [])].map(([k, t]) => ({ k, t, weight: 1 / t ** 2 }));
    if (runs.length < 2) return undefined;
    const total = runs.reduce((sum, { weight }) => sum + weight, 0);
    const mean = (of: (run: (typeof runs)[number]) => number) =>
      runs.reduce((sum, run) => sum + run.weight * of(run), 0) / total;
    const [k, t] = [mean(run => run.k), mean(run => run.t)];
    const step = mean(run => (run.k - k) * (run.t - t)) / mean(run => (run.k - k) ** 2);
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
}
