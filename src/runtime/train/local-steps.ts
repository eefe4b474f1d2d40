/**
 * Local SGD: each rank trains for itself for some steps, then all go on from the mean of their parameters.
 * Stich, "Local SGD Converges Fast and Communicates Little" (2019); with an outer optimizer: Douillard et al., "DiLoCo" (2023).
 */
import { fromUtf8, toUtf8 } from '../../graph/bytes.js';
import { type DType, type FloatDType, isFloat } from '../../graph/dtype.js';
import { AgdError } from '../../graph/errors.js';
import { record } from '../../graph/record.js';
import { Tensor } from '../../graph/tensor.js';
import { type OptimizerOptions, statesOf } from '../../ops/optimizers/optimizer.js';
import { optimizerOfStep } from '../../ops/optimizers/wrappers/index.js';
import { sumsOf, type TrainingDescription } from '../../passes/file/description.js';
import type { Collective } from '../collective/collective.js';
import type { Feeds } from '../session.js';
import { type Compression, GradientBuffer } from './exchange.js';
import { LAST_GOOD } from './finite.js';

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
  readonly #momentum: Map<string, Tensor>;
  /** The states of the optimizer that started as a parameter and are weights, too. */
  readonly #weights: readonly string[];
  /** The states of the optimizer that no step changes. */
  readonly #constants: ReadonlySet<string>;
  #steps = 0;
  #isSettled = true;
  #samples = 0;
  #failure: AgdError | undefined;

  constructor(
    private readonly collective: Collective,
    private readonly description: TrainingDescription,
    private readonly options: LocalOptions,
    state: Feeds,
    momentum: ReadonlyMap<string, Tensor>,
  ) {
    const kept = optimizerStates(description, state);
    this.#weights = kept.flatMap(one => (one.value === 'parameter' && !one.constant ? [one.state] : []));
    this.#constants = new Set(kept.flatMap(one => (one.constant ? [one.state] : [])));
    this.#anchor = this.#copies(state);
    this.#momentum = options.outerMomentum ? new Map(momentum) : new Map();
  }

  /** Whether this rank has done steps since the last mean. */
  get isApart(): boolean {
    return this.#steps > 0;
  }

  /** Whether the whole state is the same on all ranks. */
  get isSettled(): boolean {
    return this.#isSettled;
  }

  /** The momentum of the outer optimizer by parameter and other weight, the same on all ranks. */
  get momentum(): ReadonlyMap<string, Tensor> {
    return this.#momentum;
  }

  /** Why the run cannot go on after the last mean, the same on all ranks. */
  get failure(): AgdError | undefined {
    return this.#failure;
  }

  /** Goes on from another state. */
  restart(state: Feeds): void {
    this.#anchor = this.#copies(state);
  }

  /** The state after a step on so many samples: every `syncEvery` steps, the mean over the ranks by their samples. */
  async after(state: Feeds, samples: number): Promise<Feeds> {
    this.#steps++;
    this.#isSettled = false;
    this.#samples += samples;
    return this.#steps < this.options.syncEvery ? state : this.#sync(state, false);
  }

  /** Makes the whole state the same on all ranks, the optimizer's too, so that it can be evaluated and saved. */
  async settle(state: Feeds): Promise<Feeds> {
    return this.#isSettled ? state : this.#sync(state, true);
  }

  /**
   * After a step of this rank that failed: `state` is that before it. The other ranks go on until they meet, where all take the
   * mean of the whole state and get the same `failure`.
   */
  async fail(state: Feeds, error: AgdError): Promise<Feeds> {
    this.#steps++;
    return this.#sync(state, true, error);
  }

  async #sync(state: Feeds, isWhole: boolean, error?: AgdError): Promise<Feeds> {
    const { collective, options } = this;
    const [samples] = await this.#total([this.#samples], 'sum');
    const own = this.#countsOf(state);
    const [batches, position, fails] = await this.#total([own.batches, own.position, error ? 1 : 0], 'max');
    if (fails) this.#failure = await this.#firstFailure(error);
    this.#isSettled = isWhole || !!fails;
    const names = this.#namesToShare(state);
    const mine = this.#withCounts(state, batches!, position!, this.#isSettled);
    const counters = names.filter(name => !isFloat(mine[name]!.dtype));
    const most = await this.#total(
      counters.map(name => mine[name]!.numbers()[0]!),
      'max',
    );
    const share = samples ? this.#samples / samples : 1 / collective.size;
    const floats = names.filter(name => isFloat(mine[name]!.dtype));
    const buffer = new GradientBuffer(
      floats.map(name => ({
        name,
        dtype: mine[name]!.dtype as DType as FloatDType,
        dims: mine[name]!.dims,
      })),
    );
    for (const name of floats) buffer.add(name, mine[name]!, share);
    await buffer.reduce(collective, options.compress);
    const next: Feeds = { ...mine, ...buffer.tensors() };
    counters.forEach((name, i) => {
      const { dtype, dims } = mine[name]!;
      next[name] = Tensor.filled(dtype, dims, most[i]!);
    });
    if (this.#steps && samples)
      for (const name of this.#moved()) next[name] = this.#outerStep(name, next[name]!);
    [this.#steps, this.#samples] = [0, 0];
    this.#anchor = this.#copies(next);
    return record(next);
  }

  async #total(values: readonly number[], op: 'sum' | 'max'): Promise<number[]> {
    const all = Float64Array.from(values);
    if (all.length) await this.collective.allReduce(all, op);
    return [...all];
  }

  /** The error of the first rank that has one. */
  async #firstFailure(error: AgdError | undefined): Promise<AgdError> {
    const told = await this.collective.allGather<Uint8Array>(toUtf8(error?.message ?? ''));
    const all = told.map(fromUtf8);
    const rank = all.findIndex(text => text);
    const text = all[rank]!.replace(LAST_GOOD, 'the mean over the ranks of their last good steps');
    return new AgdError('non-finite', `Rank ${rank}: ${text}`, error ? { cause: error } : {});
  }

  /** All if the state is to be settled. A mean of equal numbers is rounded: what no step has changed since the last mean is left out. */
  #namesToShare(state: Feeds): string[] {
    if (!this.#isSettled) return this.#shared();
    const equal = new Set(this.#steps ? [] : this.#shared());
    return Object.keys(state).filter(name => !equal.has(name) && !this.#constants.has(name));
  }

  /** Batches that a state has behind it, skipped ones included; and its position, without these. */
  #countsOf(state: Feeds): { batches: number; position: number } {
    const { step, accumulation, skipped } = this.description;
    const at = (name: string | undefined) => (name === undefined ? 0 : state[name]!.numbers()[0]!);
    const position = at(step) * (accumulation?.batches ?? 1) + at(accumulation?.counter);
    return { position, batches: position + at(skipped) };
  }

  /**
   * The state of this rank with counts that fit those of the others: an update that some rank did is done for all, and batches
   * count as skipped only if all ranks skipped them, or a run would be resumed too late. What a rank has accumulated for an
   * update that others did is left out. If the whole state is shared, all accumulate from the same place.
   */
  #withCounts(state: Feeds, batches: number, position: number, isWhole: boolean): Feeds {
    const { step, accumulation, skipped, parameters } = this.description;
    const perUpdate = accumulation?.batches ?? 1;
    const updates = Math.floor(position / perUpdate);
    const next: Feeds = { ...state };
    const set = (name: string | undefined, value: number) => {
      if (name !== undefined) next[name] = Tensor.filled(next[name]!.dtype, next[name]!.dims, value);
    };
    const isLate = state[step]!.numbers()[0]! < updates;
    set(step, updates);
    if (accumulation && isLate) {
      const { counter, weight, further = [] } = accumulation;
      const sums = parameters.flatMap(sumsOf);
      for (const name of [counter, weight, ...further, ...sums]) set(name, 0);
    }
    if (isWhole) set(accumulation?.counter, position % perUpdate);
    set(skipped, 0);
    set(skipped, Math.max(0, batches - this.#countsOf(next).position));
    return next;
  }

  /** v = momentum v + (anchor - mean), next = anchor - lr ((anchor - mean) + momentum v). */
  #outerStep(name: string, mean: Tensor): Tensor {
    const { outerLr = 1, outerMomentum = 0 } = this.options;
    if (outerLr === 1 && outerMomentum === 0) return mean;
    const before = this.#anchor[name]!.numbers();
    const velocity = this.#momentum.get(name)?.numbers() ?? new Float64Array(mean.size);
    const next = mean.numbers().map((value, i) => {
      const change = before[i]! - value;
      velocity[i] = outerMomentum * velocity[i]! + change;
      return before[i]! - outerLr * (change + outerMomentum * velocity[i]!);
    });
    const wide = mean.dtype === 'float64' ? 'float64' : 'float32';
    if (outerMomentum) this.#momentum.set(name, Tensor.ofNumbers(wide, mean.dims, [...velocity]));
    return Tensor.ofNumbers(mean.dtype as FloatDType, mean.dims, next);
  }

  /** What the outer optimizer moves: points between weights, at which gradients are taken, then move as they do. */
  #moved(): string[] {
    return [...this.description.parameters.map(p => p.name), ...this.#weights];
  }

  /** Parameters, other weights, running averages and running statistics: the optimizer's other state stays with its rank. */
  #shared(): string[] {
    const { parameters, statistics, step } = this.description;
    return [
      ...parameters.flatMap(p => [p.name, ...(p.ema === undefined ? [] : [p.ema])]),
      ...this.#weights,
      ...statistics,
      step,
    ];
  }

  /** Steps change tables in place. */
  #copies(state: Feeds): Feeds {
    const { outerLr = 1, outerMomentum = 0 } = this.options;
    if (outerLr === 1 && outerMomentum === 0) return {};
    const own = this.#moved().map(name => {
      const { dtype, dims, bytes } = state[name]!;
      return [name, new Tensor(dtype, dims, bytes.slice())] as const;
    });
    return Object.fromEntries(own);
  }
}

/** What the optimizer keeps of each parameter, with the names in the state. */
function optimizerStates(description: TrainingDescription, state: Feeds) {
  const { optimizer, parameters } = description;
  const found = optimizerOfStep(description);
  return parameters.flatMap(({ name, options, state: slots }) =>
    found
      ? statesOf(found, { ...optimizer.options, ...options } as OptimizerOptions, state[name]!.dims).map(
          kept => ({ ...kept, state: slots[kept.name]! }),
        )
      : [],
  );
}
