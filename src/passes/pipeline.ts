/**
 * The passes, and the order in which each command runs them. The order is important; `requires` and `ensures` state
 * what each pass relies on. The tables in docs/explain/architecture.md are generated from this file.
 */
import { cloneModel } from '../graph/clone.js';
import { isHalf } from '../graph/dtype.js';
import { AgdError } from '../graph/errors.js';
import type { Model, Value } from '../graph/ir.js';
import { Names } from '../graph/names.js';
import { spellDefaultDomain } from '../graph/proto/read.js';
import { neededInputs } from '../graph/prune.js';
import { Tensor } from '../graph/tensor.js';
import { Builder } from '../ops/core/builder.js';
import type { Expr } from '../ops/core/expr.js';
import { loadOperators } from '../ops/index.js';
import { lacksTotal } from '../ops/schedules.js';
import { adapterNames, asksForAdapters, wholeHead } from './adapters/adapter-names.js';
import { checkFixedBases, detachedValues } from './adapters/adapter-record.js';
import {
  contextOf,
  type Facts,
  type Pass,
  type PassOptions,
  pass,
  runPasses,
  type With,
} from './common/context.js';
import { dropUnreadInputs, eliminateDeadNodes } from './common/eliminate-dead-nodes.js';
import { narrowSplits } from './common/narrow-splits.js';
import { addCotangents } from './differentiate/add-cotangents.js';
import { attachLoss, attachSampleLosses, batchWeight, weightOf } from './differentiate/attach-loss.js';
import { activeValues, backward } from './differentiate/backward.js';
import { checkLoss } from './differentiate/check-loss.js';
import { computeInFloat } from './differentiate/compute-in-float.js';
import { drawRandom, numberBatches } from './differentiate/draw-random.js';
import { expandNodes } from './differentiate/expand-nodes.js';
import { precisionOf } from './differentiate/precision.js';
import { addLossScale, unscaled } from './differentiate/scale-loss.js';
import {
  hasBatchNorm,
  leastBatchOf,
  lowerBatchNorm,
  nothingToSynchronize,
  trainBatchNorm,
} from './differentiate/train-batch-norm.js';
import { trainDropout } from './differentiate/train-dropout.js';
import { declareValueTypes } from './file/declare-value-types.js';
import { describeStep } from './file/describe-step.js';
import { embedOriginal, encodeWithout } from './file/embed-original.js';
import { isAttached } from './normalize/attached.js';
import { checkStored } from './normalize/check-attributes.js';
import { expandExtensions } from './normalize/expand-extensions.js';
import { expandSparse } from './normalize/expand-sparse.js';
import { foldShapes } from './normalize/fold-shapes.js';
import { inferShapes, type ShapeOracle } from './normalize/infer-shapes.js';
import { inlineFunctions } from './normalize/inline-functions.js';
import { keepAllPositions } from './normalize/keep-all-positions.js';
import { liftConstants } from './normalize/lift-constants.js';
import { liftSubgraphInitializers } from './normalize/lift-subgraph-initializers.js';
import { lowerOpset } from './normalize/lower-opset.js';
import { splitMergedInitializers } from './normalize/split-merged-initializers.js';
import { tieTransposedInitializers } from './normalize/tie-transposed-initializers.js';
import { upgradeOpset } from './normalize/upgrade-opset.js';
import { beforeWidening, widenBfloat16 } from './normalize/widen-bfloat16.js';
import { noLoss, type ScalarType } from './options.js';
import { groupsOfScales, scaleGradientsOfScales } from './quantize/learned-scales.js';
import { observeRanges } from './quantize/observe-ranges.js';
import { followingScales, scalesOf } from './quantize/quantization-record.js';
import { refuseRounded } from './select/detect-quantization.js';
import { headParameters } from './select/find-head.js';
import { distancesFromHead } from './select/group-layers.js';
import { groupParameters } from './select/group-parameters.js';
import { parameterUses } from './select/parameter-uses.js';
import { readOrigins } from './select/read-origins.js';
import { selectParameters } from './select/select-parameters.js';
import type { Noise } from './update/add-noise.js';
import { attachOptimizer, type GradientPart } from './update/attach-optimizer.js';
import { planSchedule, planUnfreezing } from './update/plan-schedule.js';
import { resolveOptimizer } from './update/resolve-optimizer.js';
import { initializer, output } from './update/transition.js';

const ALL = [
  pass({
    name: 'resolve-optimizer',
    does: "Checks the optimizer's options, and options that cannot be combined",
    requires: [],
    ensures: ['optimizer'],
    async run(c) {
      c.optimizer = resolveOptimizer(c.options);
      if (!c.options.dpSgd) return false;
      const { name, optimizer } = c.optimizer;
      const { checkPrivacy } = await import('./on-demand.js');
      checkPrivacy(c.options, { name, diagonal: optimizer.diagonal });
      return false;
    },
  }),

  // Adapters
  pass({
    name: 'add-adapters',
    does: 'Adds the adapters that the options ask for',
    requires: [],
    ensures: [],
    async run(c) {
      if (!asksForAdapters(c.options)) return false;
      const notes: string[] = [];
      const { withAdapters } = await import('./on-demand.js');
      c.source = await withAdapters(c.source, c.options, c.oracle, notes);
      c.warnings = notes;
      return true;
    },
  }),

  pass({
    name: 'quantize-model',
    does: 'Rounds weights and activations as ONNX Runtime would quantize them',
    requires: [],
    ensures: [],
    async run(c) {
      const { qat, ranges, loss } = c.options;
      if (!qat) return false;
      const { quantizeModel } = await import('./on-demand.js');
      c.source = quantizeModel(c.source, qat, ranges, loss);
      return true;
    },
  }),

  // Normalize
  pass({
    name: 'check-attributes',
    does: 'Rejects nodes with attributes that no kernel accepts',
    requires: [],
    ensures: [],
    run(c) {
      checkStored(c.source.graph);
      return false;
    },
  }),
  pass({
    name: 'copy-model',
    does: 'Copies the model, so that later passes leave the source unchanged',
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
    does: 'Converts operators of older operator sets to opset 18',
    requires: ['work'],
    ensures: ['upgraded'],
    run(c) {
      c.upgraded = true;
      return upgradeOpset(c.work);
    },
  }),
  pass({
    name: 'expand-sparse',
    does: 'Converts sparse initializers to dense ones',
    requires: ['work'],
    ensures: [],
    run: c => expandSparse(c.work),
  }),
  pass({
    name: 'inline-functions',
    does: "Inlines the calls of the model's functions",
    requires: ['work', 'upgraded'],
    ensures: ['inlined'],
    run(c) {
      c.inlined = true;
      return inlineFunctions(c.work);
    },
  }),
  pass({
    name: 'widen-bfloat16',
    does: 'Makes a model of bfloat16 one of float32, with the same numbers',
    requires: ['work', 'inlined'],
    ensures: [],
    run: c => widenBfloat16(c.work),
  }),
  pass({
    name: 'lower-opset',
    does: 'Declares an older operator set if the runtime lacks a kernel of the newer one',
    requires: ['work', 'inlined'],
    ensures: [],
    run: c => lowerOpset(c.work),
  }),
  pass({
    name: 'read-origins',
    does: 'Reads what the file records about its constants: parameters, buffers, folded values',
    requires: ['work', 'inlined'],
    ensures: ['origins'],
    run(c) {
      c.origins = readOrigins(c.work);
      return false;
    },
  }),
  pass({
    name: 'lift-subgraph-initializers',
    does: 'Moves initializers of subgraphs to the main graph, where they can train',
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
    does: 'Ties weights of which an exporter stored a transposed copy',
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
    does: 'Gives the model that trained values are written back to the same parameters',
    requires: ['work', 'moved'],
    ensures: ['model'],
    async run(c) {
      c.model = c.moved ? await withPlaces(c) : c.source;
      return false;
    },
  }),
  pass({
    name: 'lift-constants',
    does: 'Converts Constant nodes that hold weights to initializers',
    requires: ['work', 'inlined'],
    ensures: [],
    run: c => liftConstants(c.work),
  }),
  pass({
    name: 'expand-extensions',
    does: 'Expands operators that extensions define, and forms without a kernel, in standard operators',
    requires: ['work', 'inlined'],
    ensures: [],
    run: c => expandExtensions(c.work, c.oracle, c.options.provider),
  }),
  pass({
    name: 'add-segments',
    does: 'Adds the input that tells documents packed into one row apart, and computes positions from it',
    requires: ['work', 'inlined'],
    ensures: [],
    async run(c) {
      if (!c.options.pack) return false;
      const { addSegments } = await import('./on-demand.js');
      addSegments(c.work);
      return true;
    },
  }),
  pass({
    name: 'derive-inputs',
    does: 'Computes the inputs of a decoder that follow from its tokens, where these are named',
    requires: ['work', 'inlined'],
    ensures: [],
    async run(c) {
      const { deriveInputs: globs } = c.options;
      if (!globs?.length) return false;
      const { deriveInputs } = await import('./on-demand.js');
      deriveInputs(c.work, globs);
      return true;
    },
  }),
  pass({
    name: 'keep-all-positions',
    does: 'Lets a head that reads the last token only read all of them, where that is asked for',
    requires: ['work', 'inlined'],
    ensures: [],
    run(c) {
      if (!c.options.allPositions) return false;
      keepAllPositions(c.work);
      return true;
    },
  }),
  pass({
    name: 'free-batch',
    does: 'Makes a batch size that the exporter fixed variable, for the inputs that are named',
    requires: ['work', 'inlined'],
    ensures: [],
    async run(c) {
      const { freeBatch: names } = c.options;
      if (!names?.length) return false;
      const { freeBatch } = await import('./on-demand.js');
      await freeBatch(c.work, names, c.oracle);
      return true;
    },
  }),
  pass({
    name: 'infer-shapes',
    does: 'Infers element types and shapes of all values with ONNX Runtime',
    requires: ['work'],
    ensures: ['typed'],
    async run(c) {
      c.typed = true;
      return inferShapes(c.work, c.oracle);
    },
  }),
  pass({
    name: 'fold-shapes',
    does: 'Evaluates the shape arithmetic that exporters leave in a graph',
    requires: ['work', 'typed'],
    ensures: [],
    repeatFrom: 'infer-shapes',
    // What a GPU waits for is worth folding, even if no type depends on it.
    run: c => foldShapes(c.work, { all: c.options.provider === 'cuda' }),
  }),
  pass({
    name: 'open-graph',
    does: 'Creates the builder that adds nodes to the typed graph',
    requires: ['work', 'typed'],
    ensures: ['g'],
    run(c) {
      const { work, options } = c;
      c.g = new Builder(work.graph, {
        names: Names.of(work),
        opsets: work.opsetImports,
        provider: options.provider,
      });
      return false;
    },
  }),
  pass({
    name: 'mask-segments',
    does: 'Keeps attention within the documents of a row, where these are packed',
    requires: ['work', 'g'],
    ensures: [],
    async run(c) {
      if (!c.options.pack) return false;
      const { maskSegments } = await import('./on-demand.js');
      maskSegments(c.g);
      return true;
    },
  }),

  // Loss and parameters
  pass({
    name: 'attach-loss',
    does: 'Adds the loss as an output and the target as an input',
    requires: ['work', 'g'],
    ensures: ['spec', 'loss', 'inference', 'exports', 'lossNodes'],
    run(c) {
      const { g, options } = c;
      if (!options.loss) throw noLoss();
      c.spec = options.loss;
      const before = new Set(g.graph.nodes);
      const isPartial = options.lossDivisor || (options.accumulate ?? 1) > 1;
      c.loss = attachLoss(g, c.spec, { emptyIsZero: isPartial, inParts: isPartial && !options.dpSgd });
      const { loss, exposed } = c.loss;
      const own = g.graph.outputs.filter(v => v !== loss && !exposed?.includes(v) && !isAttached(v.name));
      c.inference = own.map(v => v.name);
      c.lossNodes = new Set(g.graph.nodes.filter(node => !before.has(node)));
      c.exports = options.exports && [...options.exports];
      return true;
    },
  }),
  pass({
    name: 'attach-sample-losses',
    does: 'Adds the loss of each sample as an output, or the mean if the model computes its loss itself',
    requires: ['g'],
    ensures: ['samples'],
    run(c) {
      const { g, options } = c;
      if (!options.loss) throw noLoss();
      if (options.loss.kind === 'output') c.loss = attachLoss(g, options.loss);
      c.samples = options.loss.kind === 'output' ? undefined : attachSampleLosses(g, options.loss);
      return true;
    },
  }),
  pass({
    name: 'choose-state',
    does: 'Selects the parameters and running statistics that are fed in evaluation',
    requires: ['work', 'g'],
    ensures: ['trained'],
    run(c) {
      c.trained = [...c.work.graph.initializers.keys()].filter(v => c.options.state?.has(v.name));
      c.g.forget(c.trained);
      return false;
    },
  }),
  pass({
    name: 'add-cotangents',
    does: 'Adds a cotangent input for each output to differentiate',
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
      'spec',
      'loss',
      'inference',
      'exports',
      'parameters',
      'trained',
      'given',
      'statistics',
      'leastBatch',
      'warnings',
      'model',
    ],
    async run(c) {
      const { useGradients } = await import('./on-demand.js');
      Object.assign(c, useGradients(c.g, c.work, c.source, c.options));
      return true;
    },
  }),
  pass({
    name: 'select-parameters',
    does: 'Decides which initializers train: by options, then by the file, then by rules',
    requires: ['work', 'g', 'origins', 'loss'],
    ensures: ['parameters', 'trained'],
    async run(c) {
      const { graph } = c.g;
      const { loss, output, constants } = c.loss;
      const ends = c.spec?.kind === 'output' ? graph.outputs.filter(v => v !== loss) : [output ?? loss];
      const head = () => headParameters(c.work, ends);
      const adapters = adapterNames(c.work);
      const given = { constants, head, adapters, newHead: wholeHead(c.work), quantizers: scalesOf(c.work) };
      c.parameters = await selectParameters(graph, [loss], c.origins, c.options, given);
      refuseRounded(graph, c.parameters, c.options);
      c.trained = c.parameters.flatMap(p => (p.trains ? [p.value] : []));
      c.g.forget(c.trained);
      return false;
    },
  }),
  pass({
    name: 'choose-wrt',
    does: 'Selects the inputs and initializers to differentiate with respect to',
    requires: ['g'],
    ensures: ['trained'],
    async run(c) {
      const { g, options, loss } = c;
      if (!options.wrt)
        throw new AgdError('bad-option', 'Choose with --wrt what to differentiate with respect to.');
      const { chooseWrt } = await import('./on-demand.js');
      c.trained = chooseWrt(g.graph, options.wrt, loss?.constants);
      g.forget(c.trained);
      return false;
    },
  }),
  pass({
    name: 'check-loss',
    does: 'Warns if the loss does not seem to fit the output that it reads',
    requires: ['g', 'spec', 'loss'],
    ensures: ['warnings'],
    run(c) {
      const found = c.loss.output ? checkLoss(c.g.graph, c.spec, c.loss.output) : [];
      c.warnings = [...(c.warnings ?? []), ...found];
      return false;
    },
  }),
  pass({
    name: 'group-parameters',
    does: 'Resolves the optimizer options that differ by parameter',
    requires: ['work', 'g', 'loss', 'trained', 'optimizer'],
    ensures: ['groups', 'distances'],
    async run(c) {
      const { optimizer, settings } = c.optimizer;
      const { layerDecay, unfreezeEvery } = c.options;
      const byLayer = layerDecay !== undefined || unfreezeEvery !== undefined;
      c.distances = byLayer ? distancesFromHead(c.g.graph, c.trained) : [];
      const ends = [c.loss.output ?? c.loss.loss];
      const uses = optimizer.forUse ? parameterUses(c.g.graph, c.trained, ends) : [];
      const groups = await groupParameters(c.trained, optimizer, settings, c.options, c.distances, uses);
      const chosen = { name: c.optimizer.name, settings };
      c.groups = groupsOfScales(c.work, c.trained, groups, chosen, c.options.groups);
      return false;
    },
  }),

  // Differentiate
  pass({
    name: 'detach-values',
    does: 'Selects the values that a step takes as constants: norms of DoRA, scales that follow the data',
    requires: ['work', 'trained'],
    ensures: ['detached'],
    run(c) {
      checkFixedBases(c.work, c.trained);
      c.detached = new Set([...detachedValues(c.work), ...followingScales(c.work)]);
      return false;
    },
  }),
  pass({
    name: 'train-batch-norm',
    does: 'Sets batch normalization to training or inference mode',
    requires: ['g'],
    ensures: ['statistics', 'leastBatch'],
    run(c) {
      const { g, options } = c;
      const { batchNorm = 'train' } = options;
      const changed = hasBatchNorm(g.graph);
      c.leastBatch = batchNorm === 'train' ? leastBatchOf(g) : undefined;
      if (options.syncBatchNorm) g.scope.synchronized = { statistics: new Map(), sums: new Set() };
      c.statistics = trainBatchNorm(g, batchNorm);
      if (options.syncBatchNorm && !g.scope.synchronized?.statistics.size)
        throw nothingToSynchronize(batchNorm);
      return changed;
    },
  }),
  pass({
    name: 'train-dropout',
    does: 'Sets dropout to training or inference mode',
    requires: ['g'],
    ensures: [],
    run: c => trainDropout(c.g, c.options.dropout ?? 'train'),
  }),
  pass({
    name: 'lower-precision',
    does: 'Computes products in 16 bits and what loses by that in float32, where that is asked for',
    requires: ['g', 'trained', 'lossNodes', 'detached'],
    ensures: ['precision'],
    async run(c) {
      const weights = c.trained.map(p => c.g.graph.initializers.get(p));
      c.precision = precisionOf(c.options, c.trained, c.g.provider, {
        isBfloat: weights.some(w => w && beforeWidening(w)),
      });
      if (!c.precision) return false;
      const isHalfModel = c.trained.some(p => isHalf(p.dtype));
      if (c.precision === 'fp32' && !isHalfModel) return false;
      const { lowerPrecision } = await import('./on-demand.js');
      return lowerPrecision(c.g, c.precision, {
        kept: c.lossNodes,
        constants: c.detached,
        rounds: c.g.provider === 'cpu',
      });
    },
  }),
  pass({
    name: 'scale-loss',
    does: 'Adds a loss scale that adapts to the gradients, where these are float16',
    requires: ['g', 'precision'],
    ensures: ['scaling'],
    run(c) {
      c.scaling = c.precision === 'fp16' ? addLossScale(c.g, c.options) : undefined;
      return c.scaling !== undefined;
    },
  }),
  pass({
    name: 'observe-ranges',
    does: 'Moves averaged ranges of quantization towards those of the batch',
    requires: ['work', 'g', 'statistics'],
    ensures: [],
    run(c) {
      const updates = observeRanges(c.g, c.work);
      c.statistics.push(...updates);
      return updates.length > 0;
    },
  }),
  pass({
    name: 'separate-samples',
    does: 'Prepares the graph for the gradients of single samples, for differentially private training',
    requires: ['g', 'loss', 'trained', 'statistics'],
    ensures: ['perSample'],
    async run(c) {
      const { g, loss, trained, options } = c;
      c.perSample = undefined;
      if (!options.dpSgd) return false;
      const { checkStatistics, separateSamples } = await import('./on-demand.js');
      checkStatistics(g, c.statistics);
      await loadOperators();
      c.perSample = separateSamples(g, loss, trained, options.dpSgd, options.onNonfinite);
      return true;
    },
  }),
  pass({
    name: 'look-up-rows',
    does: 'Merges the lookups of each table with sparse updates into one',
    requires: ['g', 'trained'],
    ensures: ['lookups'],
    async run(c) {
      const { lazyRows } = c.options;
      c.lookups = new Map();
      if (!lazyRows?.length) return false;
      const { lookUpRows } = await import('./on-demand.js');
      c.lookups = lookUpRows(c.g, c.trained, lazyRows);
      return c.lookups.size > 0;
    },
  }),
  pass({
    name: 'draw-random',
    does: 'Replaces random operators by a counter-based generator, so that runs can be resumed',
    requires: ['g'],
    ensures: ['drawn'],
    run(c) {
      const { g, options } = c;
      const stream = () => {
        c.stream = initializer(g, 'random_stream', Tensor.filled('int64', [], 0));
        return c.stream;
      };
      c.drawn = { key: drawRandom(g, options.seed ?? 0, options.lossDivisor ? stream : undefined) };
      return c.drawn.key !== undefined;
    },
  }),
  pass({
    name: 'backward',
    does: 'Adds the backward pass',
    requires: ['work', 'g', 'trained'],
    ensures: ['cotangents'],
    async run(c) {
      const { g, loss, perSample, options, seeds = new Map() } = c;
      if (perSample) {
        const { clipSamples } = await import('./on-demand.js');
        c.cotangents = clipSamples(g, perSample, c.trained, options.dpSgd!, {
          ...options,
          detached: c.detached,
        });
        return true;
      }
      const start = c.scaling && g.of(c.scaling.scale);
      const seedOf = (e: Expr) => (start ? e.ones().mul(start.cast(e.dtype)) : e.ones());
      const wrt = c.trained.map(p => c.lookups?.get(p)?.looked ?? p);
      const back = (from: ReadonlyMap<Value, Expr>) =>
        backward(g, from, wrt, { ...c.options, detached: c.detached });
      const ends = loss?.parts?.map(part => part.loss) ?? (loss ? [g.of(loss.loss)] : []);
      const [first = seeds, ...rest] = ends.map(end => new Map([[end.value, seedOf(end)]]));
      c.cotangents = back(first);
      c.furtherCotangents = rest.map(back);
      return true;
    },
  }),
  pass({
    name: 'lower-batch-norm',
    does: 'Expands training-mode batch normalization into operators that all execution providers support',
    requires: ['g'],
    ensures: [],
    run(c) {
      const changed = hasBatchNorm(c.g.graph);
      lowerBatchNorm(c.g);
      return changed;
    },
  }),
  pass({
    name: 'scale-gradients-of-scales',
    does: 'Scales the gradients of learned quantization scales',
    requires: ['work', 'g', 'trained', 'cotangents'],
    ensures: [],
    run(c) {
      const before = c.cotangents;
      const scaled = (list: Facts['cotangents']) => scaleGradientsOfScales(c.g, c.work, c.trained, list);
      c.cotangents = scaled(before);
      c.furtherCotangents = c.furtherCotangents?.map(scaled);
      return c.cotangents.some((e, i) => e !== before[i]);
    },
  }),
  pass({
    name: 'unscale-gradients',
    does: 'Divides the gradients, in float32, by the loss scale',
    requires: ['scaling', 'cotangents'],
    ensures: [],
    run(c) {
      const { scaling } = c;
      if (!scaling) return false;
      const all = (list: Facts['cotangents']) => list.map(e => e && unscaled(e, scaling));
      c.cotangents = all(c.cotangents);
      c.furtherCotangents = c.furtherCotangents?.map(all);
      return true;
    },
  }),
  pass({
    name: 'name-gradients',
    does: 'Names gradients after their parameters; parameters without a gradient get zeros',
    requires: ['g', 'trained', 'cotangents'],
    ensures: ['grads', 'gradParts'],
    run(c) {
      const { g, trained, cotangents, furtherCotangents = [], lookups } = c;
      const lists = [cotangents, ...furtherCotangents];
      c.gradParts = lists.map(list =>
        trained.map((p, i) => {
          const isMissing = list === cotangents && lists.every(other => !other[i]);
          const zeros = () => g.of(lookups?.get(p)?.looked ?? p).zeros();
          const grad = list[i] ?? (isMissing ? zeros() : undefined);
          return grad && g.of(g.rename(grad, `${p.name}_grad`));
        }),
      );
      c.grads = firstGradients(c.gradParts);
      return trained.length > 0;
    },
  }),
  pass({
    name: 'checkpoint-activations',
    does: 'Recomputes activations in the backward pass instead of keeping them',
    requires: ['g', 'loss', 'statistics', 'lookups', 'gradParts'],
    ensures: [],
    async run(c) {
      const { checkpointActivations: segments } = c.options;
      if (segments === undefined || segments === false) return false;
      const { checkpointActivations } = await import('./on-demand.js');
      const kept = [...c.lookups.values()].map(({ rows }) => rows);
      const exchanged = [...(c.g.scope.synchronized?.statistics.values() ?? [])].flatMap(
        Object.values<Value>,
      );
      const updated = c.statistics.map(s => s.value);
      const results = [c.loss.loss, ...c.g.graph.outputs, ...updated, ...exchanged, ...kept];
      const grads = c.gradParts.flat().flatMap(e => e?.value ?? []);
      return checkpointActivations(c.g, results, grads, segments === true ? undefined : segments);
    },
  }),
  pass({
    name: 'sum-rows',
    does: 'Sums the gradients of equal rows of a table',
    requires: ['g', 'trained', 'lookups', 'gradParts'],
    ensures: ['lastRows'],
    async run(c) {
      c.lastRows = new Map();
      if (!c.lookups.size) return false;
      const { sumLookups } = await import('./on-demand.js');
      Object.assign(c, sumLookups(c.g, c.trained, c.gradParts, c.lookups));
      c.grads = firstGradients(c.gradParts);
      return true;
    },
  }),
  pass({
    name: 'perturb-weights',
    does: 'Computes the gradients once more at perturbed weights, for sharpness-aware minimization',
    requires: ['g', 'trained', 'gradParts', 'lookups', 'lastRows'],
    ensures: ['perturbed'],
    async run(c) {
      c.perturbed = undefined;
      const ball = c.options.sam ?? c.options.wsam;
      if (!ball || !c.trained.length) return false;
      const { perturbWeights } = await import('./on-demand.js');
      const again = perturbWeights(c, ball, scalarTypeOf(c.options));
      if (c.options.wsam) c.perturbed = again;
      else Object.assign(c, { gradParts: again, grads: firstGradients(again) });
      return true;
    },
  }),
  pass({
    name: 'take-gradients',
    does: 'Uses the gradients that the graph computes',
    requires: ['g', 'trained', 'given'],
    ensures: ['grads', 'gradParts', 'lookups', 'lastRows'],
    run(c) {
      c.grads = c.trained.map(p => c.g.of(c.given.get(p)!));
      c.gradParts = [c.grads];
      c.lookups = new Map();
      c.lastRows = new Map();
      return false;
    },
  }),
  pass({
    name: 'compute-in-float',
    does: 'Makes quantized products that depend on trained values compute in floating point',
    requires: ['work', 'trained'],
    ensures: [],
    run: c => computeInFloat(c.work.graph, c.trained),
  }),
  pass({
    name: 'return-objective',
    does: 'Makes the values to differentiate the graph outputs, as functions of the inputs that are fed',
    requires: ['g', 'trained'],
    ensures: [],
    run(c) {
      const { g, loss, seeds = new Map<Value, Expr>() } = c;
      g.graph.outputs = loss ? [loss.loss] : [...seeds.keys()];
      expandUnfed(c, g.graph.outputs, loss?.target);
      return true;
    },
  }),
  pass({
    name: 'feed-state',
    does: 'Turns parameters and running statistics into inputs without a default',
    requires: ['work', 'trained'],
    ensures: [],
    run(c) {
      const { graph } = c.work;
      for (const value of c.trained) {
        graph.initializers.delete(value);
        if (!graph.inputs.includes(value)) graph.inputs.push(value);
      }
      return c.trained.length > 0;
    },
  }),
  pass({
    name: 'return-losses',
    does: 'Makes the losses and the output that they read the graph outputs',
    requires: ['g', 'samples', 'trained'],
    ensures: [],
    run(c) {
      const { g, samples, loss, options } = c;
      const ofSamples = samples && [...samples.terms.flatMap(t => [t.losses, t.weights]), samples.output];
      const results = [loss?.loss.name, options.loss?.output, ...(ofSamples ?? []).map(v => v?.name)];
      g.graph.outputs = g.graph.outputs.filter(v => results.includes(v.name));
      return true;
    },
  }),
  pass({
    name: 'expand-unfed',
    does: 'Expands operators whose kernels read inputs that are not fed',
    requires: ['g', 'trained'],
    ensures: [],
    run(c) {
      const before = c.g.graph.nodes.length;
      expandUnfed(c, c.g.graph.outputs);
      return c.g.graph.nodes.length !== before;
    },
  }),
  pass({
    name: 'return-gradients',
    does: 'Makes loss and gradients the graph outputs',
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
  pass({
    name: 'add-derivatives',
    does: 'Adds the requested derivatives as outputs, with an input for each direction',
    requires: ['g', 'trained'],
    ensures: ['derivatives'],
    async run(c) {
      const { addDerivatives, checkModes, valuesToDifferentiate } = await import('./on-demand.js');
      const { g, trained, loss, options } = c;
      const { mode, of } = options.derivatives!;
      const names = of ?? g.graph.outputs.map(v => v.name);
      if (!loss && !of && names.length !== 1)
        throw new AgdError('bad-option', `Choose with --of what to differentiate: ${names.join(', ')}.`);
      const ys = loss ? [loss.loss] : valuesToDifferentiate(g.graph, names);
      checkModes(ys, mode);
      await loadOperators();
      c.derivatives = addDerivatives(g, ys, trained, mode, options);
      // Callers may evaluate it at other parameters than those of the file.
      g.graph.inputs.push(...trained.filter(x => !g.graph.inputs.includes(x)));
      return true;
    },
  }),

  // Update
  pass({
    name: 'plan-schedule',
    does: 'Ends a schedule without a length at the end of the run',
    requires: ['g', 'loss', 'grads', 'leastBatch'],
    ensures: ['schedule'],
    async run(c) {
      c.schedule = await planSchedule(c.g.graph, c.options, c.loss, c.grads, c.leastBatch);
      return false;
    },
  }),
  pass({
    name: 'plan-unfreezing',
    does: 'Finds the update in which each layer begins to train, where they begin one after the other',
    requires: ['g', 'loss', 'grads', 'leastBatch', 'distances'],
    ensures: ['begins'],
    async run(c) {
      c.begins = await planUnfreezing(c.g.graph, c.options, c.distances, c.loss, c.grads, c.leastBatch);
      return false;
    },
  }),
  pass({
    name: 'return-divisor',
    does: 'Adds an output with what the loss of a batch is divided by, for each part of the loss that is divided by its own',
    requires: ['g', 'loss'],
    ensures: ['divisor', 'lossParts'],
    run(c) {
      c.divisor = undefined;
      c.lossParts = undefined;
      if (!c.options.lossDivisor) return false;
      const named = (divisor: Expr) => output(c.g, divisor, 'loss_divisor');
      c.lossParts = c.loss.parts?.map(({ loss, weight }) => ({
        loss: output(c.g, loss, 'loss_part'),
        divisor: named(weight),
      }));
      const divisor = c.lossParts ? undefined : divisorOf(c);
      c.divisor = c.lossParts?.[0]?.divisor ?? (divisor && named(divisor));
      if (c.divisor && c.perSample) c.perSample.samples = c.g.of(c.divisor);
      return c.divisor !== undefined;
    },
  }),
  pass({
    name: 'attach-optimizer',
    does: 'Adds the update of parameters, optimizer state and running statistics',
    requires: [
      'work',
      'g',
      'optimizer',
      'trained',
      'grads',
      'groups',
      'lookups',
      'lastRows',
      'statistics',
      'schedule',
      'begins',
      'divisor',
      'lossParts',
      'gradParts',
      'perturbed',
    ],
    ensures: ['attached', 'batchNumber'],
    async run(c) {
      const { g, work, options, grads, groups, lookups, lastRows, schedule } = c;
      const { optimizer, settings } = c.optimizer;
      const parameters = c.trained.map((param, i) => {
        const lookup = lookups.get(param);
        const last = lastRows.get(param);
        return {
          param,
          grad: grads[i]!,
          options: { ...settings, ...groups[i] },
          lookup: lookup && last && { ...lookup, last },
          begins: c.begins[i],
        };
      });
      const planned = {
        ...options,
        scalars: scalarTypeOf(options),
        schedule,
        endsWithRun: !!options.schedule && lacksTotal(options.schedule),
        noise: noiseOf(c),
        batchWeight: batchWeightOf(c),
        parts: partsOf(c),
        scaling: c.scaling,
        perturbed: c.perturbed,
      };
      if (optimizer.diagonal) await loadOperators();
      const hasColumns = c.trained.some(({ shape }) => shape!.length > 1 && shape!.at(-1) === 1);
      const before = new Set(hasColumns ? work.graph.nodes : []);
      c.attached = attachOptimizer(g, optimizer, settings.lr, parameters, planned, c.statistics);
      const { step, counter, skipped } = c.attached;
      if (hasColumns) {
        // A program that runs the file has no passes of the trainer's.
        const { lendAxes } = await import('./on-demand.js');
        const added = work.graph.nodes.filter(node => !before.has(node));
        lendAxes(work, added, g.scope.names);
      }
      c.batchNumber = () => {
        const updated = g.of(step).mul(options.accumulate ?? 1);
        return [counter, skipped].reduce((n, more) => (more ? n.add(g.of(more)) : n), updated);
      };
      return true;
    },
  }),
  pass({
    name: 'number-batches',
    does: 'Computes the key of the random numbers from the number of batches so far',
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
    does: 'Removes inputs that nothing reads',
    requires: ['work'],
    ensures: [],
    run: c => dropUnreadInputs(c.work),
  }),
  pass({
    name: 'narrow-splits',
    does: 'Splits in several nodes what WebGPU cannot split in one, if the step is written for it',
    requires: ['work'],
    ensures: [],
    run: c => c.options.provider === 'webgpu' && narrowSplits(c.work),
  }),
  pass({
    name: 'declare-value-types',
    does: 'Declares the types of values whose shapes no runtime infers',
    requires: ['work', 'typed'],
    ensures: [],
    run: c => declareValueTypes(c.work),
  }),
  pass({
    name: 'describe-step',
    does: 'Binds states to their next values, and describes the step in the metadata',
    requires: [
      'work',
      'g',
      'optimizer',
      'spec',
      'loss',
      'inference',
      'exports',
      'trained',
      'groups',
      'grads',
      'statistics',
      'leastBatch',
      'schedule',
      'begins',
      'divisor',
      'lossParts',
      'attached',
    ],
    ensures: ['description'],
    run(c) {
      c.description = describeStep(c);
      return true;
    },
  }),
  pass({
    name: 'embed-original',
    does: 'Stores the original file in the metadata, without the tensors that the graph holds',
    requires: ['work', 'model', 'description'],
    ensures: [],
    run(c) {
      const { model, description, options } = c;
      const isRewritten = c.moved || asksForAdapters(options) || options.qat;
      const original = (!isRewritten && options.original) || encodeWithout(c.work.graph.initializers, model);
      const learned = [...description.parameters.map(p => p.name), ...description.statistics];
      embedOriginal(c.work, original, model, learned);
      return true;
    },
  }),

  // The model's own training step
  pass({
    name: 'read-algorithm',
    does: "Makes the model's own training step the main graph",
    requires: [],
    ensures: ['work', 'bindings'],
    async run(c) {
      const { readAlgorithm } = await import('./on-demand.js');
      Object.assign(c, readAlgorithm(c.source, c.options));
      return true;
    },
  }),
  pass({
    name: 'lower-training-operators',
    does: "Expands ONNX's Gradient and optimizer operators into standard ones",
    requires: ['work'],
    ensures: ['operators', 'inlined'],
    async run(c) {
      const { lowerTrainingOperators } = await import('./on-demand.js');
      c.operators = await lowerTrainingOperators(c.work, c.oracle);
      c.inlined = true;
      return true;
    },
  }),
  pass({
    name: 'adopt-step',
    does: "Turns state, learning rate and update count of the model's own step into inputs and outputs",
    requires: ['work', 'g', 'operators', 'bindings'],
    ensures: ['spec', 'loss', 'own', 'batchNumber', 'model', 'trained'],
    async run(c) {
      const { adoptStep } = await import('./on-demand.js');
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
    async run(c) {
      const { describeOwnStep } = await import('./on-demand.js');
      Object.assign(c, describeOwnStep(c));
      return true;
    },
  }),
] as const satisfies readonly Pass[];

/** Most GPUs are slow in float64, and WebGPU in browsers comes without it. */
const scalarTypeOf = ({ scalars, provider = 'cpu' }: PassOptions): ScalarType =>
  scalars ?? (provider === 'cpu' ? 'float64' : 'float32');

/** With privacy, each sample counts the same. */
function batchWeightOf({ g, loss, divisor, options }: With<'g'>): Expr | undefined {
  const { accumulate = 1, dpSgd } = options;
  if (!loss || accumulate === 1 || dpSgd) return undefined;
  return divisor ? g.of(divisor) : batchWeight(loss);
}

/** The gradients of the losses that count different positions, each with what it weighs. */
const partsOf = ({
  g,
  loss,
  lossParts,
  gradParts,
}: With<'g' | 'lossParts' | 'gradParts'>): GradientPart[] | undefined =>
  loss?.parts?.map(({ weight }, i) => {
    const divisor = lossParts?.[i]?.divisor;
    return { weight: divisor ? g.of(divisor) : weight, grads: gradParts[i]! };
  });

/** The gradient of each parameter in the first part of the loss that has one. */
const firstGradients = (parts: readonly (readonly (Expr | undefined)[])[]): Expr[] =>
  parts[0]!.map((_, i) => parts.find(list => list[i])![i]!);

/** With privacy, the number of samples, by which the sum of their gradients is divided. */
function divisorOf({ loss, perSample }: With<'loss'>): Expr | undefined {
  if (perSample) return perSample.samples;
  return loss.terms && weightOf(loss.terms[0]!);
}

/** The noise of an update, if there is any. */
function noiseOf(c: With<'g'>): Noise | undefined {
  const { g, perSample, options, drawn } = c;
  if (!perSample || !options.dpSgd) return undefined;
  const { clip, noise = 0, batch } = options.dpSgd;
  const key = drawn?.key ?? g.newValue('batch_key', { kind: 'tensor', dtype: 'int64', shape: [] });
  if (noise > 0) c.drawn = { key };
  const samples = batch === undefined ? perSample.samples.op('Max', [1]) : g.scalar(batch, 'int64');
  return { deviation: noise * clip, samples, key, seed: options.seed ?? 0 };
}

/**
 * Expands operators if their kernels read inputs that are not fed: a gradient, and so a training step, may not depend on
 * all that a kernel reads, such as the lengths of sequences.
 */
function expandUnfed(
  { g, options, trained }: With<'g' | 'trained'>,
  outputs: readonly Value[],
  target?: Value,
) {
  const isFed = (v: Value) => v === target || (options.fed?.has(v.name) ?? true);
  if (!neededInputs(g.graph, outputs).every(isFed)) expandNodes(g, activeValues(g.graph.nodes, trained));
}

/** Every pass by name. Each can run alone, on a context with the facts that it requires. */
export const PASSES: ReadonlyMap<string, Pass> = new Map(ALL.map(p => [p.name, p]));

function list(...names: string[]): Pass[] {
  return names.map(name => {
    const found = PASSES.get(name);
    if (!found) throw new Error(`Unknown pass '${name}'.`);
    return found;
  });
}

const STANDARDIZE = list(
  'check-attributes',
  'add-adapters',
  'quantize-model',
  'copy-model',
  'upgrade-opset',
  'expand-sparse',
  'inline-functions',
  'widen-bfloat16',
  'lower-opset',
  'read-origins',
  'lift-subgraph-initializers',
);
const PLACE = list('split-merged-initializers', 'tie-transposed-initializers', 'place-parameters');
const PLACE_IN_SOURCE = list(
  'lift-subgraph-initializers',
  'read-origins',
  'split-merged-initializers',
  'tie-transposed-initializers',
);
const INFER = list('infer-shapes', 'fold-shapes', 'open-graph', 'mask-segments');
const NORMALIZE = [
  ...STANDARDIZE,
  ...PLACE,
  ...list('lift-constants', 'add-segments', 'derive-inputs', 'keep-all-positions', 'expand-extensions'),
  ...list('free-batch'),
  ...INFER,
];
const CLEAN = list('eliminate-dead-nodes', 'drop-unread-inputs');
const UPDATE = [
  ...list('plan-schedule', 'plan-unfreezing', 'return-divisor', 'attach-optimizer', 'number-batches'),
  ...CLEAN,
  ...list('narrow-splits', 'declare-value-types', 'describe-step', 'embed-original'),
];
const MODES = list('train-batch-norm', 'train-dropout');
const DRAW = list('draw-random', 'number-batches', 'compute-in-float');

/** What is differentiated, and with respect to what: a loss by the trained parameters or by `wrt`, or outputs by `wrt`. */
const OF_PARAMETERS = [
  ...NORMALIZE,
  ...list('attach-loss', 'check-loss', 'select-parameters'),
  ...MODES,
  ...DRAW,
];
const OF_WRT = [...NORMALIZE, ...list('attach-loss', 'check-loss', 'choose-wrt'), ...MODES, ...DRAW];
const OF_OUTPUTS = [...NORMALIZE, ...list('add-cotangents', 'choose-wrt'), ...DRAW];
const GRADIENTS = [...list('backward', 'lower-batch-norm', 'return-gradients'), ...CLEAN];
const DERIVATIVES = [
  ...DRAW,
  ...list('add-derivatives', 'lower-batch-norm'),
  ...CLEAN,
  ...list('narrow-splits', 'declare-value-types'),
];
const OBJECTIVE = [...list('lower-batch-norm', 'return-objective'), ...CLEAN];

/** The passes of each use, in order. */
export const PIPELINES = {
  /** A typed copy, ready to be differentiated, with an initializer for each parameter. */
  normalize: NORMALIZE,
  /** A training step from a loss. */
  inject: [
    ...list('resolve-optimizer'),
    ...NORMALIZE,
    ...list('attach-loss', 'select-parameters', 'check-loss', 'group-parameters'),
    ...MODES,
    ...list('observe-ranges', 'detach-values', 'lower-precision', 'separate-samples', 'look-up-rows'),
    ...list('draw-random', 'scale-loss', 'backward'),
    ...list('lower-batch-norm', 'scale-gradients-of-scales', 'unscale-gradients', 'name-gradients'),
    ...list('checkpoint-activations', 'sum-rows', 'perturb-weights', 'compute-in-float'),
    ...UPDATE,
  ],
  /** A training step from gradients that the graph computes. */
  injectGradients: [
    ...list('resolve-optimizer'),
    ...STANDARDIZE,
    ...list('lift-constants', 'add-segments', 'derive-inputs', 'keep-all-positions', 'expand-extensions'),
    ...INFER,
    ...list('use-gradients', 'group-parameters', 'draw-random', 'take-gradients', 'perturb-weights'),
    ...list('compute-in-float'),
    ...UPDATE,
  ],
  /** Loss and gradients with respect to the parameters that would train. */
  gradients: [...OF_PARAMETERS, ...GRADIENTS],
  /** The same with respect to `wrt`. */
  gradientsByName: [...OF_WRT, ...GRADIENTS],
  /** Vector-Jacobian products. */
  pullback: [...OF_OUTPUTS, ...GRADIENTS],
  /** The functions that these three differentiate, for finite differences. */
  objective: [...OF_PARAMETERS, ...OBJECTIVE],
  objectiveByName: [...OF_WRT, ...OBJECTIVE],
  objectiveOfPullback: [...OF_OUTPUTS, ...OBJECTIVE],
  /** Derivatives of values, and of a loss, to be written to a file. */
  derivatives: [...NORMALIZE, ...list('choose-wrt'), ...DERIVATIVES],
  derivativesOfLoss: [...NORMALIZE, ...list('attach-loss', 'check-loss', 'choose-wrt'), ...DERIVATIVES],
  /** The losses of samples, for validation. */
  evaluate: [
    ...NORMALIZE,
    ...list('attach-sample-losses', 'choose-state', 'compute-in-float'),
    ...MODES,
    ...list('draw-random', 'number-batches', 'feed-state', 'return-losses', 'expand-unfed'),
    ...CLEAN,
  ],
  /** The outputs of the model, for predictions. */
  predict: [
    ...NORMALIZE,
    ...list('choose-state', 'compute-in-float'),
    ...MODES,
    ...list('draw-random', 'number-batches', 'feed-state', 'expand-unfed'),
    ...CLEAN,
  ],
  /** Expands ONNX's training operators in the main graph, before any other pipeline. */
  lowerTraining: list('copy-model', 'lower-training-operators'),
  /** Reads the training step that a model contains, without rewriting its state. */
  readStep: list('read-algorithm', 'lower-training-operators', 'infer-shapes'),
  /** Turns that step into one that the trainer can run. */
  adopt: [
    ...list('read-algorithm', 'lower-training-operators', 'infer-shapes', 'open-graph', 'adopt-step'),
    ...DRAW,
    ...CLEAN,
    ...list('narrow-splits', 'describe-own-step', 'embed-original'),
  ],
} satisfies Record<string, readonly Pass[]>;

/** A typed copy of the model, before any loss. */
export function normalize(
  model: Model,
  oracle: ShapeOracle,
  options: Pick<PassOptions, 'freeBatch' | 'deriveInputs' | 'allPositions' | 'pack'> = {},
): Promise<With<'work' | 'g' | 'origins' | 'model'>> {
  const facts = ['work', 'g', 'origins', 'model'] as const;
  return runPasses(PIPELINES.normalize, contextOf(model, options, oracle), facts);
}

/**
 * The source with an initializer for each parameter, and no other change. The body of a function cannot hold one for each
 * of its calls: with functions, it is a copy of the model at work.
 */
async function withPlaces({ source, work, oracle }: With<'work'>): Promise<Model> {
  if (source.functions.length) return cloneModel(work);
  const context = Object.assign(contextOf(source, {}, oracle), {
    work: cloneModel(source),
    inlined: true as const,
  });
  return (await runPasses(PLACE_IN_SOURCE, context, ['work'])).work;
}
