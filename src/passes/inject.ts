import { cloneModel } from '../graph/clone.js';
import { AgdError } from '../graph/errors.js';
import type { Model, Value } from '../graph/ir.js';
import { Names } from '../graph/names.js';
import { encodeModel } from '../graph/proto.js';
import { spellDefaultDomain } from '../graph/proto-read.js';
import { neededInputs } from '../graph/prune.js';
import { Builder } from '../ops/core/builder.js';
import type { Expr } from '../ops/core/expr.js';
import { type AnyOptions, optimizerNamed } from '../ops/optimizers/index.js';
import { demand, resolveOptions } from '../ops/optimizers/optimizer.js';
import { lacksTotal, type Schedule } from '../ops/schedules.js';
import { type AttachedLoss, attachLoss } from './attach-loss.js';
import { type AttachedOptimizer, attachOptimizer, type StateUpdate } from './attach-optimizer.js';
import { backward } from './backward.js';
import { checkStored } from './check-attributes.js';
import { checkLoss } from './check-loss.js';
import { checkpointActivations } from './checkpoint-activations.js';
import { computeInFloat } from './compute-in-float.js';
import { drawRandom, numberBatches } from './draw-random.js';
import { countNodes, dropUnreadInputs, eliminateDeadNodes } from './eliminate-dead-nodes.js';
import { expandSparse } from './expand-sparse.js';
import { foldShapes } from './fold-shapes.js';
import { freeBatch } from './free-batch.js';
import { groupParameters } from './group-parameters.js';
import { inferShapes, type ShapeOracle } from './infer-shapes.js';
import { inlineFunctions } from './inline-functions.js';
import { liftConstants } from './lift-constants.js';
import { liftSubgraphInitializers } from './lift-subgraph-initializers.js';
import { type Lookup, lastPlaces, lookUpRows, sumRows } from './look-up-rows.js';
import { lowerOpset } from './lower-opset.js';
import { isTrainingOperator, lowerTrainingOperators } from './lower-training-operators.js';
import { checkInjectOptions, type InjectOptions, type LossSpec, noLoss, recordedOptions } from './options.js';
import { embedOriginal } from './original.js';
import { type ParameterChoice, selectParameters } from './select-parameters.js';
import { splitMergedInitializers } from './split-merged-initializers.js';
import { tellExtents } from './tell-extents.js';
import { type Origins, tellOrigins } from './tell-origins.js';
import { refuseRounded } from './tell-quantized.js';
import { tieTransposedInitializers } from './tie-transposed-initializers.js';
import { type LeastBatch, leastBatchOf, lowerBatchNorm, trainBatchNorm } from './train-batch-norm.js';
import { trainDropout } from './train-dropout.js';
import { type TrainingDescription, writeDescription } from './training-description.js';
import { adoptStep, hasOwnStep, withoutOptimizer } from './training-info.js';
import { upgradeOpset } from './upgrade-opset.js';
import { useGradients } from './use-gradients.js';
import { withValues } from './with-values.js';

export type InjectReport = {
  parameters: ParameterChoice[];
  /** What is likely not meant as it was asked for, a line each. */
  warnings: string[];
  nodes: { before: number; after: number };
  /** Bytes of parameters and of optimizer state with running statistics and counter. */
  bytes: { parameters: number; state: number };
  description: TrainingDescription;
};

/**
 * A copy of the model with loss, backward pass and optimizer as nodes of its graph: one run is one training
 * step. Everything a step changes is an input with an initializer, and an output that holds its next value.
 */
export async function inject(
  source: Model,
  options: InjectOptions,
  oracle: ShapeOracle,
): Promise<{ model: Model; report: InjectReport }> {
  const { loss, gradients, replaceOptimizer, values } = options;
  checkInjectOptions(options);
  const own = hasOwnStep(source) && !gradients && (!loss || loss.kind === 'output');
  const model = values && !own ? withValues(source, values) : source;
  if (own) {
    if (!replaceOptimizer) return adoptStep(model, options, oracle);
    const lifted = await withoutOptimizer(model, options, oracle);
    return injectStep(lifted.model, lifted.options, oracle);
  }
  demand(!replaceOptimizer, 'There is no optimizer to replace: the model has no training step of its own.');
  if (!model.graph.nodes.some(isTrainingOperator)) return injectStep(model, options, oracle);
  const lowered = cloneModel(model);
  spellDefaultDomain(lowered);
  await lowerTrainingOperators(lowered, oracle);
  return injectStep(lowered, { ...options, original: options.original ?? encodeModel(model) }, oracle);
}

async function injectStep(
  model: Model,
  options: InjectOptions,
  oracle: ShapeOracle,
): Promise<{ model: Model; report: InjectReport }> {
  const { name = 'agd', ...given } = options.optimizer ?? {};
  const optimizer = optimizerNamed(name);
  const settings = resolveOptions(optimizer, given);
  const before = countNodes(model);
  if (options.gradients && options.checkpointActivations !== undefined)
    throw new AgdError(
      'bad-option',
      'Activations are computed again in a backward pass that inject writes: give a loss, not gradients.',
    );
  checkLazy(options, optimizer);
  const source = await (options.gradients ? useGradients : differentiable)(model, options, oracle);
  const { work, g, parameters } = source;
  const trained = parameters.filter(p => p.trains).map(p => p.value);
  g.forget(trained);
  const groups = groupParameters(trained, optimizer, settings, options);
  const { grads, statistics, lookups, drawn, leastBatch } = source.differentiate(trained);
  computeInFloat(work.graph, trained);
  const schedule = withTotal(options, source, grads, leastBatch);
  const planned = { ...options, schedule, endsWithRun: schedule !== options.schedule };
  const attached = attachOptimizer(
    g,
    optimizer,
    settings.lr,
    trained.map((param, i) => {
      const lookup = lookups?.get(param);
      return { param, grad: grads[i]!, options: { ...settings, ...groups[i] }, lookup };
    }),
    planned,
    statistics,
  );
  const { updates, step, counter, skipped } = attached;
  numberBatches(g, drawn, () => {
    const updated = g.of(step).mul(options.accumulate ?? 1);
    return [counter, skipped].reduce((n, more) => (more ? n.add(g.of(more)) : n), updated);
  });
  eliminateDeadNodes(work);
  dropUnreadInputs(work);
  tellExtents(work);
  work.irVersion = Math.max(work.irVersion, 8);
  work.trainingInfo = [
    {
      updates: updates.map(u => ({ state: u.state.name, value: u.value.name })),
      initializations: [],
      extra: undefined,
    },
  ];
  const chosen = { name, options: settings };
  const parts = { source, trained, grads, groups, attached, statistics, lookups, leastBatch };
  const description = describe(planned, chosen, parts);
  writeDescription(work, description);
  const learned = [...trained, ...statistics.map(s => s.state)].map(v => v.name);
  embedOriginal(work, source.original, source.model, learned);
  const sizes = (values: readonly Value[]) =>
    values.reduce((n, v) => n + work.graph.initializers.get(v)!.byteLength, 0);
  const size = { parameters: sizes(trained), state: sizes(updates.map(u => u.state)) };
  return {
    model: work,
    report: {
      parameters,
      warnings: source.warnings ?? [],
      nodes: { before, after: countNodes(work) },
      bytes: { parameters: size.parameters, state: size.state - size.parameters },
      description,
    },
  };
}

/** Throws `bad-option` where lazy rows are asked for beside what knows whole tables only. */
function checkLazy(options: InjectOptions, { name, diagonal }: { name: string; diagonal?: unknown }): void {
  if (!options.lazyRows?.length) return;
  const { gradients, accumulate = 1, ema, telemetry } = options;
  const whole = { gradients, accumulate: accumulate > 1 || undefined, ema, telemetry, [name]: diagonal };
  const other = Object.entries(whole).find(([, value]) => value !== undefined)?.[0];
  demand(
    !other,
    `lazyRows changes only the rows of a batch, and ${other} takes whole tables: leave out one.`,
  );
}

/** The schedule; where it does not say when it ends, it ends with the run. */
function withTotal(
  { schedule, updates }: InjectOptions,
  { work, loss }: Trainable,
  grads: readonly Expr[],
  leastBatch: LeastBatch | undefined,
): Schedule | undefined {
  if (!schedule || !updates || !lacksTotal(schedule)) return schedule;
  const { graph } = work;
  const inputs = neededInputs(graph, [loss.loss, ...grads.map(e => e.value)]);
  return { ...schedule, total: updates({ graph, inputs, target: loss.target?.name, leastBatch }) };
}

/** A model that is ready to be trained, as far as its gradients. */
export type Trainable = {
  work: Model;
  g: Builder;
  spec: LossSpec;
  loss: AttachedLoss;
  parameters: ParameterChoice[];
  warnings?: string[];
  /** The outputs that the model had besides the loss and gradients. */
  inference: string[];
  /** Where the model to write is a part of the original: the outputs that it computes. */
  exports?: string[];
  /** The model that trained values go back into, and its file. */
  model: Model;
  original: Uint8Array;
  /** The gradient of each of these parameters, and the next running statistics; of tables, what `sumRows` makes. */
  differentiate(trained: readonly Value[]): {
    grads: Expr[];
    statistics: StateUpdate[];
    leastBatch?: LeastBatch;
    lookups?: Map<Value, Lookup & { last: Value }>;
    /** What random numbers are drawn by, for `numberBatches`. */
    drawn?: Value;
  };
};

/** Gradients by a backward pass from a loss. */
async function differentiable(model: Model, options: InjectOptions, oracle: ShapeOracle): Promise<Trainable> {
  const { loss: spec, batchNorm = 'train', dropout = 'train', seed = 0 } = options;
  if (!spec) throw noLoss();
  const { work, g, loss, placed, origins } = await prepare(model, spec, oracle, options);
  const parameters = selectParameters(work.graph, [loss.loss], origins, options, loss.constants);
  refuseRounded(work.graph, parameters, options);
  return {
    ...{ work, g, spec, loss, model: placed ?? model },
    warnings: checkLoss(work.graph, spec, loss.output!),
    parameters,
    inference: work.graph.outputs.filter(v => v !== loss.loss && v !== loss.exposed).map(v => v.name),
    original: placed ? encodeModel(placed) : (options.original ?? encodeModel(model)),
    differentiate(trained) {
      const leastBatch = batchNorm === 'train' ? leastBatchOf(g) : undefined;
      const statistics = trainBatchNorm(g, batchNorm);
      trainDropout(g, dropout);
      const { checkpointActivations: segments, lazyRows = [] } = options;
      const found = lazyRows.length ? lookUpRows(g, trained, lazyRows) : new Map<Value, Lookup>();
      const wrt = trained.map(p => found.get(p)?.looked ?? p);
      const drawn = drawRandom(g, seed);
      const grads = backward(g, new Map([[loss.loss, g.of(loss.loss).ones()]]), wrt, options);
      lowerBatchNorm(g);
      const named = wrt.map((v, i) => g.rename(grads[i] ?? g.of(v).zeros(), `${trained[i]!.name}_grad`));
      const kept = [...found.values()].map(({ rows }) => rows);
      const results = [loss.loss, ...work.graph.outputs, ...statistics.map(s => s.value), ...kept];
      if (segments !== undefined && segments !== false)
        checkpointActivations(g, results, named, segments === true ? undefined : segments);
      return { ...withSums(g, trained, named, found), statistics, leastBatch, drawn };
    },
  };
}

/** Of the tables, the sums of the gradients of equal rows. */
function withSums(g: Builder, trained: readonly Value[], named: readonly Value[], found: Map<Value, Lookup>) {
  const lookups = new Map<Value, Lookup & { last: Value }>();
  const grads = trained.map((param, i) => {
    const lookup = found.get(param);
    if (!lookup) return g.of(named[i]!);
    const count = g.of(param).op('Shape', [], { end: 1 });
    const last = lastPlaces(g.of(lookup.rows), count);
    lookups.set(param, { ...lookup, last: last.value });
    return sumRows(g.of(named[i]!), last);
  });
  return { grads, lookups };
}

/** Gives each parameter an initializer of its own, and but one. Returns whether that changed which there are in the file. */
function placeParameters(model: Model, origins = tellOrigins(model)): boolean {
  liftSubgraphInitializers(model);
  const split = splitMergedInitializers(model, origins);
  return tieTransposedInitializers(model) || split;
}

/** The model with a place for each of the parameters that it had merged, and but one; `work` is that with all else done too. */
function withPlaces(model: Model, work: Model): Model {
  const placed = cloneModel(model.functions.length ? work : model);
  if (!model.functions.length) placeParameters(placed);
  return placed;
}

/** A copy of the model that is ready to be differentiated, its values typed and its loss attached. */
async function prepare(
  model: Model,
  spec: LossSpec,
  oracle: ShapeOracle,
  { freeBatch }: InjectOptions,
): Promise<Normal & { loss: AttachedLoss }> {
  const normal = await normalize(model, oracle, { freeBatch });
  return { ...normal, loss: attachLoss(normal.g, spec) };
}

/**
 * A model whose values are typed. Where parameters have places now that the file did not give them, `placed` is the
 * model that does; `origins` is what the file says of its constants.
 */
type Normal = { work: Model; g: Builder; placed?: Model; origins: Origins };

/**
 * The same before any loss: for vector-Jacobian products of the model's own outputs. With `own` off, each parameter
 * stays where the file has it.
 */
export async function normalize(
  model: Model,
  oracle: ShapeOracle,
  { own = true, freeBatch: free }: { own?: boolean; freeBatch?: readonly string[] } = {},
): Promise<Normal> {
  checkStored(model.graph);
  const work = cloneModel(model);
  spellDefaultDomain(work);
  upgradeOpset(work);
  expandSparse(work);
  inlineFunctions(work);
  lowerOpset(work);
  const origins = tellOrigins(work);
  if (!own) liftSubgraphInitializers(work);
  const placed = own && placeParameters(work, origins) ? withPlaces(model, work) : undefined;
  liftConstants(work);
  if (free?.length) await freeBatch(work, free, oracle);
  do await inferShapes(work, oracle);
  while (foldShapes(work));
  const g = new Builder(work.graph, { names: Names.of(work), opsets: work.opsetImports });
  return { work, g, placed, origins };
}

function describe(
  options: InjectOptions,
  optimizer: TrainingDescription['optimizer'],
  parts: {
    source: Trainable;
    trained: readonly Value[];
    grads: readonly Expr[];
    groups: readonly AnyOptions[];
    attached: AttachedOptimizer;
    statistics: readonly StateUpdate[];
    lookups?: ReadonlyMap<Value, Lookup>;
    leastBatch?: LeastBatch;
  },
): TrainingDescription {
  const { source, attached, statistics, trained, grads, groups, lookups, leastBatch } = parts;
  const { spec, loss } = source;
  const { accumulate = 1 } = options;
  return {
    version: 1,
    loss: {
      ...spec,
      name: loss.loss.name,
      target: loss.target?.name,
      output: loss.output?.name ?? loss.loss.name,
    },
    outputs: source.inference,
    exports: source.exports,
    optimizer,
    lr: attached.lr.name,
    step: attached.step.name,
    scheduleTotal: attached.total?.name,
    ...recordedOptions(options),
    accumulation: attached.counter && { batches: accumulate, counter: attached.counter.name },
    skipped: attached.skipped?.name,
    telemetry: attached.telemetry && {
      name: attached.telemetry.state.name,
      columns: attached.telemetry.columns,
    },
    parameters: trained.map((v, i) => ({
      name: v.name,
      grad: grads[i]!.value.name,
      state: Object.fromEntries(Object.entries(attached.slots.get(v)!).map(([slot, s]) => [slot, s.name])),
      options: Object.keys(groups[i]!).length ? groups[i] : undefined,
      hessianProduct: attached.products[i]?.name,
      carry: attached.carries[i]?.name,
      rows: lookups?.get(v)?.rows.name,
      gradSum: attached.sums?.[i]?.name,
      hessianSum: attached.sums?.[trained.length + i]?.name,
      ema: attached.averages?.[i]?.name,
    })),
    statistics: statistics.map(s => s.state.name),
    leastBatch,
    checkpoint: options.checkpoint,
  };
}
