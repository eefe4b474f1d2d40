import { withInitializers } from '../../graph/clone.js';
import { AgdError } from '../../graph/errors.js';
import { allGraphs, type Model, type Node, type Value } from '../../graph/ir.js';
import { record } from '../../graph/record.js';
import { Tensor } from '../../graph/tensor.js';
import { providerOf } from '../../ops/core/provider.js';
import type { PlannedSchedule } from '../../ops/schedules.js';
import { trainingPart } from '../../passes/common/part-of-model.js';
import { rangesOfTargets } from '../../passes/differentiate/attach-loss.js';
import { singleValue } from '../../passes/differentiate/train-batch-norm.js';
import { skipsLosses, type TrainingDescription } from '../../passes/file/description.js';
import { outerMomentumOf, withOuterMomentum } from '../../passes/file/outer-momentum.js';
import { readStep } from '../../passes/file/step-metadata.js';
import { inferShapes } from '../../passes/normalize/infer-shapes.js';
import { readsLastToken } from '../../passes/normalize/keep-all-positions.js';
import type { Device, Fed, LeastBatch } from '../../passes/options.js';
import { readQuantizers } from '../../passes/quantize/quantization-record.js';
import { readRecipe } from '../../passes/recipe/read-recipe.js';
import { classNames, type Recipe, withRecipe } from '../../passes/recipe/recipe.js';
import {
  type EvaluationModel,
  evaluationModel,
  injectedPredictionModel,
} from '../../passes/run/evaluation-model.js';
import type { RunTable } from '../../passes/run/merge-tables.js';
import { rowNumbers } from '../../passes/run/row-numbers.js';
import { type ScannedSteps, scanSteps } from '../../passes/run/scan-steps.js';
import { scheduleFactors } from '../../passes/run/schedule-factors.js';
import { stateInputs } from '../../passes/run/state-inputs.js';
import type { StateSum } from '../../passes/run/state-sum.js';
import { withUnreadOutput } from '../../passes/run/unread-output.js';
import { anyRank, type Collective } from '../collective/collective.js';
import { isWasm, layOut, shortenSteps } from '../cpu.js';
import type { InputSpec } from '../data/bind.js';
import type { Batch } from '../data/dataset.js';
import { checkRange } from '../data/targets.js';
import { withDevice } from '../devices/choose.js';
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
  Session,
  type SessionOptions,
  sessionShapes,
  shapesIn,
} from '../session.js';
import type { DeviceState } from './device-state.js';
import type { DistributedOptions, DistributedStep } from './distributed-step.js';
import type { Evaluation, TelemetryRow } from './events.js';
import { firstNonFinite, LAST_GOOD, LOST } from './finite.js';
import {
  aligned,
  canWriteInto,
  emptied,
  type InPlaceOptions,
  replacedStates,
  unwritten,
  writtenLosses,
} from './in-place.js';
import type { LocalOptions, LocalSteps } from './local-steps.js';
import type { LookedUpRows } from './looked-up-rows.js';

/**
 * `gradNorm` is that of an update's gradients before clipping, where the step clips their norm; else what telemetry tells.
 * `lossScale` is that after the step, `skipped` the number of batches skipped so far, if the step has them.
 */
export type StepInfo = { lr: number; gradNorm?: number; lossScale?: number; skipped?: number };

/**
 * Runs the training step of an injected model. It owns the state between steps: parameters, optimizer state,
 * running statistics and step counter, by their names in the graph. Release it when done.
 *
 * Steps, evaluations and the release that are asked for while another is under way wait for it, in the order of the
 * calls; what reads or replaces the state as a whole throws `bad-state` meanwhile.
 */
export class Trainer {
  #state: Feeds = {};
  #evaluator: { session: Session; samples: EvaluationModel['samples'] } | undefined;
  #predictor: Session | undefined;
  #telemetry: TelemetryRow[][] = [];
  #inputs: InputSpec[] | undefined;
  #lastSteps: StepInfo[] = [];
  #schedule: Session | undefined;
  /** Where the state stays on the device between runs. */
  #device: DeviceState | undefined;
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

  private constructor(
    private model: Model,
    readonly description: TrainingDescription,
    private readonly session: Session | DistributedStep,
    private readonly fed: readonly InputSpec[],
    private readonly updates: readonly { state: string; value: string }[],
    private readonly options: TrainerOptions,
    private readonly run: Omit<ScannedSteps, 'model'> & { tables: readonly RunTable[]; rows?: LookedUpRows },
    private readonly unread?: string,
    /** States whose next value a run may write over the one before. */
    private readonly inPlace: ReadonlySet<string> = new Set(),
    private readonly sum?: StateSum,
  ) {
    this.#state = this.#withOwnTables(statesOf(model, updates));
  }

  /**
   * Loads an injected model into the runtime. With a collective, each rank feeds its part of a batch, and all get the state of
   * rank 0: see `DistributedStep`; ranks call `create`, `step`, `steps`, `settle` and `release` together. Throws `invalid-model`
   * where the model was not injected, `device` where the execution provider is not there.
   */
  static async create(source: Model, where: TrainerOptions = {}): Promise<Trainer> {
    const momentum = outerMomentumOf(source);
    const model = withOuterMomentum(source, new Map());
    const given = await withDevice(where);
    // A step computes what its gradients are of, which integer kernels would round once more.
    const isRounded = [...allGraphs(model.graph)].some(({ nodes }) =>
      nodes.some(node => node.opType === 'QuantizeLinear'),
    );
    const options = isRounded || readQuantizers(model).length ? { ...given, integerKernels: false } : given;
    const description = readStep(model);
    checkDistributed(options, description);
    const updates = model.trainingInfo.flatMap(info => info.updates);
    // A Scan needs something to scan: a model without data runs step by step.
    const { collective, syncEvery } = options;
    const part = trainingPart(
      collective
        ? (await import('./distributed-step.js')).withStreamOf(collective, model, description)
        : model,
    );
    const hasTables = description.parameters.some(({ rows }) => rows !== undefined);
    await typeValues(part, hasTables);
    const data = dataInputs(part, description);
    const { mix } = description.loss;
    const own = data.filter(v => v.name !== mix?.target && v.name !== mix?.share);
    const fed = inputSpecs({ graph: part.graph, inputs: own, leastBatch: description.leastBatch });
    if (description.synchronized && collective && syncEvery !== undefined)
      throw new AgdError(
        'bad-option',
        '--sync-batch-norm cannot be combined with --sync-every, with which ranks exchange nothing in most steps.',
      );
    if (collective && syncEvery === undefined) {
      const { DistributedStep } = await import('./distributed-step.js');
      const step = await DistributedStep.create(model, { ...options, collective });
      const run = { tables: step.tables, hoisted: new Map(), stacked: new Map() };
      const { foreign } = step;
      const own = updates.filter(u => !foreign.has(u.state));
      const trainer = new Trainer(model, description, step, fed, own, options, run);
      const initial = await sameState(collective, statesOf(model, updates));
      trainer.#state = record(
        Object.fromEntries(Object.entries(initial).filter(([name]) => !foreign.has(name))),
      );
      freeMemory();
      return trainer;
    }
    const onDevice = staysOnDevice(options);
    const { device = 'cpu' } = options;
    if (device === 'cpu' && !isWasm) (await import('../tiles.js')).fitTiles(part, options);
    const { model: steps, ...run } =
      !data.length || onDevice
        ? { model: part, tables: [], hoisted: new Map(), stacked: new Map() }
        : hasTables
          ? await (await import('./looked-up-rows.js')).LookedUpRows.of(part, updates, options)
          : { ...scanSteps(part), tables: [] };
    const ready = steps === part ? part : await layOut(steps, options);
    const stay = onDevice ? statesToStay(part, description, updates) : [];
    const isInto =
      steps !== part &&
      !run.tables.length &&
      !collective &&
      device === 'cpu' &&
      (await canWriteInto(model, statesOf(model, updates)));
    const inPlace = isInto ? await replacedStates(ready, statesOf(model, updates), options) : undefined;
    if (steps !== part) await shortenSteps(ready, options);
    const plain = stateInputs(ready, updates);
    const { model: summed, sum } = isInto
      ? (await import('../../passes/run/state-sum.js')).withStateSum(plain, updates, {
          inSteps: !!inPlace?.size,
        })
      : { model: plain, sum: undefined };
    const { model: whole, unread } = isInto ? withUnreadOutput(summed) : { model: plain, unread: undefined };
    const session = await Session.create(whole, { ...options, stay });
    freeMemory();
    const trainer = new Trainer(
      model,
      description,
      session,
      fed,
      updates,
      options,
      run,
      unread,
      inPlace,
      sum,
    );
    if (onDevice) trainer.#device = new (await import('./device-state.js')).DeviceState(options);
    if (collective) {
      trainer.#state = trainer.#withOwnTables(await sameState(collective, trainer.#state));
      const { LocalSteps } = await import('./local-steps.js');
      trainer.#local = new LocalSteps(
        collective,
        description,
        { ...options, syncEvery: syncEvery! },
        trainer.#state,
        momentum,
      );
    }
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
    const { session, description, state } = this;
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
    return this.fed.map(input => {
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
    return this.#counter(this.description.step);
  }

  /** Batches seen so far: those that were accumulated, and those skipped, count too. */
  get batchCount(): number {
    const { accumulation } = this.description;
    const { batches, counter } = accumulation ?? { batches: 1, counter: undefined };
    return this.stepCount * batches + this.#counter(counter) + this.skippedCount;
  }

  /** Batches whose gradients were not finite, and which changed nothing. */
  get skippedCount(): number {
    return this.#counter(this.description.skipped);
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
    if (isDistributed(this.session) && this.session.isUnsettled)
      throw new AgdError(
        'bad-state',
        'The ranks have gradients that are not in the state yet: call settle() on all of them.',
      );
    this.#demandHere('snapshot');
    if (this.#local && !this.#local.isSettled)
      throw new AgdError('bad-state', 'The ranks have different states: call settle() on all of them.');
    const state = this.#withOwnTables(this.#whole());
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
      if (isDistributed(this.session)) {
        this.#state = await this.session.settle(this.#state);
        if (this.session.isSharded) {
          const types = statesOf(
            this.model,
            this.model.trainingInfo.flatMap(info => info.updates),
          );
          const all = await this.session.gather(this.#state, types, wholeOn);
          if (wholeOn === 'all' || this.collective!.rank === 0) this.#gathered = all;
        }
      }
      if (this.#local && !this.#local.isSettled) this.#meet(await this.#local.settle(this.#state));
    });
  }

  /** Whether runs write the state into arrays that are there, so that starting one takes no time for the state. */
  get writesInPlace(): boolean {
    return this.unread !== undefined;
  }

  /** Whether steps write the next state over the one before, so that it is in memory once in runs of one step. */
  get replacesState(): boolean {
    return this.inPlace.size > 0;
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
    if (isDistributed(this.session) && this.session.foreign.size && !this.#gathered)
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
    if (isDistributed(this.session) && this.session.isSharded)
      throw new AgdError(
        'bad-state',
        'A divided optimizer cannot be restored: create the trainer from a saved state.',
      );
    const { state, unused } = fromPytorch(this.description, new Map(Object.entries(this.#state)), checkpoint);
    const before = this.#state;
    this.#state = this.#withOwnTables(Object.fromEntries(state));
    this.#isLost = false;
    this.#device?.free(before, this.#state);
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
    await this.#device?.fetch(this.#state);
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
        `Input '${missing.name}' is fed nothing; given: ${given.join(', ') || 'nothing'}.`,
      );
    }
    return this.#inTurn(() => {
      const given = this.#withSecondTarget(feeds);
      if (this.#local) return this.#localStep(given, options);
      return this.#device ? this.#stepsOnDevice(given, options) : this.#steps(given, options);
    });
  }

  /**
   * Steps whose state stays on the device, each a run of its own: the runtime's Scan would copy the state at each step. The
   * state that they begin with is kept until that after them is known to be finite.
   */
  async #stepsOnDevice(batches: Feeds, options: { lr?: number }): Promise<number[]> {
    const device = this.#device!;
    const start = this.#state;
    const [losses, infos, telemetry]: [number[], StepInfo[], TelemetryRow[][]] = [[], [], []];
    const count = Object.values(batches)[0]?.dims[0] ?? 1;
    const toStart = (from: Feeds) => {
      this.#state = start;
      device.free(from, start);
    };
    const check = async () => {
      const broken = await device.firstNonFinite(this.#deciding(this.#state));
      if (!broken) return;
      const error = this.#brokenBy(this.stepCount, broken, this.#state[broken]!, losses.length);
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
    const { description, updates } = this;
    const rate = lr === undefined ? this.#defaultLr() : Tensor.filled('float32', [], lr);
    const count = Object.values(batches)[0]?.dims[0] ?? 1;
    if (isDistributed(this.session) && count > 1) return this.#oneByOne(batches, count, { lr });
    this.#demandWhole();
    const isReplaced = this.inPlace.size > 0 && this.#state === this.#own;
    const state = { ...inExtents(this.#state, this.run.hoisted), [description.lr]: rate };
    const looked = await this.run.rows?.gather(batches, this.#state);
    const feeds = { ...batches, ...state, ...looked?.feeds };
    const shown = this.run.stacked.values();
    const wanted = [description.loss.name, ...(looked?.outputs ?? updates.map(u => u.value)), ...shown];
    const results = isDistributed(this.session)
      ? await this.session.run(unstacked(batches), state)
      : this.unread === undefined
        ? await this.session.run(feeds, wanted)
        : await this.#runInto(this.session, feeds, count, this.unread);
    if (looked) Object.assign(results, looked.divide(results));
    const discard = () => freeOnDevice(Object.values(results));
    const losses = results[description.loss.name]!.numbers();
    const bad = skipsLosses(description) ? -1 : losses.findIndex(loss => !Number.isFinite(loss));
    if (bad > 0) await this.#steps(slice(batches, 0, bad), { lr });
    if (bad >= 0) {
      discard();
      await this.#fetchState();
      throw this.#diverged(losses[bad]!, this.#device ? batches : slice(batches, bad, bad + 1));
    }
    const after = record(Object.fromEntries(updates.map(u => [u.state, results[u.value]!])));
    const given = new Map([...this.run.hoisted.keys()].map(n => [n, this.#state[n]!.dims]));
    const next = inExtents(after, given);
    const here = Object.entries(this.#deciding(next)).filter(([, tensor]) => !isOnDevice(tensor));
    const isSummed = this.sum && Number.isFinite(results[this.sum.output]!.numbers()[0]);
    const open = isSummed ? here.filter(([name]) => !this.sum!.states.has(name)) : here;
    const broken = firstNonFinite(Object.fromEntries(open));
    const isBrokenElsewhere =
      isDistributed(this.session) &&
      this.session.isSharded &&
      (await anyRank(this.collective!, !!broken)) &&
      !broken;
    if (isBrokenElsewhere)
      throw nonFinite(`The update of step ${this.stepCount + 1} made state of another rank non-finite`);
    if (broken && isReplaced)
      throw this.#lost(
        nonFinite(`The update of step ${this.stepCount + losses.length} made '${broken}' non-finite`),
      );
    if (broken) {
      discard();
      if (losses.length > 1) await this.#steps(slice(batches, 0, losses.length - 1), { lr });
      throw this.#brokenBy(this.stepCount + 1, broken, next[broken]!, losses.length);
    }
    const { tables } = this.run;
    try {
      this.#checkScale(next);
      if (tables.length)
        Object.assign(
          next,
          (await import('./put-rows.js')).putRows(tables, this.updates, this.#state, results),
        );
    } catch (error) {
      discard();
      throw error;
    }
    const before = this.#counts();
    this.#gathered = undefined;
    this.#spare = this.#state === this.#own ? this.#own : undefined;
    this.#state = next;
    if (this.unread !== undefined) this.#own = next;
    // Frees what the first run began with before the second one allocates its outputs.
    if (!this.#hasRun) freeMemory();
    this.#hasRun = true;
    this.#telemetry = this.#readTelemetry(feeds, results);
    this.#lastSteps = await this.#describeSteps(losses, before, rate.numbers()[0]!, results);
    return losses;
  }

  /**
   * The outputs of a run of `count` steps. The state is in the arrays of the one before where steps replace it, and in those of
   * that before the last run where they are free. What a caller has seen is in neither.
   */
  async #runInto(session: Session, given: Feeds, count: number, unread: string): Promise<Feeds> {
    const { description, updates, run, inPlace } = this;
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
    const sums = this.sum ? [[this.sum.output, emptied('float32', [])] as const] : [];
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
    if (state !== this.#state) this.#state = this.#withOwnTables(state);
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

  /** The error for an update, the last of so many, that made part of the state non-finite. */
  #brokenBy(step: number, name: string, value: Tensor, steps: number): AgdError {
    const { statistics } = this.description;
    if (steps === 1 && statistics.includes(name) && value.numbers().every(Number.isNaN))
      return singleValue(`the batch normalization of '${name}'`);
    return nonFinite(`The update of step ${step} made '${name}' non-finite`);
  }

  /** Throws `non-finite` where gradients overflow whatever the loss scale is. */
  #checkScale(next: Feeds): void {
    const { scaling } = this.description;
    const scale = scaling?.stops ? next[scaling.scale]!.numbers()[0]! : 1;
    if (scale < LEAST_SCALE)
      throw nonFinite(`Gradients overflow float16 at any loss scale, down to ${scale}`, WIDER);
  }

  #counts(): { updates: number; batches: number; skipped: number } {
    const { accumulation, step } = this.description;
    return {
      updates: this.#counter(step),
      batches: this.#counter(accumulation?.counter),
      skipped: this.skippedCount,
    };
  }

  /** What is known of steps that began `before`. */
  async #describeSteps(
    losses: readonly number[],
    before: { updates: number; batches: number; skipped: number },
    lr: number,
    results: Feeds,
  ): Promise<StepInfo[]> {
    const { accumulation, schedule, gradNorm, skipped, scaling } = this.description;
    const afterEach = (state: string | undefined) =>
      state === undefined
        ? undefined
        : (results[this.run.stacked.get(state) ?? ''] ?? this.#state[state]!).numbers();
    const perUpdate = accumulation?.batches ?? 1;
    let batches = before.batches;
    const [counts, scales] = [afterEach(skipped), afterEach(scaling?.scale)];
    const updates = losses.map((_, i) => {
      const update = before.updates + Math.floor(batches / perUpdate);
      const isSkipped = counts !== undefined && counts[i]! > (counts[i - 1] ?? before.skipped);
      if (!isSkipped) batches++;
      return { update, isDone: !isSkipped && batches % perUpdate === 0 };
    });
    const factors =
      schedule &&
      (await this.#factors(
        schedule,
        updates.map(u => u.update),
      ));
    const clipped = afterEach(gradNorm);
    const observed = new Map(
      this.#telemetry.map(rows => [rows[0]!.values.update, rows.map(r => r.values.grad_norm!)]),
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

  /** The schedule's factors on the learning rate, after so many updates each. */
  async #factors(schedule: PlannedSchedule, done: readonly number[]): Promise<number[]> {
    this.#schedule ??= await Session.create(scheduleFactors(schedule), { threads: 1 });
    const { factor } = await this.#schedule.run({
      done: Tensor.from('float64', [done.length], Float64Array.from(done)),
    });
    return factor!.numbers();
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
    this.#evaluator ??= await this.#createEvaluator(inputs);
    const { session, samples } = this.#evaluator;
    const state = this.#learned(session);
    return {
      samples,
      inputs,
      run: (fetch: readonly string[]) => session.run({ ...state, ...inputs }, fetch),
    };
  }

  async #createEvaluator(batch: Feeds) {
    const oracle = shapesIn(() => batch);
    const { model, samples } = await evaluationModel(this.model, oracle, providerOf(this.device));
    return { session: await Session.create(await layOut(model, this.options), this.options), samples };
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
    const run = (given: Feeds) => this.#inTurn(() => this.#predict(names, given));
    yield* predictions(batches, {
      names,
      spec: spec?.task === 'values' ? undefined : spec,
      classes: recipe && classNames(recipe),
      run,
    });
  }

  async #predict(names: readonly string[], given: Feeds): Promise<Feeds> {
    const all = asFeeds(given);
    this.#predictor ??= await this.#createPredictor(names, all);
    const session = this.#predictor;
    const inputs = Object.fromEntries(Object.entries(all).filter(([name]) => session.inputs.includes(name)));
    return session.run({ ...this.#learned(session), ...inputs }, names);
  }

  async #createPredictor(names: readonly string[], batch: Feeds): Promise<Session> {
    const model = await injectedPredictionModel(
      this.model,
      names,
      shapesIn(() => batch),
      providerOf(this.device),
    );
    return Session.create(await layOut(model, this.options), this.options);
  }

  /** The parameters and running statistics that a session takes. */
  #learned(session: Session): Feeds {
    this.#demandWhole();
    const { parameters, statistics } = this.description;
    const names = [...parameters.map(p => p.name), ...statistics].filter(n => session.inputs.includes(n));
    return Object.fromEntries(names.map(name => [name, this.#state[name]!]));
  }

  /** Frees the runtime's memory, after the steps under way; the trainer cannot be used after it. */
  async release(): Promise<void> {
    if (this.#isReleased) return;
    await this.#inTurn(async () => {
      this.#isReleased = true;
      await this.session.release();
      await this.run.rows?.release();
      await this.#evaluator?.session.release();
      await this.#predictor?.release();
      await this.#schedule?.release();
      this.#device?.free(this.#state);
      await this.#device?.release();
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
  #withOwnTables(state: Feeds): Feeds {
    const names = this.run.tables.flatMap(table => table.states);
    const own = names.map(name => {
      const { dtype, dims, bytes } = state[name]!;
      return [name, new Tensor(dtype, dims, bytes.slice())] as const;
    });
    return record({ ...state, ...Object.fromEntries(own) });
  }

  /** A table that did not change since the step before shows nothing new. */
  #readTelemetry(feeds: Feeds, results: Feeds): TelemetryRow[][] {
    const { telemetry, parameters } = this.description;
    if (!telemetry) return [];
    const { name, columns } = telemetry;
    const after = results[this.run.stacked.get(name) ?? ''] ?? this.#state[name]!;
    const values = after.numbers();
    const size = parameters.length * columns.length;
    let [last] = feeds[name]!.numbers();
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

  #counter(name: string | undefined): number {
    return name === undefined ? 0 : this.#state[name]!.numbers()[0]!;
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

  /** All that the next step depends on: what only shows may be more than its element type holds. */
  #deciding(state: Feeds): Feeds {
    const shown = [this.description.telemetry?.name, this.description.gradNorm];
    return Object.fromEntries(Object.entries(state).filter(([name]) => !shown.includes(name)));
  }

  /** The cause of a loss that is not finite: the data, what the run began with, or the step's own arithmetic. */
  #diverged(loss: number, batch: Feeds): AgdError {
    const at = `is ${loss} at step ${this.stepCount + 1}`;
    const input = firstNonFinite(batch);
    if (input) return nonFinite(`Loss ${at}: the data for '${input}' are not finite`);
    const { loss: spec } = this.description;
    const ignored = 'ignoreIndex' in spec ? spec.ignoreIndex : undefined;
    if (ignored !== undefined && batch[spec.target!]!.numbers().every(label => label === ignored))
      return new AgdError(
        'non-finite',
        `Loss ${at}: all targets of the batch are ${ignored}, which is ignored. Use larger batches, or leave out such ` +
          'batches with --on-nonfinite skip.',
      );
    const state = firstNonFinite(this.#deciding(this.#state));
    if (state) return nonFinite(`Loss ${at}: '${state}' is not finite`);
    const isHalf = this.description.precision === 'fp16';
    const advice = isHalf ? `try a smaller --lr, or a wider type: --precision bf16 or fp32` : undefined;
    return nonFinite(`Loss '${this.description.loss.name}' ${at}`, advice);
  }
}

const underWay = (before: string) =>
  new AgdError('bad-state', `A step is running: await it before ${before}.`);

/** The values that a model has of its states. */
function statesOf({ graph }: Model, updates: readonly { state: string }[]): Feeds {
  const names = new Set(updates.map(u => u.state));
  const states = [...graph.initializers].map(([value, tensor]) => [value.name, tensor] as const);
  return Object.fromEntries(states.filter(([name]) => names.has(name)));
}

/** What a trainer runs on. */
export type TrainerOptions = SessionOptions &
  InPlaceOptions &
  Partial<Pick<DistributedOptions, 'collective' | 'compress' | 'shardOptimizer'> & LocalOptions>;

/** Throws `bad-option` for ways of distributing that exclude each other. */
function checkDistributed(
  { collective, syncEvery, shardOptimizer, compress, outerLr, outerMomentum }: TrainerOptions,
  { stateBits }: TrainingDescription,
): void {
  const given = Object.entries({ syncEvery, shardOptimizer, compress }).find(([, value]) => value);
  if (given && !collective)
    throw new AgdError('bad-option', `${given[0]} is for distributed training: give a collective.`);
  if (syncEvery !== undefined && !(Number.isSafeInteger(syncEvery) && syncEvery > 0))
    throw new AgdError('bad-option', `syncEvery must be a whole number of at least 1, not ${syncEvery}.`);
  // The codes of a quantized state have no mean.
  const rival = Object.entries({ shardOptimizer, compress, stateBits }).find(([, value]) => value)?.[0];
  if (syncEvery !== undefined && rival)
    throw new AgdError('bad-option', `syncEvery cannot be combined with ${rival}.`);
  if (syncEvery === undefined && (outerLr !== undefined || outerMomentum !== undefined))
    throw new AgdError('bad-option', 'outerLr and outerMomentum need syncEvery.');
}

/** The state of rank 0, on all ranks. */
async function sameState(collective: Collective, state: Feeds): Promise<Feeds> {
  const entries: [string, Tensor][] = [];
  for (const [name, { dtype, dims, bytes }] of Object.entries(state)) {
    const own = bytes.slice();
    await collective.broadcast(own);
    entries.push([name, new Tensor(dtype, dims, own)]);
  }
  return record(Object.fromEntries(entries));
}

/** The one batch without the axis of steps. */
function unstacked(batches: Feeds): Feeds {
  const entries = Object.entries(batches).map(([name, t]) => [
    name,
    new Tensor(t.dtype, t.dims.slice(1), t.bytes),
  ]);
  return record(Object.fromEntries(entries));
}

/** Elsewhere each output of a run comes back. */
const staysOnDevice = ({ device, collective }: TrainerOptions) =>
  !collective && providerOf(device) === 'webgpu';

/** The outputs that stay: those of states of numbers. Counters, and what a step shows, are read after each. */
function statesToStay(
  { graph }: Model,
  { step, skipped, accumulation, scaling, telemetry, gradNorm }: TrainingDescription,
  updates: readonly { state: string; value: string }[],
): string[] {
  const read = [step, skipped, accumulation?.counter, scaling?.scale, telemetry?.name, gradNorm];
  const types = new Map(graph.inputs.map(v => [v.name, v.dtype]));
  const stays = (state: string) =>
    !read.includes(state) && ['float32', 'float16'].includes(types.get(state) ?? '');
  return updates.filter(u => stays(u.state)).map(u => u.value);
}

/** Tensors with other extents, where `extents` has any for them. */
function inExtents(tensors: Feeds, extents: ReadonlyMap<string, readonly number[]>): Feeds {
  const found = record(tensors);
  for (const [name, dims] of extents) {
    const { dtype, bytes } = found[name]!;
    found[name] = new Tensor(dtype, dims, bytes);
  }
  return found;
}

/**
 * How a step is laid out for a processor follows from types, of which a file has few. Without them a resumed run would be
 * slower, and round otherwise than one that was not stopped. Of tables, a run has fewer rows than the types say: with them, only
 * convolutions are worth it.
 */
async function typeValues(part: Model, hasTables: boolean): Promise<void> {
  const isTyped = ({ inputs, outputs }: Node) => [...inputs, ...outputs].every(value => !value || value.type);
  const nodes = part.graph.nodes.filter(node => node.opType === 'Conv' || !hasTables);
  if (!nodes.every(isTyped)) await inferShapes(part, sessionShapes);
}

/** Steps `from` up to, not including, `to` of batches with a leading axis of steps. */
function slice(batches: Feeds, from: number, to: number): Feeds {
  const cut = Object.entries(batches).map(([name, { dtype, dims, bytes }]) => {
    const size = bytes.length / dims[0]!;
    return [name, new Tensor(dtype, [to - from, ...dims.slice(1)], bytes.subarray(from * size, to * size))];
  });
  return record(Object.fromEntries(cut));
}

/** With scales below it, gradients that float16 holds would round to zero: the overflow is not one of the scale. */
const LEAST_SCALE = 2 ** -24;
const WIDER = 'try --precision bf16 or fp32';

function nonFinite(what: string, advice = 'try a smaller --lr'): AgdError {
  return new AgdError('non-finite', `${what}. The state is ${LAST_GOOD}; ${advice}.`);
}

/** The inputs that a caller feeds at every step: neither state nor learning rate nor other defaults. */
function dataInputs({ graph }: Model, { lr }: TrainingDescription): Value[] {
  return graph.inputs.filter(v => v.name !== lr && !graph.initializers.has(v));
}

/** What arrays have to be to feed these inputs of a graph. Throws `unsupported-type`. */
export function inputSpecs({ graph, inputs, leastBatch }: Fed): InputSpec[] {
  const rows = rowNumbers(graph, inputs);
  return inputs.map(value => {
    const spec = inputSpec(value, leastBatch);
    return rows.has(value) ? { ...spec, numbersRows: true } : spec;
  });
}

function inputSpec(value: Value, leastBatch?: LeastBatch): InputSpec {
  if (value.type?.kind !== 'tensor')
    throw new AgdError(
      'unsupported-type',
      `Input '${value.name}' is not a tensor; it cannot be fed from arrays.`,
    );
  const { dtype, shape } = value.type;
  const isBatched = leastBatch !== undefined && shape?.[0] === leastBatch.axis;
  return { name: value.name, dtype, shape, ...(isBatched ? { least: leastBatch.samples } : {}) };
}

const isDistributed = (session: Session | DistributedStep): session is DistributedStep =>
  !(session instanceof Session);
