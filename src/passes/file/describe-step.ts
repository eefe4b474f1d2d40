/** Writes into the file which states a step updates, and the description that the trainer reads. */
import type { Value } from '../../graph/ir.js';
import { isExtension } from '../../ops/optimizers/index.js';
import type { With } from '../common/context.js';
import { type RecordedOptions, recordedOptions } from '../options.js';
import type { TrainingDescription } from './description.js';
import { writeDescription } from './step-metadata.js';

type Described = With<
  | ('work' | 'g' | 'optimizer' | 'spec' | 'loss' | 'inference' | 'exports' | 'trained' | 'groups')
  | ('grads' | 'statistics' | 'leastBatch' | 'schedule' | 'begins' | 'divisor' | 'lossParts' | 'attached')
>;

/** The options as recorded, with the schedule in updates. */
type Planned = Pick<TrainingDescription, keyof RecordedOptions>;

/** Binds each state to its next value, and writes the description of the step into the metadata. */
export function describeStep(context: Described): TrainingDescription {
  const { work, attached } = context;
  work.irVersion = Math.max(work.irVersion, 8);
  const updates = attached.updates.map(u => ({ state: u.state.name, value: u.value.name }));
  work.trainingInfo = [{ updates, initializations: [], extra: undefined }];
  const description = describe(context);
  writeDescription(work, description);
  return description;
}

function describe(context: Described): TrainingDescription {
  const { options, spec, loss, optimizer, attached, trained, grads, groups, lookups } = context;
  const { accumulate = 1 } = options;
  const ofRows = new Map(
    [...(lookups?.values() ?? [])].flatMap(({ rows, unsummed = [] }) =>
      [...unsummed].map(([summed, value]) => [summed, { rows, value }]),
    ),
  );
  const nameOf = (grad: Value) => (ofRows.get(grad)?.value ?? grad).name;
  return {
    version: 1,
    loss: {
      ...spec,
      name: loss.loss.name,
      target: loss.target?.name ?? spec.target,
      mix: loss.mix && { target: loss.mix.target.name, share: loss.mix.share.name },
      output: loss.output?.name ?? loss.loss.name,
    },
    lossDivisor: context.divisor?.name,
    lossParts: context.lossParts?.map((part, i) => {
      const { weight, terms } = attached.parts![i]!;
      return {
        loss: part.loss.name,
        divisor: part.divisor.name,
        weight: weight?.name,
        terms: terms.map(({ value, sum }) => ({
          value: nameOf(value),
          sum: sum?.name,
          rows: ofRows.get(value)?.rows.name,
        })),
      };
    }),
    randomStream: context.stream?.name,
    outputs: context.inference,
    exports: context.exports,
    optimizer: {
      name: optimizer.name,
      options: optimizer.settings,
      extension: isExtension(optimizer.name) || undefined,
    },
    lr: attached.lr.name,
    step: attached.step.name,
    scheduleTotal: attached.total?.name,
    ...(recordedOptions({ ...options, precision: context.precision, schedule: context.schedule }) as Planned),
    ...(options.dpSgd ? { dpSgd: { ...options.dpSgd, method: context.perSample?.method } } : {}),
    accumulation: attached.counter && {
      batches: accumulate,
      counter: attached.counter.name,
      weight: attached.weight?.name,
      further: attached.further?.length ? attached.further.map(v => v.name) : undefined,
    },
    skipped: attached.skipped?.name,
    scaling: context.scaling && {
      scale: context.scaling.scale.name,
      good: context.scaling.good.name,
      stops: options.onNonfinite !== 'skip',
    },
    telemetry: attached.telemetry && {
      name: attached.telemetry.state.name,
      columns: attached.telemetry.columns,
    },
    gradNorm: attached.gradNorm?.name,
    parameters: trained.map((v, i) => ({
      name: v.name,
      grad: nameOf(grads[i]!.value),
      state: Object.fromEntries(Object.entries(attached.slots.get(v)!).map(([slot, s]) => [slot, s.name])),
      options: Object.keys(groups[i]!).length ? groups[i] : undefined,
      hessianProduct: attached.products[i]?.name,
      perturbedGrad: attached.perturbed[i]?.name,
      carry: attached.carries[i]?.name,
      rows: lookups?.get(v)?.rows.name,
      gradSum: attached.sums?.[i]?.name,
      [options.wsam ? 'perturbedSum' : 'hessianSum']: attached.sums?.[trained.length + i]?.name,
      ema: attached.averages?.[i]?.name,
      begins: context.begins[i],
    })),
    statistics: context.statistics.map(s => s.state.name),
    leastBatch: context.leastBatch,
    synchronized: synchronizedIn(context),
    checkpoint: options.checkpoint,
  };
}

/** Gradients that nothing reads, as those of the model's inputs, are not in the graph. */
function synchronizedIn({ work, g }: Described): TrainingDescription['synchronized'] {
  const found = g.scope.synchronized;
  if (!found) return undefined;
  const written = new Set(work.graph.nodes.flatMap(node => node.outputs));
  return {
    statistics: [...found.statistics.values()]
      .filter(({ mean }) => written.has(mean))
      .map(({ count, mean, variance }) => ({ count: count.name, mean: mean.name, variance: variance.name })),
    sums: [...found.sums].filter(v => written.has(v)).map(v => v.name),
  };
}
