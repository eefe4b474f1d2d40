import { cloneModel } from '../graph/clone.js';
import type { Model, Value } from '../graph/ir.js';
import { Names } from '../graph/names.js';
import { encodeModel } from '../graph/proto.js';
import { Builder } from '../ops/core/builder.js';
import { type AgdOptions, agd } from '../ops/optimizers/agd.js';
import { resolveOptions } from '../ops/optimizers/optimizer.js';
import { type AttachedLoss, attachLoss, type LossSpec } from './attach-loss.js';
import {
  type AttachedOptimizer,
  attachOptimizer,
  type StateUpdate,
  type StepOptions,
} from './attach-optimizer.js';
import { type BackwardOptions, backward } from './backward.js';
import { countNodes, eliminateDeadNodes } from './eliminate-dead-nodes.js';
import { type GroupOptions, groupParameters } from './group-parameters.js';
import { inferShapes, type ShapeOracle } from './infer-shapes.js';
import { inlineFunctions } from './inline-functions.js';
import { liftConstants } from './lift-constants.js';
import { liftSubgraphInitializers } from './lift-subgraph-initializers.js';
import { embedOriginal } from './original.js';
import { type ParameterChoice, type SelectOptions, selectParameters } from './select-parameters.js';
import { splitMergedInitializers } from './split-merged-initializers.js';
import { lowerBatchNorm, trainBatchNorm } from './train-batch-norm.js';
import { trainDropout } from './train-dropout.js';
import { type TrainingDescription, writeDescription } from './training-description.js';
import { upgradeOpset } from './upgrade-opset.js';

export type InjectOptions = SelectOptions &
  BackwardOptions &
  GroupOptions<AgdOptions> &
  StepOptions & {
    loss: LossSpec;
    /** Options of AGD; what is left out takes the paper's default. */
    agd?: Partial<AgdOptions>;
    /** `train`: batch statistics, running ones updated as state; `eval`: running ones, unchanged. */
    batchNorm?: 'train' | 'eval';
    /** `train`: dropout drops; `eval`: it does nothing. */
    dropout?: 'train' | 'eval';
    /** Seeds the dropout masks. */
    seed?: number;
    /** The bytes of the file that the model was read from, kept so that the trained values can go back into it. */
    original?: Uint8Array;
  };

export type InjectReport = {
  parameters: ParameterChoice[];
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
  model: Model,
  options: InjectOptions,
  oracle: ShapeOracle,
): Promise<{ model: Model; report: InjectReport }> {
  const settings = resolveOptions(agd, options.agd ?? {});
  const before = countNodes(model);
  const { work, g, loss } = await prepare(model, options.loss, oracle);
  const inference = work.graph.outputs.filter(v => v !== loss.loss).map(v => v.name);
  const parameters = selectParameters(work.graph, [loss.loss], options);
  const trained = parameters.filter(p => p.trains).map(p => p.value);
  const groups = groupParameters(work.graph, trained, agd, settings, options);
  const statistics = trainBatchNorm(g, options.batchNorm ?? 'train');
  trainDropout(g, options.dropout ?? 'train', options.seed ?? 0);
  const grads = backward(g, new Map([[loss.loss, g.of(loss.loss).ones()]]), trained, options);
  lowerBatchNorm(g);
  const attached = attachOptimizer(
    g,
    agd,
    settings.lr,
    trained.map((param, i) => {
      const grad = g.of(g.rename(grads[i] ?? g.of(param).zeros(), `${param.name}_grad`));
      return { param, grad, options: { ...settings, ...groups[i] } };
    }),
    options,
    statistics,
  );
  const { updates } = attached;
  eliminateDeadNodes(work);
  work.irVersion = Math.max(work.irVersion, 8);
  work.trainingInfo = [
    {
      updates: updates.map(u => ({ state: u.state.name, value: u.value.name })),
      initializations: [],
      extra: undefined,
    },
  ];
  const description = describe(options, settings, { loss, inference, trained, groups, attached, statistics });
  writeDescription(work, description);
  embedOriginal(work, originalOf(model, options.original));
  const sizes = (values: readonly Value[]) =>
    values.reduce((n, v) => n + work.graph.initializers.get(v)!.byteLength, 0);
  const size = { parameters: sizes(trained), state: sizes(updates.map(u => u.state)) };
  return {
    model: work,
    report: {
      parameters,
      nodes: { before, after: countNodes(work) },
      bytes: { parameters: size.parameters, state: size.state - size.parameters },
      description,
    },
  };
}

/** The file that trained values go back into: as it was, or with a place for each of the parameters it had merged. */
function originalOf(model: Model, bytes: Uint8Array | undefined): Uint8Array {
  const split = cloneModel(model);
  const lifted = liftSubgraphInitializers(split);
  return splitMergedInitializers(split) || lifted ? encodeModel(split) : (bytes ?? encodeModel(model));
}

/** A copy of the model that is ready to be differentiated, its values typed and its loss attached. */
export async function prepare(
  model: Model,
  spec: LossSpec,
  oracle: ShapeOracle,
): Promise<{ work: Model; g: Builder; loss: AttachedLoss }> {
  const { work, g } = await normalize(model, oracle);
  return { work, g, loss: attachLoss(g, spec) };
}

/** The same before any loss: for vector-Jacobian products of the model's own outputs. */
export async function normalize(model: Model, oracle: ShapeOracle): Promise<{ work: Model; g: Builder }> {
  const work = cloneModel(model);
  upgradeOpset(work);
  inlineFunctions(work);
  liftSubgraphInitializers(work);
  splitMergedInitializers(work);
  liftConstants(work);
  await inferShapes(work, oracle);
  const g = new Builder(work.graph, { names: Names.of(work), opsets: work.opsetImports });
  return { work, g };
}

function describe(
  options: InjectOptions,
  settings: AgdOptions,
  parts: {
    loss: AttachedLoss;
    inference: string[];
    trained: readonly Value[];
    groups: readonly Partial<AgdOptions>[];
    attached: AttachedOptimizer;
    statistics: readonly StateUpdate[];
  },
): TrainingDescription {
  const { loss, attached, statistics, trained, groups, inference } = parts;
  const { schedule, clipGradNorm, clipGradValue, accumulate = 1, ema } = options;
  return {
    version: 1,
    loss: {
      ...options.loss,
      name: loss.loss.name,
      target: loss.target?.name,
      output: loss.output?.name ?? loss.loss.name,
    },
    outputs: inference,
    optimizer: { name: agd.name, options: settings },
    lr: attached.lr.name,
    step: attached.step.name,
    schedule,
    clipGradNorm,
    clipGradValue,
    accumulation: attached.counter && { batches: accumulate, counter: attached.counter.name },
    ema,
    skipped: attached.skipped?.name,
    parameters: trained.map((v, i) => ({
      name: v.name,
      state: Object.fromEntries(Object.entries(attached.slots.get(v)!).map(([slot, s]) => [slot, s.name])),
      options: Object.keys(groups[i]!).length ? groups[i] : undefined,
      gradSum: attached.sums?.[i]?.name,
      ema: attached.averages?.[i]?.name,
    })),
    statistics: statistics.map(s => s.state.name),
  };
}
