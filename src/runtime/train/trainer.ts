import { withInitializers } from '../../graph/clone.js';
import { AgdError } from '../../graph/errors.js';
import type { Model } from '../../graph/ir.js';
import { Tensor } from '../../graph/tensor.js';
import { rangesOfTargets } from '../../passes/differentiate/attach-loss.js';
import { singleValue } from '../../passes/differentiate/train-batch-norm.js';
import type { TrainingDescription } from '../../passes/file/description.js';
import { outerMomentumOf, withOuterMomentum } from '../../passes/file/outer-momentum.js';
import { readStep } from '../../passes/file/step-metadata.js';
import { readsLastToken } from '../../passes/normalize/keep-all-positions.js';
import type { Device } from '../../passes/options.js';
import { readRecipe } from '../../passes/recipe/read-recipe.js';
import { classNames, type Recipe, withRecipe } from '../../passes/recipe/recipe.js';
import type { Collective } from '../collective/collective.js';
import type { InputSpec } from '../data/bind.js';
import type { Batch } from '../data/dataset.js';
import { checkRange } from '../data/targets.js';
import { type EvaluateOptions, evaluateBatches } from '../evaluate/evaluation.js';
import { type Prediction, predictions } from '../evaluate/predictions.js';
import { fromPytorch, toPytorch } from '../formats/pytorch-state.js';
import { taskOf } from '../metrics/index.js';
import { asFeeds, type Feeds, misfit, onDeviceAlone } from '../session.js';
import type { Evaluation, TelemetryRow } from './events.js';
import { Inference } from './inference.js';
import { isDistributed, type LoadedStep, loadStep, stepOptions, type TrainerOptions } from './load-step.js';
import type { StepInfo } from './step-results.js';
import { StepRunner } from './step-runner.js';

/**
 * Runs the training step of an injected model. It owns the state between steps: parameters, optimizer state,
 * running statistics and step counter, by their names in the graph. Release it when done.
 *
 * Steps, evaluations and the release that are asked for while another is under way wait for it, in the order of the
 * calls; what reads or replaces the state as a whole throws `bad-state` meanwhile.
 */
export class Trainer {
  #inputs: InputSpec[] | undefined;
  #last: Promise<unknown> = Promise.resolve();
  #pending = 0;
  #isReleased = false;
  readonly #runner: StepRunner;
  readonly #inference: Inference;
  private readonly loaded: StepRunner['loaded'];

  private constructor(
    private model: Model,
    readonly description: TrainingDescription,
    private readonly options: TrainerOptions,
    step: LoadedStep,
  ) {
    this.#runner = new StepRunner(model, description, step, options.collective);
    this.loaded = this.#runner.loaded;
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
    const { state } = trainer.#runner;
    trainer.#runner.local = new LocalSteps(
      collective,
      description,
      { ...options, syncEvery },
      state,
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
    return this.#runner.local !== undefined;
  }

  get isApart(): boolean {
    return this.#runner.local?.isApart ?? false;
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
    return this.#runner.counts.updates;
  }

  /** Batches seen so far: those that were accumulated, and those skipped, count too. */
  get batchCount(): number {
    const { updates, batches, skipped } = this.#runner.counts;
    return updates * (this.description.accumulation?.batches ?? 1) + batches + skipped;
  }

  /** Batches whose gradients were not finite, and which changed nothing. */
  get skippedCount(): number {
    return this.#runner.counts.skipped;
  }

  /**
   * Current values of everything a step changes, by name in the graph; tables updated by rows change in place. Throws `bad-state`
   * while a step is under way that writes over it.
   */
  get state(): ReadonlyMap<string, Tensor> {
    if (this.#runner.isReplacing) throw underWay('reading state');
    return new Map(Object.entries(this.#runner.shown()));
  }

  /** What the updates of the last run did, those that telemetry was asked for: rows by parameter. */
  get telemetry(): readonly (readonly TelemetryRow[])[] {
    return this.#runner.telemetry;
  }

  /** Of each step of the last run: the learning rate of its update, and the norm of its gradients where the model tells it. */
  get lastSteps(): readonly StepInfo[] {
    return this.#runner.lastSteps;
  }

  /** Lets every snapshot carry the recipe by which the data become inputs. */
  keepRecipe(recipe: Recipe | undefined): void {
    this.model = withRecipe(this.model, recipe);
  }

  /** The injected model with the current state as its defaults: a run can go on from it. */
  snapshot(): Model {
    this.#demandSettled();
    return this.#snapshotOf(this.#runner.whole());
  }

  /** A snapshot for `use` alone: nothing of it may be read when the promise has settled, as steps write over it again. */
  async lend(use: (snapshot: Model) => Promise<void>): Promise<void> {
    this.#demandSettled();
    await this.#runner.lend(state => use(this.#snapshotOf(state)));
  }

  #demandSettled(): void {
    this.#demandIdle('snapshot');
    if (isDistributed(this.loaded.session) && this.loaded.session.isUnsettled)
      throw new AgdError(
        'bad-state',
        'The ranks have gradients that are not in the state yet: call settle() on all of them.',
      );
    this.#demandHere('snapshot');
    const { local } = this.#runner;
    if (local && !local.isSettled)
      throw new AgdError('bad-state', 'The ranks have different states: call settle() on all of them.');
  }

  #snapshotOf(whole: Feeds): Model {
    const state = this.#runner.ownTables(whole);
    return withOuterMomentum(
      withInitializers(this.model, name => state[name]),
      this.#runner.local?.momentum ?? new Map(),
    );
  }

  /**
   * Between the batches of an update in a distributed run, puts the gradients that the ranks have accumulated into the state, so
   * that a snapshot of it has them. With `syncEvery`, makes the states of the ranks their mean. With `shardOptimizer`, gives the
   * whole state to rank 0 or to all ranks, which can then take a snapshot. All ranks call it together.
   */
  settle(wholeOn: 'first' | 'all' = 'first'): Promise<void> {
    return this.#inTurn(() => this.#runner.settle(wholeOn));
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
    return !this.#runner.isLost;
  }

  /** The state in PyTorch's terms; see `pytorch-state.ts` for the names. */
  checkpoint(): Map<string, Tensor> {
    this.#demandIdle('checkpoint');
    this.#demandHere('checkpoint');
    return toPytorch(this.description, new Map(Object.entries(this.#runner.whole())));
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
    const own = new Map(Object.entries(this.#runner.state));
    const { state, unused } = fromPytorch(this.description, own, checkpoint);
    this.#runner.replace(Object.fromEntries(state));
    return unused;
  }

  /**
   * Reads back what is on the device alone, so that `state`, `snapshot` and `checkpoint` can be read until the next step. Only
   * WebGPU keeps the state on the device: elsewhere all of it is here.
   */
  async fetchState(): Promise<void> {
    // What was read before the release can be written after it.
    if (this.#isReleased && !Object.keys(onDeviceAlone(this.#runner.state)).length) return;
    await this.#inTurn(() => this.#runner.fetchState());
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
      return this.#inTurn(() => this.#runner.steps({}, options));
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
    return this.#inTurn(() => this.#runner.steps(feeds, options));
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
    this.#runner.demandWhole();
    return this.#inference.evaluator(this.model, this.#runner.state, inputs);
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
    this.#runner.demandWhole();
    return this.#inference.predict(this.model, this.#runner.state, names, given);
  }

  /** Frees the runtime's memory, after the steps under way; the trainer cannot be used after it. */
  async release(): Promise<void> {
    if (this.#isReleased) return;
    await this.#inTurn(async () => {
      this.#isReleased = true;
      await this.#runner.release();
      await this.#inference.release();
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
    if (!Object.keys(onDeviceAlone(this.#runner.state)).length) return;
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

  /** The model's own learning rate, before its schedule. */
  get lr(): number {
    return this.#runner.lr.numbers()[0]!;
  }
}

const underWay = (before: string) =>
  new AgdError('bad-state', `A step is running: await it before ${before}.`);
