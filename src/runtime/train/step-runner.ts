import { AgdError } from '../../graph/errors.js';
import type { Model } from '../../graph/ir.js';
import { record } from '../../graph/record.js';
import { Tensor } from '../../graph/tensor.js';
import { skipsLosses, type TrainingDescription } from '../../passes/file/description.js';
import { anyRank, type Collective } from '../collective/collective.js';
import { type Feeds, freeMemory, freeOnDevice, isOnDevice, type Session } from '../session.js';
import { brokenBy, checkScale, deciding, diverged, nonFinite } from './divergence.js';
import type { TelemetryRow } from './events.js';
import { firstNonFinite, LAST_GOOD, LOST } from './finite.js';
import { aligned, emptied, unwritten, writtenLosses } from './in-place.js';
import { isDistributed, type LoadedStep, statesOf, withOwnTables } from './load-step.js';
import type { LocalSteps } from './local-steps.js';
import { inExtents, slice, unstacked } from './step-axis.js';
import { type StepInfo, StepResults } from './step-results.js';

/**
 * Runs a loaded step, one run at a time, and owns the state between runs. A run may write over arrays that only the runner
 * has, and never over those that a caller has seen.
 */
export class StepRunner {
  /** The state of this rank, to be read before the next run, which may write over it. */
  state: Feeds;
  /** What the updates of the last run did, and what is known of its steps. */
  telemetry: TelemetryRow[][] = [];
  lastSteps: StepInfo[] = [];
  /** The state that a run wrote, while nobody else has it: its arrays can take a later one. */
  #own: Feeds | undefined;
  /** The same while it is lent to what does not keep it. */
  #lent: Feeds | undefined;
  /** Arrays of the state before. */
  #spare: Feeds | undefined;
  /** Whether a run is under way that replaces the state. */
  isReplacing = false;
  /** Whether a run failed that had begun to replace the state. */
  isLost = false;
  #hasRun = false;
  /** The whole state on rank 0, if ranks have parts of it. */
  #gathered: Feeds | undefined;
  readonly loaded: Omit<LoadedStep, 'state'>;
  readonly #results: StepResults;
  /** Where each rank trains for itself. */
  local: LocalSteps | undefined;

  constructor(
    private readonly model: Model,
    private readonly description: TrainingDescription,
    { state, ...loaded }: LoadedStep,
    private readonly collective: Collective | undefined,
  ) {
    this.state = state;
    this.loaded = loaded;
    this.#results = new StepResults(description, loaded.run.stacked);
  }

  get counts() {
    return this.#results.counts(this.state);
  }

  /** The model's own learning rate, before its schedule. */
  get lr(): Tensor {
    for (const [value, tensor] of this.model.graph.initializers)
      if (value.name === this.description.lr) return tensor;
    throw new AgdError('invalid-model', `The model lacks its learning rate '${this.description.lr}'.`);
  }

  /** As many steps as the leading axis of the batches is long; see `Trainer.steps`. */
  steps(batches: Feeds, options: { lr?: number }): Promise<number[]> {
    const given = this.#withSecondTarget(batches);
    if (this.local) return this.#localStep(given, options);
    return this.loaded.device ? this.#stepsOnDevice(given, options) : this.#steps(given, options);
  }

  /**
   * Steps whose state stays on the device, each a run of its own: the runtime's Scan would copy the state at each step. The
   * state that they begin with is kept until that after them is known to be finite.
   */
  async #stepsOnDevice(batches: Feeds, options: { lr?: number }): Promise<number[]> {
    const device = this.loaded.device!;
    const start = this.state;
    const [losses, infos, telemetry]: [number[], StepInfo[], TelemetryRow[][]] = [[], [], []];
    const count = Object.values(batches)[0]?.dims[0] ?? 1;
    const toStart = (from: Feeds) => {
      this.state = start;
      device.free(from, start);
    };
    const check = async () => {
      const broken = await device.firstNonFinite(deciding(this.description, this.state));
      if (!broken) return;
      const error = brokenBy(this.description, this.counts.updates, losses.length, broken, this.state);
      toStart(this.state);
      if (losses.length > 1) await this.#stepsOnDevice(slice(batches, 0, losses.length - 1), options);
      throw error;
    };
    try {
      while (losses.length < count) {
        const before = this.state;
        const batch = unstacked(slice(batches, losses.length, losses.length + 1));
        const [loss] = await this.#steps(batch, options).catch(async error => {
          if (error instanceof AgdError && error.code === 'non-finite' && losses.length) await check();
          throw error;
        });
        losses.push(loss!);
        infos.push(...this.lastSteps);
        telemetry.push(...this.telemetry);
        if (before !== start) device.free(before, this.state);
      }
      await check();
    } finally {
      if (this.state !== start) device.free(start, this.state);
    }
    this.lastSteps = infos;
    this.telemetry = telemetry;
    return losses;
  }

  /** The first target has all of the share where no second one is fed. */
  #withSecondTarget(feeds: Feeds): Feeds {
    const { mix, target } = this.description.loss;
    if (!mix || feeds[mix.target] || !feeds[target!]) return feeds;
    const first = feeds[target!]!;
    return {
      ...feeds,
      [mix.target]: first,
      [mix.share]: Tensor.filled('float32', first.dims.slice(0, 2), 1),
    };
  }

  async #steps(batches: Feeds, { lr }: { lr?: number }): Promise<number[]> {
    const { description } = this;
    const { session, updates, run, unread, inPlace, sum, device } = this.loaded;
    const rate = lr === undefined ? this.lr : Tensor.filled('float32', [], lr);
    const count = Object.values(batches)[0]?.dims[0] ?? 1;
    if (isDistributed(session) && count > 1) return this.#oneByOne(batches, count, { lr });
    this.demandWhole();
    const isReplaced = inPlace.size > 0 && this.state === this.#own;
    const state = { ...inExtents(this.state, run.hoisted), [description.lr]: rate };
    const looked = await run.rows?.gather(batches, this.state);
    const feeds = { ...batches, ...state, ...looked?.feeds };
    const shown = run.stacked.values();
    const wanted = [description.loss.name, ...(looked?.outputs ?? updates.map(u => u.value)), ...shown];
    const results = isDistributed(session)
      ? await session.run(unstacked(batches), state)
      : unread === undefined
        ? await session.run(feeds, wanted)
        : await this.#runInto(session, feeds, count, unread);
    if (looked) Object.assign(results, looked.divide(results));
    const discard = () => freeOnDevice(Object.values(results));
    const losses = results[description.loss.name]!.numbers();
    const bad = skipsLosses(description) ? -1 : losses.findIndex(loss => !Number.isFinite(loss));
    if (bad > 0) await this.#steps(slice(batches, 0, bad), { lr });
    if (bad >= 0) {
      discard();
      await this.fetchState();
      const batch = device ? batches : slice(batches, bad, bad + 1);
      throw diverged(description, losses[bad]!, this.counts.updates + 1, batch, this.state);
    }
    const after = record(Object.fromEntries(updates.map(u => [u.state, results[u.value]!])));
    const given = new Map([...run.hoisted.keys()].map(n => [n, this.state[n]!.dims]));
    const next = inExtents(after, given);
    const here = Object.entries(deciding(description, next)).filter(([, tensor]) => !isOnDevice(tensor));
    const isSummed = sum && Number.isFinite(results[sum.output]!.numbers()[0]);
    const open = isSummed ? here.filter(([name]) => !sum!.states.has(name)) : here;
    const broken = firstNonFinite(Object.fromEntries(open));
    const isBrokenElsewhere =
      isDistributed(session) && session.isSharded && (await anyRank(this.collective!, !!broken)) && !broken;
    if (isBrokenElsewhere)
      throw nonFinite(`The update of step ${this.counts.updates + 1} made state of another rank non-finite`);
    if (broken && isReplaced)
      throw this.#lost(
        nonFinite(`The update of step ${this.counts.updates + losses.length} made '${broken}' non-finite`),
      );
    if (broken) {
      discard();
      if (losses.length > 1) await this.#steps(slice(batches, 0, losses.length - 1), { lr });
      throw brokenBy(description, this.counts.updates + 1, losses.length, broken, next);
    }
    const { tables } = run;
    try {
      checkScale(description, next);
      if (tables.length)
        Object.assign(next, (await import('./put-rows.js')).putRows(tables, updates, this.state, results));
    } catch (error) {
      discard();
      throw error;
    }
    const before = this.#results.counts(this.state);
    this.#gathered = undefined;
    this.#spare = this.state === this.#own ? this.#own : undefined;
    this.state = next;
    if (unread !== undefined) this.#own = next;
    // Frees what the first run began with before the second one allocates its outputs.
    if (!this.#hasRun) freeMemory();
    this.#hasRun = true;
    const read = this.#results;
    this.telemetry = read.telemetry(feeds, next, results);
    const found = { state: next, results, telemetry: this.telemetry };
    this.lastSteps = await read.steps(losses.length, before, rate.numbers()[0]!, found);
    return losses;
  }

  /**
   * The outputs of a run of `count` steps. The state is in the arrays of the one before where steps replace it, and in those of
   * that before the last run where they are free. What a caller has seen is in neither.
   */
  async #runInto(session: Session, given: Feeds, count: number, unread: string): Promise<Feeds> {
    const { description } = this;
    const { updates, run, inPlace, sum } = this.loaded;
    const isOwn = this.state === this.#own;
    const feeds = { ...given };
    const states = updates.map(({ state, value }) => {
      const { dtype, dims } = feeds[state]!;
      if (inPlace.has(state) && (isOwn || this.state[state]!.isFresh)) {
        feeds[state] = aligned(feeds[state]!);
        return [value, feeds[state]] as const;
      }
      const spare = inPlace.has(state) ? undefined : this.#spare?.[state];
      return [value, spare ? new Tensor(dtype, dims, spare.bytes) : emptied(dtype, dims)] as const;
    });
    const shown = [...run.stacked].map(([state, name]) => {
      const { dtype, dims } = feeds[state]!;
      return [name, emptied(dtype, [count, ...dims])] as const;
    });
    const losses = unwritten(count);
    const sums = sum ? [[sum.output, emptied('float32', [])] as const] : [];
    const outputs = record(
      Object.fromEntries([...states, ...shown, ...sums, [description.loss.name, losses]]),
    );
    const { value } = updates.find(u => u.state === description.step)!;
    this.isReplacing = isOwn && inPlace.size > 0;
    try {
      await session.runInto(feeds, outputs, unread, value);
    } catch (error) {
      const known = writtenLosses(losses);
      // Before that step, nothing was replaced.
      if (inPlace.size && known.some(loss => !Number.isFinite(loss))) return outputs;
      if (inPlace.size && isOwn && known.length === count) throw this.#lost(error as AgdError);
      throw error;
    } finally {
      this.isReplacing = false;
    }
    return outputs;
  }

  /** Steps of this rank alone, one by one, and the mean over the ranks when it is due. No loss without samples. */
  async #localStep(batches: Feeds, options: { lr?: number }): Promise<number[]> {
    const [first] = Object.values(batches);
    const losses: number[] = [];
    for (let i = 0; i < (first?.dims[0] ?? 1); i++) {
      const step = first ? this.#steps(slice(batches, i, i + 1), options) : Promise.resolve([Number.NaN]);
      const [loss] = await step.catch(async error => {
        if (!(error instanceof AgdError) || error.code !== 'non-finite') throw error;
        this.#meet(await this.local!.fail(this.state, error));
        throw error;
      });
      losses.push(loss!);
      this.#meet(await this.local!.after(this.state, first?.dims[1] ?? 0));
    }
    return losses;
  }

  /** Goes on from the state in which ranks met. Throws what ended the run of one of them. */
  #meet(state: Feeds): void {
    if (state !== this.state) this.state = this.ownTables(state);
    if (this.local!.failure) throw this.local!.failure;
  }

  /** Ranks exchange gradients between two steps. */
  async #oneByOne(batches: Feeds, count: number, options: { lr?: number }): Promise<number[]> {
    const losses: number[] = [];
    const [telemetry, steps]: [TelemetryRow[][], StepInfo[]] = [[], []];
    for (let i = 0; i < count; i++) {
      losses.push(...(await this.#steps(slice(batches, i, i + 1), options)));
      telemetry.push(...this.telemetry);
      steps.push(...this.lastSteps);
    }
    [this.telemetry, this.lastSteps] = [telemetry, steps];
    return losses;
  }

  /** See `Trainer.settle`. */
  async settle(wholeOn: 'first' | 'all'): Promise<void> {
    const { session } = this.loaded;
    if (isDistributed(session)) {
      this.state = await session.settle(this.state);
      if (session.isSharded) {
        const types = statesOf(
          this.model,
          this.model.trainingInfo.flatMap(info => info.updates),
        );
        const all = await session.gather(this.state, types, wholeOn);
        if (wholeOn === 'all' || this.collective!.rank === 0) this.#gathered = all;
      }
    }
    if (this.local && !this.local.isSettled) this.#meet(await this.local.settle(this.state));
  }

  /** Goes on from another state. */
  replace(state: Feeds): void {
    const before = this.state;
    this.state = this.ownTables(state);
    this.isLost = false;
    this.loaded.device?.free(before, this.state);
    this.local?.restart(this.state);
  }

  async fetchState(): Promise<void> {
    await this.loaded.device?.fetch(this.state);
  }

  /** The state of this rank, for others to keep: it is not written over any more. */
  shown(): Feeds {
    this.demandWhole();
    this.#own = undefined;
    this.#lent = undefined;
    return this.state;
  }

  /** The state of all ranks, for others to keep. */
  whole(): Feeds {
    const own = this.shown();
    if (isDistributed(this.loaded.session) && this.loaded.session.foreign.size && !this.#gathered)
      throw new AgdError(
        'bad-state',
        'Each rank has a part of the state: call settle() on all of them, and save on rank 0.',
      );
    return this.#gathered ?? own;
  }

  /** Lends the whole state: once `use` has ended, steps write over it again. */
  async lend(use: (state: Feeds) => Promise<void>): Promise<void> {
    const own = this.#own;
    const state = this.whole();
    this.#lent = own;
    await use(state);
    if (this.#lent === this.state) this.#own = this.#lent;
    this.#lent = undefined;
  }

  /** Throws `bad-state` where a failed run has begun to replace the state. */
  demandWhole(): void {
    if (!this.isLost) return;
    throw new AgdError(
      'bad-state',
      `The trainer's ${LOST}: restore() a checkpoint, or create another trainer.`,
    );
  }

  /** The error of a run that had begun to replace the state. */
  #lost({ code, message, cause }: AgdError): AgdError {
    this.isLost = true;
    const text = message.replace(` The state is ${LAST_GOOD};`, ` The ${LOST}, but what was saved is not;`);
    return new AgdError(
      code,
      text === message ? `${message} The ${LOST}, but what was saved is not.` : text,
      { cause },
    );
  }

  /** With copies of the tables that change in place. */
  ownTables(state: Feeds): Feeds {
    return withOwnTables(this.loaded.run.tables, state);
  }

  async release(): Promise<void> {
    const { session, run, device } = this.loaded;
    await session.release();
    await run.rows?.release();
    await this.#results.release();
    device?.free(this.state);
    await device?.release();
  }
}
