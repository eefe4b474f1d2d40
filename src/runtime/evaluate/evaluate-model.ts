import { AgdError } from '../../graph/errors.js';
import type { Model } from '../../graph/ir.js';
import { providerOf } from '../../ops/core/provider.js';
import { rangesOfTargets } from '../../passes/differentiate/attach-loss.js';
import { attachModels } from '../../passes/normalize/attach-models.js';
import { readsLastToken } from '../../passes/normalize/keep-all-positions.js';
import type { LossFunction } from '../../passes/normalize/loss-function.js';
import { withLossFunction } from '../../passes/normalize/with-loss-function.js';
import { type InjectOptions, type LossSpec, noLoss } from '../../passes/options.js';
import { readRecipe } from '../../passes/recipe/read-recipe.js';
import { modelWithLoss } from '../../passes/run/evaluation-model.js';
import { layOut } from '../cpu.js';
import { type FitData, isOpen } from '../data/from-values.js';
import { withDevice } from '../devices/choose.js';
import { inputSpecs } from '../input-specs.js';
import { checkMetrics } from '../metrics/index.js';
import { asFeeds, Session } from '../session.js';
import type { Evaluation } from '../train/events.js';
import { inputsToDerive, shapesOf } from '../train/model-data.js';
import { type EvaluateOptions, evaluateBatches } from './evaluation.js';
import { dataFor, type ModelRunOptions, type PlainModel, plainModel, watchedBatches } from './model-run.js';

export type EvaluateModelOptions = EvaluateOptions &
  ModelRunOptions & {
    /** Needed for a plain model, where it may be a function too; of an injected one its own if not given. */
    loss?: LossSpec | LossFunction;
  } & Pick<InjectOptions, 'lossGraph' | 'teacherModel' | 'distill' | 'allPositions'>;

/**
 * Loss and metrics of a model on data, in inference form. The model is a plain one, an injected one or a training state, or
 * its file. Throws `bad-option` where nothing says what the loss is, for unknown metrics and for those that do not apply,
 * and as `bindData` does.
 */
export async function evaluate(
  source: Model | string,
  given: FitData,
  asked: EvaluateModelOptions = {},
): Promise<Evaluation> {
  const options = await withDevice(withLossFunction(asked));
  const { batchSize, bind, metrics, onLosses } = options;
  const { lossGraph, teacherModel, distill } = options;
  const stored = await plainModel(source, options);
  if (stored.isInjected && (lossGraph || teacherModel || distill))
    throw new AgdError(
      'bad-option',
      'A training state contains its loss and the models that it reads: --loss-model, --teacher and --distill apply to plain models.',
    );
  const allPositions = options.allPositions ?? stored.allPositions;
  const own = options.loss ? likeStored(options.loss, stored.loss) : lossGraph ? undefined : stored.loss;
  const attached = await attachModels(stored.model, { loss: own, lossGraph, teacherModel, distill });
  const { model: plain } = attached;
  const { loss: spec } = attached.options;
  if (!spec) throw noLoss();
  const weights: unknown[] = Object.values(spec);
  if (weights.includes('balanced'))
    throw new AgdError(
      'bad-option',
      "'balanced' weights follow from training data: give numbers to evaluate with.",
    );
  checkMetrics(spec, metrics);
  const data = await dataFor(given, plain, options);
  try {
    const about = { job: { bind, batchSize }, data, model: plain, options: { loss: spec, allPositions } };
    const { options: derived } = await inputsToDerive(about);
    const shapes = await shapesOf({ ...about, options: { ...about.options, ...derived } });
    const { model, loss, samples } = await modelWithLoss(plain, spec, shapes, {
      ...derived,
      allPositions,
      provider: providerOf(options.device),
    });
    const { graph } = model;
    const written = graph.nodes.flatMap(node => node.outputs);
    const ranges = rangesOfTargets(loss, name => written.find(v => v?.name === name) ?? undefined);
    const ofLastToken = readsLastToken(graph);
    const inputs = inputSpecs({ graph, inputs: graph.inputs }).map(input => {
      const range = ranges.get(input.name);
      return range ? { ...input, range, ofLastToken } : input;
    });
    const labels = loss.target === undefined ? [] : [loss.target];
    const dataset = await data.bind(inputs, { ...bind, labels });
    const { notesOnCopies } = await import('../data/copied-tokens.js');
    const copies = notesOnCopies(dataset, inputs, labels);
    const session = await Session.create(await layOut(model, options), options);
    try {
      const known = new Set(session.inputs);
      const found = await evaluateBatches(
        watchedBatches(dataset, options),
        loss,
        { metrics, onLosses, confusion: options.confusion },
        async batch => {
          const feeds = asFeeds(
            Object.fromEntries(Object.entries(batch).filter(([name]) => known.has(name))),
          );
          return { samples, inputs: batch, run: fetch => session.run(feeds, fetch) };
        },
        await readRecipe(plain),
      );
      return copies.length ? { ...found, notes: [...copies, ...(found.notes ?? [])] } : found;
    } finally {
      await session.release();
    }
  } finally {
    if (!isOpen(given)) await data.close();
  }
}

/** A loss of the kind that the model was trained on reads the same output and ignores the same class, unless it says others. */
function likeStored(loss: LossSpec, stored: PlainModel['loss']): LossSpec {
  if (stored?.kind !== loss.kind || loss.kind === 'output' || stored.kind === 'output') return loss;
  const { output = stored.output, ignoreIndex = stored.ignoreIndex } = loss;
  return { ...loss, output, ...(ignoreIndex === undefined ? {} : { ignoreIndex }) };
}
