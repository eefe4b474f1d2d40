/** Passes that write what a step does with gradients. */
import type { Expr } from '../../ops/core/expr.js';
import { loadOperators } from '../../ops/index.js';
import { lacksTotal } from '../../ops/schedules.js';
import { type Pass, pass, type With } from '../common/context.js';
import { batchWeight, weightOf } from '../differentiate/attach-loss.js';
import { numberBatches } from '../differentiate/draw-random.js';
import { scalarTypeOf } from '../differentiate/precision.js';
import type { Noise } from '../update/add-noise.js';
import { attachOptimizer, type GradientPart } from '../update/attach-optimizer.js';
import { planSchedule, planUnfreezing } from '../update/plan-schedule.js';
import { resolveOptimizer } from '../update/resolve-optimizer.js';
import { output } from '../update/transition.js';

import { loadOnDemand } from './load-on-demand.js';
export const UPDATE_PASSES = [
  pass({
    name: 'resolve-optimizer',
    does: "Checks the optimizer's options, and options that cannot be combined",
    requires: [],
    ensures: ['optimizer'],
    async run(c) {
      c.optimizer = resolveOptimizer(c.options);
      if (!c.options.dpSgd) return false;
      const { name, optimizer } = c.optimizer;
      const { checkPrivacy } = await loadOnDemand();
      checkPrivacy(c.options, { name, diagonal: optimizer.diagonal });
      return false;
    },
  }),

  pass({
    name: 'plan-schedule',
    does: 'Ends a schedule without a given length at the end of the run',
    requires: ['g', 'loss', 'grads', 'leastBatch'],
    ensures: ['schedule'],
    async run(c) {
      c.schedule = await planSchedule(c.g.graph, c.options, c.loss, c.grads, c.leastBatch);
      return false;
    },
  }),
  pass({
    name: 'plan-unfreezing',
    does: 'Computes the update at which each layer starts to train, for gradual unfreezing',
    requires: ['g', 'loss', 'grads', 'leastBatch', 'distances'],
    ensures: ['begins'],
    async run(c) {
      c.begins = await planUnfreezing(c.g.graph, c.options, c.distances, c.loss, c.grads, c.leastBatch);
      return false;
    },
  }),
  pass({
    name: 'return-divisor',
    does: 'Adds an output with the divisor of the batch loss, or one for each part of the loss that has its own',
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
        const { lendAxes } = await loadOnDemand();
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
] satisfies readonly Pass[];

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
