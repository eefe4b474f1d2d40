/**
 * The passes, and the order in which each command runs them: the order is important. `requires` and `ensures` say
 * what holds between them; docs/explain/architecture.md is generated from this file.
 */
import { cloneModel } from '../graph/clone.js';
import { AgdError } from '../graph/errors.js';
import type { Model, Value } from '../graph/ir.js';
import { Names } from '../graph/names.js';
import { encodeModel } from '../graph/proto/codec.js';
import { spellDefaultDomain } from '../graph/proto/read.js';
import { neededInputs } from '../graph/prune.js';
import { Builder } from '../ops/core/builder.js';
import type { Expr } from '../ops/core/expr.js';
import { contextOf, type Pass, type PassOptions, pass, runPasses, type With } from './common/context.js';
import { dropUnreadInputs, eliminateDeadNodes } from './common/eliminate-dead-nodes.js';
import { addCotangents } from './differentiate/add-cotangents.js';
import { attachLoss } from './differentiate/attach-loss.js';
import { activeValues, backward } from './differentiate/backward.js';
import { checkLoss } from './differentiate/check-loss.js';
import { checkpointActivations } from './differentiate/checkpoint-activations.js';
import { computeInFloat } from './differentiate/compute-in-float.js';
import { drawRandom, numberBatches } from './differentiate/draw-random.js';
import { expandNodes } from './differentiate/expand-nodes.js';
import { lookUpRows, sumLookups } from './differentiate/look-up-rows.js';
import {
  hasBatchNorm,
  leastBatchOf,
  lowerBatchNorm,
  trainBatchNorm,
} from './differentiate/train-batch-norm.js';
import { trainDropout } from './differentiate/train-dropout.js';
import { declareValueTypes } from './file/declare-value-types.js';
import { describeStep } from './file/describe-step.js';
import { embedOriginal } from './file/embed-original.js';
import { adoptStep, describeOwnStep, readAlgorithm } from './import/adopt-step.js';
import { lowerTrainingOperators } from './import/lower-training-operators.js';
import { useGradients } from './import/use-gradients.js';
import { checkStored } from './normalize/check-attributes.js';
import { expandExtensions } from './normalize/expand-extensions.js';
import { expandSparse } from './normalize/expand-sparse.js';
import { foldShapes } from './normalize/fold-shapes.js';
import { freeBatch } from './normalize/free-batch.js';
import { inferShapes, type ShapeOracle } from './normalize/infer-shapes.js';
import { inlineFunctions } from './normalize/inline-functions.js';
import { liftConstants } from './normalize/lift-constants.js';
import { liftSubgraphInitializers } from './normalize/lift-subgraph-initializers.js';
import { lowerOpset } from './normalize/lower-opset.js';
import { splitMergedInitializers } from './normalize/split-merged-initializers.js';
import { tieTransposedInitializers } from './normalize/tie-transposed-initializers.js';
import { upgradeOpset } from './normalize/upgrade-opset.js';
import { noLoss } from './options.js';
import { chooseWrt } from './select/choose-wrt.js';
import { refuseRounded } from './select/detect-quantization.js';
import { groupParameters } from './select/group-parameters.js';
import { readOrigins } from './select/read-origins.js';
import { selectParameters } from './select/select-parameters.js';
import { attachOptimizer } from './update/attach-optimizer.js';
import { planSchedule } from './update/plan-schedule.js';
import { resolveOptimizer } from './update/resolve-optimizer.js';
import { output } from './update/transition.js';

const ALL = [
  pass({
    name: 'resolve-optimizer',
    does: 'Checks the options of the optimizer and those that cannot be combined',
    requires: [],
    ensures: ['optimizer'],
    run(c) {
      c.optimizer = resolveOptimizer(c.options);
      return false;
    },
  }),

  // Normalize
  pass({
    name: 'check-attributes',
    does: 'Refuses nodes whose stored attributes no kernel can take',
    requires: [],
    ensures: [],
    run(c) {
      checkStored(c.source.graph);
      return false;
    },
  }),
  pass({
    name: 'copy-model',
    does: 'Copies the model: all that follow change the copy',
    requires: [],
    ensures: ['work'],
    run(c) {
      c.work = cloneModel(c.source);
      spellDefaultDomain(c.work);
      return true;
    },
  }),
  pass({
    name: 'upgrade-opset',
    does: 'Writes operators of older operator sets as those of opset 18',
    requires: ['work'],
    ensures: ['upgraded'],
    run(c) {
      c.upgraded = true;
      return upgradeOpset(c.work);
    },
  }),
  pass({
    name: 'expand-sparse',
    does: 'Writes sparse initializers as dense ones',
    requires: ['work'],
    ensures: [],
    run: c => expandSparse(c.work),
  }),
  pass({
    name: 'inline-functions',
    does: "Replaces calls of the model's functions by their bodies",
    requires: ['work', 'upgraded'],
    ensures: ['inlined'],
    run(c) {
      c.inlined = true;
      return inlineFunctions(c.work);
    },
  }),
  pass({
    name: 'lower-opset',
    does: 'Declares an older operator set where the runtime has no kernel of the newer one',
    requires: ['work', 'inlined'],
    ensures: [],
    run: c => lowerOpset(c.work),
  }),
  pass({
    name: 'read-origins',
    does: 'Finds what the file says of its constants: parameters, buffers, folded values',
    requires: ['work', 'inlined'],
    ensures: ['origins'],
    run(c) {
      c.origins = readOrigins(c.work);
      return false;
    },
  }),
  pass({
    name: 'lift-subgraph-initializers',
    does: 'Moves the initializers of branches and loops to the main graph, where they can train',
    requires: ['work', 'inlined'],
    ensures: [],
    run: c => liftSubgraphInitializers(c.work),
  }),
  pass({
    name: 'split-merged-initializers',
    does: 'Separates parameters that an exporter merged because they were equal',
    requires: ['work', 'origins'],
    ensures: ['moved'],
    run(c) {
      c.moved = splitMergedInitializers(c.work, c.origins);
      return c.moved;
    },
  }),
  pass({
    name: 'tie-transposed-initializers',
    does: 'Ties weights that an exporter stored a second time, transposed',
    requires: ['work', 'moved'],
    ensures: [],
    run(c) {
      const tied = tieTransposedInitializers(c.work);
      c.moved ||= tied;
      return tied;
    },
  }),
  pass({
    name: 'place-parameters',
    does: 'Gives the model that trained values go back into the same parameters',
    requires: ['work', 'moved'],
    ensures: ['model'],
    run(c) {
      c.model = c.moved ? withPlaces(c.source, c.work) : c.source;
      return false;
    },
  }),
  pass({
    name: 'lift-constants',
    does: 'Makes weights in Constant nodes initializers',
    requires: ['work', 'inlined'],
    ensures: [],
    run: c => liftConstants(c.work),
  }),
  pass({
    name: 'expand-extensions',
    does: 'Writes operators that extensions define by standard ones',
    requires: ['work', 'inlined'],
    ensures: [],
    run: c => expandExtensions(c.work, c.oracle),
  }),
  pass({
    name: 'free-batch',
    does: 'Frees the batch size that the exporter fixed, where that is asked for',
    requires: ['work', 'inlined'],
    ensures: [],
    async run(c) {
      const { freeBatch: names } = c.options;
      if (!names?.length) return false;
      await freeBatch(c.work, names, c.oracle);
      return true;
    },
  }),
  pass({
    name: 'infer-shapes',
    does: 'Sets element type and shape of each value, as ONNX Runtime sees them',
    requires: ['work'],
    ensures: ['typed'],
    async run(c) {
      c.typed = true;
      return inferShapes(c.work, c.oracle);
    },
  }),
  pass({
    name: 'fold-shapes',
    does: 'Evaluates the arithmetic on shapes that exporters leave in a graph',
    requires: ['work', 'typed'],
    ensures: [],
    repeatFrom: 'infer-shapes',
    run: c => foldShapes(c.work),
  }),
  pass({
    name: 'open-graph',
    does: 'Opens the typed graph for new nodes',
    requires: ['work', 'typed'],
    ensures: ['g'],
    run(c) {
      c.g = new Builder(c.work.graph, { names: Names.of(c.work), opsets: c.work.opsetImports });
      return false;
    },
  }),

  // Loss and parameters
  pass({
    name: 'attach-loss',
    does: 'Adds the loss as an output, with the target as an input',
    requires: ['work', 'g'],
    ensures: ['spec', 'loss', 'inference', 'exports'],
    run(c) {
      const { g, options } = c;
      if (!options.loss) throw noLoss();
      c.spec = options.loss;
      c.loss = attachLoss(g, c.spec);
      const { loss, exposed } = c.loss;
      c.inference = g.graph.outputs.filter(v => v !== loss && v !== exposed).map(v => v.name);
      c.exports = undefined;
      return true;
    },
  }),
  pass({
    name: 'add-cotangents',
    does: 'Adds an input for the cotangent of each output that is differentiated',
    requires: ['g'],
    ensures: ['seeds'],
    run(c) {
      c.seeds = addCotangents(c.g, c.options.cotangents ?? []);
      return true;
    },
  }),
  pass({
    name: 'use-gradients',
    does: 'Finds loss, gradients and running statistics in a graph that computes them',
    requires: ['work', 'g'],
    ensures: [
      ...(['spec', 'loss', 'inference', 'exports', 'parameters', 'trained', 'given'] as const),
      ...(['statistics', 'leastBatch', 'warnings', 'model'] as const),
    ],
    run(c) {
      Object.assign(c, useGradients(c.g, c.work, c.source, c.options));
      return true;
    },
  }),
  pass({
    name: 'select-parameters',
    does: 'Decides which initializers train, from options, the file and rules, in this order',
    requires: ['g', 'origins', 'loss'],
    ensures: ['parameters', 'trained'],
    run(c) {
      const { graph } = c.g;
      c.parameters = selectParameters(graph, [c.loss.loss], c.origins, c.options, c.loss.constants);
      refuseRounded(graph, c.parameters, c.options);
      c.trained = c.parameters.flatMap(p => (p.trains ? [p.value] : []));
      c.g.forget(c.trained);
      return false;
    },
  }),
  pass({
    name: 'choose-wrt',
    does: 'Finds the inputs and initializers to differentiate by',
    requires: ['g'],
    ensures: ['trained'],
    run(c) {
      const { g, options, loss } = c;
      if (!options.wrt)
        throw new AgdError('bad-option', 'Choose with --wrt what to differentiate with respect to.');
      c.trained = chooseWrt(g.graph, options.wrt, loss?.constants);
      g.forget(c.trained);
      return false;
    },
  }),
  pass({
    name: 'check-loss',
    does: 'Warns of a loss that is likely not meant for the output it reads',
    requires: ['g', 'spec', 'loss'],
    ensures: ['warnings'],
    run(c) {
      c.warnings = c.loss.output ? checkLoss(c.g.graph, c.spec, c.loss.output) : [];
      return false;
    },
  }),
  pass({
    name: 'group-parameters',
    does: 'Finds the optimizer options in which each parameter differs',
    requires: ['trained', 'optimizer'],
    ensures: ['groups'],
    run(c) {
      const { optimizer, settings } = c.optimizer;
      c.groups = groupParameters(c.trained, optimizer, settings, c.options);
      return false;
    },
  }),

  // Differentiate
  pass({
    name: 'train-batch-norm',
    does: 'Puts batch normalization into the mode asked for',
    requires: ['g'],
    ensures: ['statistics', 'leastBatch'],
    run(c) {
      const { g, options } = c;
      const { batchNorm = 'train' } = options;
      const changed = hasBatchNorm(g.graph);
      c.leastBatch = batchNorm === 'train' ? leastBatchOf(g) : undefined;
      c.statistics = trainBatchNorm(g, batchNorm);
      return changed;
    },
  }),
  pass({
    name: 'train-dropout',
    does: 'Lets dropout drop, or do nothing',
    requires: ['g'],
    ensures: [],
    run: c => trainDropout(c.g, c.options.dropout ?? 'train'),
  }),
  pass({
    name: 'look-up-rows',
    does: 'Lets each table with sparse updates be looked up once',
    requires: ['g', 'trained'],
    ensures: ['lookups'],
    run(c) {
      const { lazyRows = [] } = c.options;
      c.lookups = lazyRows.length ? lookUpRows(c.g, c.trained, lazyRows) : new Map();
      return c.lookups.size > 0;
    },
  }),
  pass({
    name: 'draw-random',
    does: 'Draws random numbers by a counter, so that a run can be resumed',
    requires: ['g'],
    ensures: ['drawn'],
    run(c) {
      c.drawn = { key: drawRandom(c.g, c.options.seed ?? 0) };
      return c.drawn.key !== undefined;
    },
  }),
  pass({
    name: 'backward',
    does: 'Adds the backward pass',
    requires: ['g', 'trained'],
    ensures: ['cotangents'],
    run(c) {
      const { g, loss, seeds = new Map() } = c;
      if (loss) seeds.set(loss.loss, g.of(loss.loss).ones());
      const wrt = c.trained.map(p => c.lookups?.get(p)?.looked ?? p);
      c.cotangents = backward(g, seeds, wrt, c.options);
      return true;
    },
  }),
  pass({
    name: 'lower-batch-norm',
    does: 'Writes batch normalization in training mode as operators that all providers have',
    requires: ['g'],
    ensures: [],
    run(c) {
      const changed = hasBatchNorm(c.g.graph);
      lowerBatchNorm(c.g);
      return changed;
    },
  }),
  pass({
    name: 'name-gradients',
    does: 'Gives gradients the names of their parameters, and zeros to parameters without one',
    requires: ['g', 'trained', 'cotangents'],
    ensures: ['grads'],
    run(c) {
      const { g, trained, cotangents, lookups } = c;
      c.grads = trained.map((p, i) => {
        const zeros = () => g.of(lookups?.get(p)?.looked ?? p).zeros();
        return g.of(g.rename(cotangents[i] ?? zeros(), `${p.name}_grad`));
      });
      return trained.length > 0;
    },
  }),
  pass({
    name: 'checkpoint-activations',
    does: 'Lets the backward pass compute activations again instead of keeping them',
    requires: ['g', 'loss', 'statistics', 'lookups', 'grads'],
    ensures: [],
    run(c) {
      const { checkpointActivations: segments } = c.options;
      if (segments === undefined || segments === false) return false;
      const kept = [...c.lookups.values()].map(({ rows }) => rows);
      const results = [c.loss.loss, ...c.g.graph.outputs, ...c.statistics.map(s => s.value), ...kept];
      const grads = c.grads.map(e => e.value);
      return checkpointActivations(c.g, results, grads, segments === true ? undefined : segments);
    },
  }),
  pass({
    name: 'sum-rows',
    does: 'Adds up the gradients of equal rows of a table',
    requires: ['g', 'trained', 'lookups', 'grads'],
    ensures: ['lastRows'],
    run(c) {
      const named = c.grads.map(e => e.value);
      Object.assign(c, sumLookups(c.g, c.trained, named, c.lookups));
      return c.lookups.size > 0;
    },
  }),
  pass({
    name: 'take-gradients',
    does: 'Takes the gradients that the graph has',
    requires: ['g', 'trained', 'given'],
    ensures: ['grads', 'lookups', 'lastRows'],
    run(c) {
      c.grads = c.trained.map(p => c.g.of(c.given.get(p)!));
      c.lookups = new Map();
      c.lastRows = new Map();
      return false;
    },
  }),
  pass({
    name: 'compute-in-float',
    does: 'Lets quantized products that depend on trained values compute in floating point',
    requires: ['work', 'trained'],
    ensures: [],
    run: c => computeInFloat(c.work.graph, c.trained),
  }),
  pass({
    name: 'return-objective',
    does: 'Makes what is differentiated the outputs of the graph, of inputs that are fed',
    requires: ['g', 'trained'],
    ensures: [],
    run(c) {
      const { g, loss, seeds = new Map<Value, Expr>(), options } = c;
      g.graph.outputs = loss ? [loss.loss] : [...seeds.keys()];
      // A kernel may read what its gradient does not, such as the lengths of sequences.
      const needed = neededInputs(g.graph, g.graph.outputs).filter(v => v !== loss?.target);
      const isFed = (v: Value) => options.fed?.has(v.name) ?? true;
      if (!needed.every(isFed)) expandNodes(g, activeValues(g.graph.nodes, c.trained));
      return true;
    },
  }),
  pass({
    name: 'return-gradients',
    does: 'Makes loss and gradients the outputs of the graph',
    requires: ['g', 'trained', 'cotangents'],
    ensures: ['gradients'],
    run(c) {
      const { g, trained, cotangents, loss } = c;
      g.graph.outputs = loss ? [loss.loss] : [];
      c.gradients = new Map(
        trained.map((value, i) => {
          const e = cotangents[i];
          return [value.name, e ? output(g, e, `${value.name}_grad`).name : null];
        }),
      );
      return true;
    },
  }),

  // Update
  pass({
    name: 'plan-schedule',
    does: 'Lets a schedule that does not say when it ends end with the run',
    requires: ['g', 'loss', 'grads', 'leastBatch'],
    ensures: ['schedule'],
    async run(c) {
      c.schedule = await planSchedule(c.g.graph, c.options, c.loss, c.grads, c.leastBatch);
      return false;
    },
  }),
  pass({
    name: 'attach-optimizer',
    does: 'Adds the update of parameters, optimizer state and running statistics',
    requires: [
      ...(['g', 'optimizer', 'trained', 'grads', 'groups'] as const),
      ...(['lookups', 'lastRows', 'statistics', 'schedule'] as const),
    ],
    ensures: ['attached', 'batchNumber'],
    run(c) {
      const { g, options, grads, groups, lookups, lastRows, schedule } = c;
      const { optimizer, settings } = c.optimizer;
      const parameters = c.trained.map((param, i) => {
        const lookup = lookups.get(param);
        const last = lastRows.get(param);
        return {
          ...{ param, grad: grads[i]!, options: { ...settings, ...groups[i] } },
          lookup: lookup && last && { ...lookup, last },
        };
      });
      const planned = { ...options, schedule, endsWithRun: schedule !== options.schedule };
      c.attached = attachOptimizer(g, optimizer, settings.lr, parameters, planned, c.statistics);
      const { step, counter, skipped } = c.attached;
      c.batchNumber = () => {
        const updated = g.of(step).mul(options.accumulate ?? 1);
        return [counter, skipped].reduce((n, more) => (more ? n.add(g.of(more)) : n), updated);
      };
      return true;
    },
  }),
  pass({
    name: 'number-batches',
    does: 'Computes what random numbers are drawn by from the count of batches',
    requires: ['g', 'drawn'],
    ensures: ['numbered'],
    run(c) {
      const { g, drawn, batchNumber } = c;
      numberBatches(g, drawn.key, () => batchNumber?.() ?? g.scalar(0, 'int64'));
      c.numbered = true;
      return drawn.key !== undefined;
    },
  }),

  // File
  pass({
    name: 'eliminate-dead-nodes',
    does: 'Removes nodes and initializers that no output depends on',
    requires: ['work'],
    ensures: [],
    run: c => eliminateDeadNodes(c.work),
  }),
  pass({
    name: 'drop-unread-inputs',
    does: 'Removes inputs that no output depends on',
    requires: ['work'],
    ensures: [],
    run: c => dropUnreadInputs(c.work),
  }),
  pass({
    name: 'declare-value-types',
    does: 'Declares the types of values whose extents no runtime infers',
    requires: ['work', 'typed'],
    ensures: [],
    run: c => declareValueTypes(c.work),
  }),
  pass({
    name: 'describe-step',
    does: 'Binds states to their next values, and describes the step in the metadata',
    requires: [
      ...(['work', 'optimizer', 'spec', 'loss', 'inference', 'exports', 'trained', 'groups'] as const),
      ...(['grads', 'statistics', 'leastBatch', 'schedule', 'attached'] as const),
    ],
    ensures: ['description'],
    run(c) {
      c.description = describeStep(c);
      return true;
    },
  }),
  pass({
    name: 'embed-original',
    does: 'Keeps the original file in the metadata, less the tensors that the graph holds',
    requires: ['work', 'model', 'description'],
    ensures: [],
    run(c) {
      const { model, description, options } = c;
      const original = c.moved ? encodeModel(model) : (options.original ?? encodeModel(model));
      const learned = [...description.parameters.map(p => p.name), ...description.statistics];
      embedOriginal(c.work, original, model, learned);
      return true;
    },
  }),

  // A training step that the model brings
  pass({
    name: 'read-algorithm',
    does: "Makes the graph of the model's own training step the main graph",
    requires: [],
    ensures: ['work', 'bindings'],
    run(c) {
      Object.assign(c, readAlgorithm(c.source, c.options));
      return true;
    },
  }),
  pass({
    name: 'lower-training-operators',
    does: "Writes ONNX's Gradient and optimizer operators as standard ones",
    requires: ['work'],
    ensures: ['operators', 'inlined'],
    async run(c) {
      c.operators = await lowerTrainingOperators(c.work, c.oracle);
      c.inlined = true;
      return true;
    },
  }),
  pass({
    name: 'adopt-step',
    does: 'Lets state, learning rate and count of updates go in and come out',
    requires: ['work', 'g', 'operators', 'bindings'],
    ensures: ['spec', 'loss', 'own', 'batchNumber', 'model', 'trained'],
    run(c) {
      const adopted = adoptStep(c);
      Object.assign(c, adopted);
      c.trained = adopted.own.states;
      c.model = c.source;
      return true;
    },
  }),
  pass({
    name: 'describe-own-step',
    does: 'Describes the step in the metadata',
    requires: ['work', 'operators', 'bindings', 'spec', 'loss', 'own'],
    ensures: ['parameters', 'description'],
    run(c) {
      Object.assign(c, describeOwnStep(c));
      return true;
    },
  }),
] as const satisfies readonly Pass[];

/** Every pass, by name: each can be run alone, on a context that has what it requires. */
export const PASSES: ReadonlyMap<string, Pass> = new Map(ALL.map(p => [p.name, p]));

function list(...names: string[]): Pass[] {
  return names.map(name => {
    const found = PASSES.get(name);
    if (!found) throw new Error(`There is no pass ${name}.`);
    return found;
  });
}

const STANDARDIZE = list(
  'check-attributes',
  'copy-model',
  'upgrade-opset',
  'expand-sparse',
  'inline-functions',
  'lower-opset',
  'read-origins',
  'lift-subgraph-initializers',
);
const PLACE = list('split-merged-initializers', 'tie-transposed-initializers', 'place-parameters');
const INFER = list('infer-shapes', 'fold-shapes', 'open-graph');
const NORMALIZE = [
  ...STANDARDIZE,
  ...PLACE,
  ...list('lift-constants', 'expand-extensions', 'free-batch'),
  ...INFER,
];
const CLEAN = list('eliminate-dead-nodes', 'drop-unread-inputs');
const UPDATE = [
  ...list('plan-schedule', 'attach-optimizer', 'number-batches'),
  ...CLEAN,
  ...list('declare-value-types', 'describe-step', 'embed-original'),
];
const MODES = list('train-batch-norm', 'train-dropout');
const DRAW = list('draw-random', 'number-batches', 'compute-in-float');

/** A loss by the parameters that would train, the same by what `wrt` names, and outputs by it. */
const OF_PARAMETERS = [
  ...NORMALIZE,
  ...list('attach-loss', 'check-loss', 'select-parameters'),
  ...MODES,
  ...DRAW,
];
const OF_WRT = [...NORMALIZE, ...list('attach-loss', 'check-loss', 'choose-wrt'), ...MODES, ...DRAW];
const OF_OUTPUTS = [...NORMALIZE, ...list('add-cotangents', 'choose-wrt'), ...DRAW];
const GRADIENTS = [...list('backward', 'lower-batch-norm', 'return-gradients'), ...CLEAN];
const OBJECTIVE = [...list('lower-batch-norm', 'return-objective'), ...CLEAN];

/** The passes of each use, in order. */
export const PIPELINES = {
  /** A copy whose values are typed, ready to be differentiated; each parameter has an initializer of its own. */
  normalize: NORMALIZE,
  /** A training step, from a loss. */
  inject: [
    ...list('resolve-optimizer'),
    ...NORMALIZE,
    ...list('attach-loss', 'select-parameters', 'check-loss', 'group-parameters'),
    ...MODES,
    ...list('look-up-rows', 'draw-random', 'backward', 'lower-batch-norm', 'name-gradients'),
    ...list('checkpoint-activations', 'sum-rows', 'compute-in-float'),
    ...UPDATE,
  ],
  /** A training step, from gradients that the graph has. */
  injectGradients: [
    ...list('resolve-optimizer'),
    ...STANDARDIZE,
    ...list('lift-constants', 'expand-extensions'),
    ...INFER,
    ...list('use-gradients', 'group-parameters', 'draw-random', 'take-gradients', 'compute-in-float'),
    ...UPDATE,
  ],
  /** Loss and gradients, by the parameters that would train. */
  gradients: [...OF_PARAMETERS, ...GRADIENTS],
  /** The same by what `wrt` names. */
  gradientsByName: [...OF_WRT, ...GRADIENTS],
  /** Vector-Jacobian products. */
  pullback: [...OF_OUTPUTS, ...GRADIENTS],
  /** What each of these three differentiates, for finite differences. */
  objective: [...OF_PARAMETERS, ...OBJECTIVE],
  objectiveByName: [...OF_WRT, ...OBJECTIVE],
  objectiveOfPullback: [...OF_OUTPUTS, ...OBJECTIVE],
  /** ONNX's training operators in the graph of a model: standard ones before anything else. */
  lowerTraining: list('copy-model', 'lower-training-operators'),
  /** The training step that a model brings, as far as its meaning is known. */
  readStep: list('read-algorithm', 'lower-training-operators', 'infer-shapes'),
  /** The same step, as one of ours. */
  adopt: [
    ...list('read-algorithm', 'lower-training-operators', 'infer-shapes', 'open-graph', 'adopt-step'),
    ...DRAW,
    ...CLEAN,
    ...list('describe-own-step', 'embed-original'),
  ],
} satisfies Record<string, readonly Pass[]>;

/** A typed copy of the model, before any loss. */
export function normalize(
  model: Model,
  oracle: ShapeOracle,
  options: Pick<PassOptions, 'freeBatch'> = {},
): Promise<With<'work' | 'g' | 'origins' | 'model'>> {
  const facts = ['work', 'g', 'origins', 'model'] as const;
  return runPasses(PIPELINES.normalize, contextOf(model, options, oracle), facts);
}

/** The model with a place for each of the parameters that it had merged, and but one; `work` is that with all else done too. */
function withPlaces(model: Model, work: Model): Model {
  if (model.functions.length) return cloneModel(work);
  const placed = cloneModel(model);
  liftSubgraphInitializers(placed);
  splitMergedInitializers(placed, readOrigins(placed));
  tieTransposedInitializers(placed);
  return placed;
}
