/**
 * Local SGD: each rank trains for itself for some steps, then all go on from the mean of their parameters.
 * Stich, "Local SGD Converges Fast and Communicates Little" (2019); with an outer optimizer: Douillard et al., "DiLoCo" (2023).
 */
import { type DType, type FloatDType, isFloat } from '../../graph/dtype.js';
import { record } from '../../graph/record.js';
import { Tensor } from '../../graph/tensor.js';
import type { TrainingDescription } from '../../passes/file/description.js';
import type { Collective } from '../collective/collective.js';
import type { Feeds } from '../session.js';
import { type Compression, GradientBuffer } from './exchange.js';

export type LocalOptions = {
  /** Steps between two means. */
  syncEvery: number;
  /** The outer optimizer takes the change to the mean as a gradient, for SGD with Nesterov momentum: 1 and 0 take the mean itself. */
  outerLr?: number;
  outerMomentum?: number;
  compress?: Compression;
};

/** What a rank keeps between two means of parameters. All ranks call the same methods in the same order. */
export class LocalSteps {
  /** The parameters after the last mean, and the momentum of the outer optimizer. */
  #anchor: Feeds;
  readonly #momentum = new Map<string, Float64Array>();
  #steps = 0;
  #isSettled = true;
  #samples = 0;

  constructor(
    private readonly collective: Collective,
    private readonly description: TrainingDescription,
    private readonly options: LocalOptions,
    state: Feeds,
  ) {
    this.#anchor = this.#copies(state);
  }

  /** Whether this rank has done steps since the last mean. */
  get isApart(): boolean {
    return this.#steps > 0;
  }

  /** Whether the whole state is the same on all ranks. */
  get isSettled(): boolean {
    return this.#isSettled;
  }

  /** The state after a step on so many samples: every `syncEvery` steps, the mean over the ranks by their samples. */
  async after(state: Feeds, samples: number): Promise<Feeds> {
    this.#steps++;
    this.#isSettled = false;
    this.#samples += samples;
    return this.#steps < this.options.syncEvery ? state : this.#sync(state, this.#shared());
  }

  /** Makes the whole state the same on all ranks, the optimizer's too, so that it can be evaluated and saved. */
  async settle(state: Feeds): Promise<Feeds> {
    if (this.#isSettled) return state;
    // A mean of equal numbers is rounded.
    const equal = new Set(this.#steps ? [] : this.#shared());
    const names = Object.keys(state).filter(name => !equal.has(name));
    const next = await this.#sync(state, names);
    this.#isSettled = true;
    return next;
  }

  async #sync(state: Feeds, names: readonly string[]): Promise<Feeds> {
    const { collective, options } = this;
    const counters = names.filter(name => !isFloat(state[name]!.dtype));
    const shared = Float64Array.of(
      ...[this.#samples, this.#batches(state)],
      ...counters.map(name => state[name]!.numbers()[0]!),
    );
    await collective.allReduce(shared.subarray(0, 1));
    // A rank without samples did fewer steps.
    await collective.allReduce(shared.subarray(1), 'max');
    const [total] = shared as unknown as [number];
    const share = total ? this.#samples / total : 1 / collective.size;
    const floats = names.filter(name => isFloat(state[name]!.dtype));
    const buffer = new GradientBuffer(
      floats.map(name => ({
        name,
        dtype: state[name]!.dtype as DType as FloatDType,
        dims: state[name]!.dims,
      })),
    );
    for (const name of floats) buffer.add(name, state[name]!, share);
    await buffer.reduce(collective, options.compress);
    const next: Feeds = { ...state, ...buffer.tensors() };
    let at = 2;
    for (const name of counters) {
      const { dtype, dims } = state[name]!;
      next[name] = Tensor.filled(dtype, dims, shared[at++]!);
    }
    this.#countSkipped(next, shared[1]!);
    if (this.#steps && total)
      for (const name of this.#parameters()) next[name] = this.#outerStep(name, next[name]!);
    [this.#steps, this.#samples] = [0, 0];
    this.#anchor = this.#copies(next);
    return record(next);
  }

  /** Batches that a state has behind it, skipped ones included. */
  #batches(state: Feeds): number {
    const { step, accumulation, skipped } = this.description;
    const at = (name: string | undefined) => (name === undefined ? 0 : state[name]!.numbers()[0]!);
    return at(step) * (accumulation?.batches ?? 1) + at(accumulation?.counter) + at(skipped);
  }

  /** A step that some rank did is done for all: only those that all ranks skipped count, or a run would be resumed too late. */
  #countSkipped(next: Feeds, batches: number): void {
    const { skipped } = this.description;
    if (skipped === undefined) return;
    const { dtype, dims } = next[skipped]!;
    const none = Tensor.filled(dtype, dims, 0);
    const done = this.#batches({ ...next, [skipped]: none });
    next[skipped] = Tensor.filled(dtype, dims, Math.max(0, batches - done));
  }

  /** v = momentum v + (anchor - mean), next = anchor - lr ((anchor - mean) + momentum v). */
  #outerStep(name: string, mean: Tensor): Tensor {
    const { outerLr = 1, outerMomentum = 0 } = this.options;
    if (outerLr === 1 && outerMomentum === 0) return mean;
    const before = this.#anchor[name]!.numbers();
    const velocity = this.#momentum.get(name) ?? new Float64Array(mean.size);
    this.#momentum.set(name, velocity);
    const next = mean.numbers().map((value, i) => {
      const change = before[i]! - value;
      velocity[i] = outerMomentum * velocity[i]! + change;
      return before[i]! - outerLr * (change + outerMomentum * velocity[i]!);
    });
    return Tensor.ofNumbers(mean.dtype as FloatDType, mean.dims, next);
  }

  #parameters(): string[] {
    return this.description.parameters.map(p => p.name);
  }

  /** Parameters, their running averages and running statistics: the optimizer's state stays with its rank. */
  #shared(): string[] {
    const { parameters, statistics, step } = this.description;
    return [
      ...parameters.flatMap(p => [p.name, ...(p.ema === undefined ? [] : [p.ema])]),
      ...statistics,
      step,
    ];
  }

  /** Steps change tables in place. */
  #copies(state: Feeds): Feeds {
    const { outerLr = 1, outerMomentum = 0 } = this.options;
    if (outerLr === 1 && outerMomentum === 0) return {};
    const own = this.#parameters().map(name => {
      const { dtype, dims, bytes } = state[name]!;
      return [name, new Tensor(dtype, dims, bytes.slice())] as const;
    });
    return Object.fromEntries(own);
  }
}
