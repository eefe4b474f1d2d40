import { withInitializers } from '../../graph/clone.js';
import { AgdError } from '../../graph/errors.js';
import type { Model } from '../../graph/ir.js';
import { record } from '../../graph/record.js';
import { Tensor } from '../../graph/tensor.js';
import { rangesOfTargets } from '../../passes/differentiate/attach-loss.js';
import { singleValue } from '../../passes/differentiate/train-batch-norm.js';
import { skipsLosses, type TrainingDescription } from '../../passes/file/description.js';
import { outerMomentumOf, withOuterMomentum } from '../../passes/file/outer-momentum.js';
import { readStep } from '../../passes/file/step-metadata.js';
import { readsLastToken } from '../../passes/normalize/keep-all-positions.js';
import type { Device } from '../../passes/options.js';
import { readRecipe } from '../../passes/recipe/read-recipe.js';
import { classNames, type Recipe, withRecipe } from '../../passes/recipe/recipe.js';
import { anyRank, type Collective } from '../collective/collective.js';
import type { InputSpec } from '../data/bind.js';
import type { Batch } from '../data/dataset.js';
import { checkRange } from '../data/targets.js';
import { type EvaluateOptions, evaluateBatches } from '../evaluate/evaluation.js';
import { type Prediction, predictions } from '../evaluate/predictions.js';
import { fromPytorch, toPytorch } from '../formats/pytorch-state.js';
import { taskOf } from '../metrics/index.js';
import {
  asFeeds,
  type Feeds,
  freeMemory,
  freeOnDevice,
  isOnDevice,
  misfit,
  onDeviceAlone,
  type Session,
} from '../session.js';
import { brokenBy, checkScale, deciding, diverged, nonFinite } from './divergence.js';
import type { Evaluation, TelemetryRow } from './events.js';
import { firstNonFinite, LAST_GOOD, LOST } from './finite.js';
import { aligned, emptied, unwritten, writtenLosses } from './in-place.js';
import { Inference } from './inference.js';
import {
  isDistributed,
  type LoadedStep,
  loadStep,
  statesOf,
  stepOptions,
  type TrainerOptions,
  withOwnTables,
} from './load-step.js';
import type { LocalSteps } from './local-steps.js';
import { inExtents, slice, unstacked } from './step-axis.js';
import { type StepInfo, StepResults } from './step-results.js';

/**
 * Runs the training step of an injected model. It owns the state between steps: parameters, optimizer state,
 * running statistics and step counter, by their names in the graph. Release it when done.
 *
 * Steps, evaluations and the release that are asked for while another is under way wait for it, in the order of the
 * calls; what reads or replaces the state as a whole throws `bad-state` meanwhile.
 */
export class Trainer {
  #state: Feeds = {};
  #telemetry: TelemetryRow[][] = [];
  #inputs: InputSpec[] | undefined;
  #lastSteps: StepInfo[] = [];
  #last: Promise<unknown> = Promise.resolve();
  #pending = 0;
  #local: LocalSteps | undefined;
  /** The state that a run wrote, while nobody else has it: its arrays can take a later one. */
  #own: Feeds | undefined;
  /** The same while it is lent to what does not keep it. */
  #lent: Feeds | undefined;
  /** Arrays of the state before. */
  #spare: Feeds | undefined;
  /** Whether a run is under way that replaces the state. */
  #isReplacing = false;
  /** Whether a run failed that had begun to replace the state. */
  #isLost = false;
  #hasRun = false;
  /** The whole state on rank 0, if ranks have parts of it. */
  #gathered: Feeds | undefined;
  #isReleased = false;
  private readonly loaded: Omit<LoadedStep, 'state'>;
  readonly #results: StepResults;
  readonly #inference: Inference;

  private constructor(
    private model: Model,
    readonly description: TrainingDescription,
    private readonly options: TrainerOptions,
    { state, ...loaded }: LoadedStep,
  ) {
    this.#state = state;
    this.loaded = loaded;
    this.#results = new StepResults(description, loaded.run.stacked);
    this.#inference = new Inference(description, options);
  }

  /**
   * Loads an injected model into the runtime. With a collective, each rank feeds its part of a batch, and all get the state of
   * rank 0: see `DistributedStep`; ranks call `create`, `step`, `steps`, `settle` and `release` together. Throws `invalid-model`
   * where the model was not injected, `device` where the execution provider is not there.
   */
  static async create(source: Model, where: TrainerOptions = {}): Promise<Trainer> {
    const momentum = outerMomentumOf(source);
    const model = withOuterMomentum(source, new Map());
    const options = await stepOptions(model, where);
    const description = readStep(model);
    const step = await loadStep(model, description, options);
    const trainer = new Trainer(model, description, options, step);
    const { collective, syncEvery } = options;
    if (!collective || syncEvery === undefined) return trainer;
    const { LocalSteps } = await import('./local-steps.js');
    trainer.#local = new LocalSteps(
      collective,
      description,
      { ...options, syncEvery },
      trainer.#state,
      momentum,
    );
    return trainer;
  }

  /** The processes that train together. */
  get collective(): Collective | undefined {
    return this.options.collective;
  }

  /** Whether each rank trains for itself between means of the parameters, and whether it has done so since the last one. */
  get isLocal(): boolean {
    return this.#local !== undefined;
  }

  get isApart(): boolean {
    return this.#local?.isApart ?? false;
  }

  /** Of a settled trainer, the state that is the same on all ranks: without the optimizer state that is divided. */
  get commonState(): ReadonlyMap<string, Tensor> {
    const { description, state } = this;
    const { session } = this.loaded;
    if (!(isDistributed(session) && session.isSharded)) return state;
    const names = new Set([...description.parameters.map(p => p.name), ...description.statistics]);
    return new Map([...state].filter(([name]) => names.has(name)));
  }

  /** What a batch has to hold: the inputs that the loss depends on, the target among them. */
  get inputs(): InputSpec[] {
    // Each step asks, and the answer takes a walk through the graph.
    this.#inputs ??= this.#describeInputs();
    return this.#inputs;
  }

  #describeInputs(): InputSpec[] {
    const { loss } = this.description;
    const outputs = new Map(this.model.graph.outputs.map(v => [v.name, v]));
    const ranges = rangesOfTargets(loss, name => outputs.get(name));
    const ofLastToken = readsLastToken(this.model.graph);
    return this.loaded.fed.map(input => {
      const range = ranges.get(input.name);
      return range ? { ...input, range, ofLastToken } : input;
    });
  }

  /** Where the steps run. */
  get device(): Device {
    return this.options.device ?? 'cpu';
  }

  /** Updates of the parameters so far, those before a restart included. */
  get stepCount(): number {
    return this.#results.counts(this.#state).updates;
  }

  /** Batches seen so far: those that were accumulated, and those skipped, count too. */
  get batchCount(): number {
    const { updates, batches, skipped } = this.#results.counts(this.#state);
    return updates * (this.description.accumulation?.batches ?? 1) + batches + skipped;
  }

  /** Batches whose gradients were not finite, and which changed nothing. */
  get skippedCount(): number {
    return this.#results.counts(this.#state).skipped;
  }

  /**
   * Current values of everything a step changes, by name in the graph; tables updated by rows change in place. Throws `bad-state`
   * while a step is under way that writes over it.
   */
  get state(): ReadonlyMap<string, Tensor> {
    if (this.#isReplacing) throw underWay('reading state');
    this.#demandWhole();
    this.#show();
    return new Map(Object.entries(this.#state));
  }

  /** What the updates of the last run did, those that telemetry was asked for: rows by parameter. */
  get telemetry(): readonly (readonly TelemetryRow[])[] {
    return this.#telemetry;
  }

  /** Of each step of the last run: the learning rate of its update, and the norm of its gradients where the model tells it. */
  get lastSteps(): readonly StepInfo[] {
    return this.#lastSteps;
  }

  /** Lets every snapshot carry the recipe by which the data become inputs. */
  keepRecipe(recipe: Recipe | undefined): void {
    this.model = withRecipe(this.model, recipe);
  }

  /** The injected model with the current state as its defaults: a run can go on from it. */
  snapshot(): Model {
    this.#demandIdle('snapshot');
    if (isDistributed(this.loaded.session) && this.loaded.session.isUnsettled)
      throw new AgdError(
        'bad-state',
        'The ranks have gradients that are not in the state yet: call settle() on all of them.',
      );
    this.#demandHere('snapshot');
    if (this.#local && !this.#local.isSettled)
      throw new AgdError('bad-state', 'The ranks have different states: call settle() on all of them.');
    const state = this.#ownTables(this.#whole());
    return withOuterMomentum(
      withInitializers(this.model, name => state[name]),
      this.#local?.momentum ?? new Map(),
    );
  }

  /** A snapshot for `use` alone: nothing of it may be read when the promise has settled, as steps write over it again. */
  async lend(use: (snapshot: Model) => Promise<void>): Promise<void> {
    const own = this.#own;
    const snapshot = this.snapshot();
    this.#lent = own;
    await use(snapshot);
    if (this.#lent === this.#state) this.#own = this.#lent;
    this.#lent = undefined;
  }

  /** What others have is not written over. */
  #show(): void {
    this.#own = undefined;
    this.#lent = undefined;
  }

  /**
   * Between the batches of an update in a distributed run, puts the gradients that the ranks have accumulated into the state, so
   * that a snapshot of it has them. With `syncEvery`, makes the states of the ranks their mean. With `shardOptimizer`, gives the
   * whole state to rank 0 or to all ranks, which can then take a snapshot. All ranks call it together.
   */
  settle(wholeOn: 'first' | 'all' = 'first'): Promise<void> {
    return this.#inTurn(async () => {
      if (isDistributed(this.loaded.session)) {
        this.#state = await this.loaded.session.settle(this.#state);
        if (this.loaded.session.isSharded) {
          const types = statesOf(
            this.model,
            this.model.trainingInfo.flatMap(info => info.updates),
          );
          const all = await this.loaded.session.gather(this.#state, types, wholeOn);
          if (wholeOn === 'all' || this.collective!.rank === 0) this.#gathered = all;
        }
      }
      if (this.#local && !this.#local.isSettled) this.#meet(await this.#local.settle(this.#state));
    });
  }

  /** Whether runs write the state into arrays that are there, so that starting one takes no time for the state. */
  get writesInPlace(): boolean {
    return this.loaded.unread !== undefined;
  }

  /** Whether steps write the next state over the one before, so that it is in memory once in runs of one step. */
  get replacesState(): boolean {
    return this.loaded.inPlace.size > 0;
  }

  /** Whether the state is that of a step: steps that replace it in place may fail when they have begun to. */
  get isWhole(): boolean {
    return !this.#isLost;
  }

  #demandWhole(): void {
    if (!this.#isLost) return;
    throw new AgdError(
      'bad-state',
      `The trainer's ${LOST}: restore() a checkpoint, or create another trainer.`,
    );
  }

  /** The error of a run that had begun to replace the state. */
  #lost({ code, message, cause }: AgdError): AgdError {
    this.#isLost = true;
    const text = message.replace(` The state is ${LAST_GOOD};`, ` The ${LOST}, but what was saved is not;`);
    return new AgdError(
      code,
      text === message ? `${message} The ${LOST}, but what was saved is not.` : text,
      { cause },
    );
  }

  /** The state of all ranks, for others to keep. */
  #whole(): Feeds {
    this.#demandWhole();
    this.#show();
    if (isDistributed(this.loaded.session) && this.loaded.session.foreign.size && !this.#gathered)
      throw new AgdError(
        'bad-state',
        'Each rank has a part of the state: call settle() on all of them, and save on rank 0.',
      );
    return this.#gathered ?? this.#state;
  }

  /** The state in PyTorch's terms; see `pytorch-state.ts` for the names. */
  checkpoint(): Map<string, Tensor> {
    this.#demandIdle('checkpoint');
    this.#demandHere('checkpoint');
    return toPytorch(this.description, new Map(Object.entries(this.#whole())));
  }

  /**
   * Goes on from a state in PyTorch's terms, in which the optimizer is to have the same options. Returns the names that
   * mean nothing here. Throws `bad-state` where it does not fit the model.
   */
  restore(checkpoint: ReadonlyMap<string, Tensor>): string[] {
    this.#demandIdle('restore');
    if (isDistributed(this.loaded.session) && this.loaded.session.isSharded)
      throw new AgdError(
        'bad-state',
        'A divided optimizer cannot be restored: create the trainer from a saved state.',
      );
    const { state, unused } = fromPytorch(this.description, new Map(Object.entries(this.#state)), checkpoint);
    const before = this.#state;
    this.#state = this.#ownTables(Object.fromEntries(state));
    this.#isLost = false;
    this.loaded.device?.free(before, this.#state);
    this.#local?.restart(this.#state);
    return unused;
  }

  /**
   * Reads back what is on the device alone, so that `state`, `snapshot` and `checkpoint` can be read until the next step. Only
   * WebGPU keeps the state on the device: elsewhere all of it is here.
   */
  async fetchState(): Promise<void> {
    // What was read before the release can be written after it.
    if (this.#isReleased && !Object.keys(onDeviceAlone(this.#state)).length) return;
    await this.#inTurn(() => this.#fetchState());
  }

  async #fetchState(): Promise<void> {
    await this.loaded.device?.fetch(this.#state);
  }

  /**
   * One training step: the loss before the update. `lr` overrides the model's learning rate for this step.
   * Throws as `steps` does.
   */
  async step(batch: Feeds, options: { lr?: number } = {}): Promise<{ loss: number }> {
    const one = Object.entries(asFeeds(batch)).map(([name, t]) => [
      name,
      new Tensor(t.dtype, [1, ...t.dims], t.bytes),
    ]);
    const [loss] = await this.steps(Object.fromEntries(one), options).catch(error => {
      if (!['bad-shape', 'bad-dtype'].includes(error.code)) throw error;
      // Without the axis of steps, which the caller did not give.
      const types = this.inputs.map(
        ({ name, dtype, shape }) => [name, { kind: 'tensor', dtype, shape }] as const,
      );
      throw misfit(new Map(types), asFeeds(batch)) ?? error;
    });
    return { loss: loss! };
  }

  /**
   * As many training steps as the batches' leading axis is long, in one run: the state stays in the runtime
   * between them. Returns each step's loss before its update.
   *
   * Throws `non-finite` where a loss is, unless the model skips such steps, and where an update made part of the state so,
   * telemetry apart. The state is then that of the last step before, those of the same run done again. Throws
   * `missing-data`, `bad-shape` or `bad-dtype` for feeds that do not fit, `bad-data` for what is no tensor and for targets
   * that the loss does not take. Of a step that takes two targets, batches without the second one have the first alone.
   *
   * In a distributed run, the batches are this rank's parts, and no inputs at all where it has no samples in the one step.
   */
  async steps(batches: Feeds, options: { lr?: number } = {}): Promise<number[]> {
    const feeds = this.#checked(batches);
    if (this.collective && !Object.keys(feeds).length)
      return this.#inTurn(() => (this.#local ? this.#localStep({}, options) : this.#steps({}, options)));
    const missing = this.inputs.find(({ name }) => !feeds[name]);
    const few = this.inputs.find(({ name, least = 0 }) => feeds[name] && feeds[name].dims[1]! < least);
    if (few && !(this.collective && this.description.synchronized))
      throw singleValue(this.description.leastBatch!.node);
    if (missing) {
      const given = Object.keys(feeds).map(name => `'${name}'`);
      throw new AgdError(
        'missing-data',
        `No array for input '${missing.name}'; given: ${given.join(', ') || 'nothing'}.`,
      );
    }
    return this.#inTurn(() => {
      const given = this.#withSecondTarget(feeds);
      if (this.#local) return this.#localStep(given, options);
      return this.loaded.device ? this.#stepsOnDevice(given, options) : this.#steps(given, options);
    });
  }

  /**
   * Steps whose state stays on the device, each a run of its own: the runtime's Scan would copy the state at each step. The
   * state that they begin with is kept until that after them is known to be finite.
   */
  async #stepsOnDevice(batches: Feeds, options: { lr?: number }): Promise<number[]> {
    const device = this.loaded.device!;
    const start = this.#state;
    const [losses, infos, telemetry]: [number[], StepInfo[], TelemetryRow[][]] = [[], [], []];
    const count = Object.values(batches)[0]?.dims[0] ?? 1;
    const toStart = (from: Feeds) => {
      this.#state = start;
      device.free(from, start);
    };
    const check = async () => {
      const broken = await device.firstNonFinite(deciding(this.description, this.#state));
      if (!broken) return;
      const error = brokenBy(this.description, this.stepCount, losses.length, broken, this.#state);
      toStart(this.#state);
      if (losses.length > 1) await this.#stepsOnDevice(slice(batches, 0, losses.length - 1), options);
      throw error;
    };
    try {
      while (losses.length < count) {
        const before = this.#state;
        const batch = unstacked(slice(batches, losses.length, losses.length + 1));
        const [loss] = await this.#steps(batch, options).catch(async error => {
          if (error instanceof AgdError && error.code === 'non-finite' && losses.length) await check();
          throw error;
        });
        losses.push(loss!);
        infos.push(...this.#lastSteps);
        telemetry.push(...this.#telemetry);
        if (before !== start) device.free(before, this.#state);
      }
      await check();
    } finally {
      if (this.#state !== start) device.free(start, this.#state);
    }
    this.#lastSteps = infos;
    this.#telemetry = telemetry;
    return losses;
  }

  /** The first target has all of the share where no second one is fed. */
  #withSecondTarget(feeds: Feeds): Feeds {
    const { mix, target } = this.description.loss;
    if (!mix || feeds[mix.target]) return feeds;
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
    const rate = lr === undefined ? this.#defaultLr() : Tensor.filled('float32', [], lr);
    const count = Object.values(batches)[0]?.dims[0] ?? 1;
    if (isDistributed(session) && count > 1) return this.#oneByOne(batches, count, { lr });
    this.#demandWhole();
    const isReplaced = inPlace.size > 0 && this.#state === this.#own;
    const state = { ...inExtents(this.#state, run.hoisted), [description.lr]: rate };
    const looked = await run.rows?.gather(batches, this.#state);
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
      await this.#fetchState();
      const batch = device ? batches : slice(batches, bad, bad + 1);
      throw diverged(description, losses[bad]!, this.stepCount + 1, batch, this.#state);
    }
    const after = record(Object.fromEntries(updates.map(u => [u.state, results[u.value]!])));
    const given = new Map([...run.hoisted.keys()].map(n => [n, this.#state[n]!.dims]));
    const next = inExtents(after, given);
    const here = Object.entries(deciding(description, next)).filter(([, tensor]) => !isOnDevice(tensor));
    const isSummed = sum && Number.isFinite(results[sum.output]!.numbers()[0]);
    const open = isSummed ? here.filter(([name]) => !sum!.states.has(name)) : here;
    const broken = firstNonFinite(Object.fromEntries(open));
    const isBrokenElsewhere =
      isDistributed(session) && session.isSharded && (await anyRank(this.collective!, !!broken)) && !broken;
    if (isBrokenElsewhere)
      throw nonFinite(`The update of step ${this.stepCount + 1} made state of another rank non-finite`);
    if (broken && isReplaced)
      throw this.#lost(
        nonFinite(`The update of step ${this.stepCount + losses.length} made '${broken}' non-finite`),
      );
    if (broken) {
      discard();
      if (losses.length > 1) await this.#steps(slice(batches, 0, losses.length - 1), { lr });
      throw brokenBy(description, this.stepCount + 1, losses.length, broken, next);
    }
    const { tables } = run;
    try {
      checkScale(description, next);
      if (tables.length)
        Object.assign(next, (await import('./put-rows.js')).putRows(tables, updates, this.#state, results));
    } catch (error) {
      discard();
      throw error;
    }
    const before = this.#results.counts(this.#state);
    this.#gathered = undefined;
    this.#spare = this.#state === this.#own ? this.#own : undefined;
    this.#state = next;
    if (unread !== undefined) this.#own = next;
    // Frees what the first run began with before the second one allocates its outputs.
    if (!this.#hasRun) freeMemory();
    this.#hasRun = true;
    const read = this.#results;
    this.#telemetry = read.telemetry(feeds, next, results);
    const found = { state: next, results, telemetry: this.#telemetry };
    this.#lastSteps = await read.steps(losses.length, before, rate.numbers()[0]!, found);
    return losses;
  }

  /**
   * The outputs of a run of `count` steps. The state is in the arrays of the one before where steps replace it, and in those of
   * that before the last run where they are free. What a caller has seen is in neither.
   */
  async #runInto(session: Session, given: Feeds, count: number, unread: string): Promise<Feeds> {
    const { description } = this;
    const { updates, run, inPlace, sum } = this.loaded;
    const isOwn = this.#state === this.#own;
    const feeds = { ...given };
    const states = updates.map(({ state, value }) => {
      const { dtype, dims } = feeds[state]!;
      if (inPlace.has(state) && (isOwn || this.#state[state]!.isFresh)) {
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
    this.#isReplacing = isOwn && inPlace.size > 0;
    try {
      await session.runInto(feeds, outputs, unread, value);
    } catch (error) {
      const known = writtenLosses(losses);
      // Before that step, nothing was replaced.
      if (inPlace.size && known.some(loss => !Number.isFinite(loss))) return outputs;
      if (inPlace.size && isOwn && known.length === count) throw this.#lost(error as AgdError);
      throw error;
    } finally {
      this.#isReplacing = false;
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
        this.#meet(await this.#local!.fail(this.#state, error));
        throw error;
      });
      losses.push(loss!);
      this.#meet(await this.#local!.after(this.#state, first?.dims[1] ?? 0));
    }
    return losses;
  }

  /** Goes on from the state in which ranks met. Throws what ended the run of one of them. */
  #meet(state: Feeds): void {
    if (state !== this.#state) this.#state = this.#ownTables(state);
    if (this.#local!.failure) throw this.#local!.failure;
  }

  /** Ranks exchange gradients between two steps. */
  async #oneByOne(batches: Feeds, count: number, options: { lr?: number }): Promise<number[]> {
    const losses: number[] = [];
    const [telemetry, steps]: [TelemetryRow[][], StepInfo[]] = [[], []];
    for (let i = 0; i < count; i++) {
      losses.push(...(await this.#steps(slice(batches, i, i + 1), options)));
      telemetry.push(...this.#telemetry);
      steps.push(...this.#lastSteps);
    }
    [this.#telemetry, this.#lastSteps] = [telemetry, steps];
    return losses;
  }

  /**
   * Mean loss and metrics over the samples, in inference form: no dropout, running statistics. Where targets are
   * ignored or weigh differently, the loss is the mean over all of them, as if they were one batch. Throws as `steps` does,
   * `bad-data` where nothing counts, and `bad-option` for metrics that are unknown or do not apply to the loss.
   */
  evaluate(
    batches: Iterable<Batch> | AsyncIterable<Batch>,
    options: EvaluateOptions = {},
  ): Promise<Evaluation> {
    return this.#inTurn(async () =>
      evaluateBatches(
        batches,
        this.description.loss,
        options,
        given => this.#evaluatorFor(given),
        await readRecipe(this.model),
      ),
    );
  }

  async #evaluatorFor(given: Feeds) {
    const inputs = this.#checked(given);
    this.#demandWhole();
    return this.#inference.evaluator(this.model, this.#state, inputs);
  }

  /**
   * What the model makes of the samples of each batch with the parameters of that moment, in inference form: of the output
   * that it trains on, or of all outputs where it computes its loss itself. Batches need no target.
   */
  async *predict(batches: Iterable<Batch> | AsyncIterable<Batch>): AsyncGenerator<Prediction> {
    const { loss, outputs } = this.description;
    const names = loss.kind === 'output' ? outputs : [loss.output];
    const spec = taskOf(loss);
    const recipe = await readRecipe(this.model);
    const run = (given: Feeds) => this.#inTurn(async () => this.#predict(names, given));
    yield* predictions(batches, {
      names,
      spec: spec?.task === 'values' ? undefined : spec,
      classes: recipe && classNames(recipe),
      run,
    });
  }

  #predict(names: readonly string[], given: Feeds): Promise<Feeds> {
    this.#demandWhole();
    return this.#inference.predict(this.model, this.#state, names, given);
  }

  /** Frees the runtime's memory, after the steps under way; the trainer cannot be used after it. */
  async release(): Promise<void> {
    if (this.#isReleased) return;
    await this.#inTurn(async () => {
      this.#isReleased = true;
      await this.loaded.session.release();
      await this.loaded.run.rows?.release();
      await this.#inference.release();
      await this.#results.release();
      this.loaded.device?.free(this.#state);
      await this.loaded.device?.release();
    });
  }

  /** One thing at a time: each step begins from the state that the one before it left. */
  #inTurn<T>(work: () => Promise<T>): Promise<T> {
    const run = this.#last.then(async () => {
      try {
        if (this.#isReleased)
          throw new AgdError('bad-state', 'The trainer was released: create another one.');
        return await work();
      } finally {
        // Before the caller's await returns, which may ask for the state at once.
        this.#pending--;
      }
    });
    this.#pending++;
    this.#last = run.catch(() => {});
    return run;
  }

  #demandIdle(what: string): void {
    if (this.#pending) throw underWay(`${what}()`);
  }

  #demandHere(what: string): void {
    if (!Object.keys(onDeviceAlone(this.#state)).length) return;
    throw new AgdError('bad-state', `The state is on the device: await fetchState() before ${what}().`);
  }

  /** What a caller feeds, as tensors, with targets that the loss takes. */
  #checked(given: Feeds): Feeds {
    const feeds = asFeeds(given);
    for (const input of this.inputs) {
      const tensor = feeds[input.name];
      if (tensor && input.range) checkRange(input, tensor);
    }
    return feeds;
  }

  /** With copies of the tables that change in place. */
  #ownTables(state: Feeds): Feeds {
    return withOwnTables(this.loaded.run.tables, state);
  }

  /** The model's own learning rate, before its schedule. */
  get lr(): number {
    return this.#defaultLr().numbers()[0]!;
  }

  #defaultLr(): Tensor {
    for (const [value, tensor] of this.model.graph.initializers)
      if (value.name === this.description.lr) return tensor;
    throw new AgdError('invalid-model', `The model lacks its learning rate '${this.description.lr}'.`);
  }
}

const underWay = (before: string) =>
  new AgdError('bad-state', `A step is running: await it before ${before}.`);
