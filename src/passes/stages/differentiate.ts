/** Passes that set the modes of layers, add the backward pass, and return what it computes. */
import { isHalf } from '../../graph/dtype.js';
import { AgdError } from '../../graph/errors.js';
import type { Value } from '../../graph/ir.js';
import { neededInputs } from '../../graph/prune.js';
import { Tensor } from '../../graph/tensor.js';
import type { Expr } from '../../ops/core/expr.js';
import { loadOperators } from '../../ops/index.js';
import { checkFixedBases, detachedValues } from '../adapters/adapter-record.js';
import { type Facts, type Pass, pass, type With } from '../common/context.js';
import { activeValues, backward } from '../differentiate/backward.js';
import { computeInFloat } from '../differentiate/compute-in-float.js';
import { drawRandom } from '../differentiate/draw-random.js';
import { expandNodes } from '../differentiate/expand-nodes.js';
import { precisionOf, scalarTypeOf } from '../differentiate/precision.js';
import { addLossScale, unscaled } from '../differentiate/scale-loss.js';
import {
  hasBatchNorm,
  leastBatchOf,
  lowerBatchNorm,
  nothingToSynchronize,
  trainBatchNorm,
} from '../differentiate/train-batch-norm.js';
import { trainDropout } from '../differentiate/train-dropout.js';
import { beforeWidening } from '../normalize/widen-bfloat16.js';
import { scaleGradientsOfScales } from '../quantize/learned-scales.js';
import { observeRanges } from '../quantize/observe-ranges.js';
import { followingScales } from '../quantize/quantization-record.js';
import { initializer, output } from '../update/transition.js';
import { loadOnDemand } from './load-on-demand.js';
export const DIFFERENTIATE_PASSES = [
  pass({
    name: 'detach-values',
    does: 'Selects the values that receive no gradient: norms of DoRA, scales computed from the data',
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
    does: 'Mixed precision: computes products in 16 bits, and what would lose accuracy in float32',
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
      const { lowerPrecision } = await loadOnDemand();
      return lowerPrecision(c.g, c.precision, {
        kept: c.lossNodes,
        constants: c.detached,
        rounds: c.g.provider === 'cpu',
      });
    },
  }),
  pass({
    name: 'scale-loss',
    does: 'Adds a dynamic loss scale for float16 gradients',
    requires: ['g', 'precision'],
    ensures: ['scaling'],
    run(c) {
      c.scaling = c.precision === 'fp16' ? addLossScale(c.g, c.options) : undefined;
      return c.scaling !== undefined;
    },
  }),
  pass({
    name: 'observe-ranges',
    does: 'Updates the averaged quantization ranges with those of the batch',
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
    does: 'Prepares the graph for per-sample gradients, for differentially private training',
    requires: ['g', 'loss', 'trained', 'statistics'],
    ensures: ['perSample'],
    async run(c) {
      const { g, loss, trained, options } = c;
      c.perSample = undefined;
      if (!options.dpSgd) return false;
      const { checkStatistics, separateSamples } = await loadOnDemand();
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
      const { lookUpRows } = await loadOnDemand();
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
        const { clipSamples } = await loadOnDemand();
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
      const { checkpointActivations } = await loadOnDemand();
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
      const { sumLookups } = await loadOnDemand();
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
      const { perturbWeights } = await loadOnDemand();
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
      const { addDerivatives, checkModes, valuesToDifferentiate } = await loadOnDemand();
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
] satisfies readonly Pass[];

/** The gradient of each parameter in the first part of the loss that has one. */
const firstGradients = (parts: readonly (readonly (Expr | undefined)[])[]): Expr[] =>
  parts[0]!.map((_, i) => parts.find(list => list[i])![i]!);

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
