/** Clips the gradients of single samples for differentially private training, by ghost norms or in a loop over the samples. */
import { dependentValues } from '../../graph/dependents.js';
import { AgdError } from '../../graph/errors.js';
import { Value } from '../../graph/ir.js';
import type { Builder } from '../../ops/core/builder.js';
import type { Expr } from '../../ops/core/expr.js';
import { lossNamed } from '../../ops/losses/index.js';
import { ensure } from '../../ops/optimizers/optimizer.js';
import type { DpSgd, InjectOptions } from '../options.js';
import type { StateUpdate } from '../update/transition.js';
import type { AttachedLoss } from './attach-loss.js';
import type { BackwardOptions } from './backward.js';
import { clipByGhostNorms, ghostLayers, type Layer, rowsOfSamples } from './ghost-norms.js';
import {
  type SampleScan,
  sampleCount,
  sampleInputs,
  sampleMeans,
  scanSamples,
  sumClippedGradients,
} from './separate-samples.js';

/** `why`: the reason why the samples run one by one, if they do. */
export type PerSample = { samples: Expr } & (
  | { method: 'scan'; scan: SampleScan; why?: string }
  | { method: 'ghost'; losses: Value; layers: readonly Layer[]; why?: undefined }
);

/**
 * Prepares the graph for gradients of single samples: by ghost clipping if every trained parameter belongs to a layer with
 * a rule, and no operator may mix samples; otherwise in a loop over the samples. Throws `bad-option` and `bad-shape`.
 */
export function separateSamples(
  g: Builder,
  loss: AttachedLoss,
  trained: readonly Value[],
  { method }: DpSgd,
  onNonfinite?: InjectOptions['onNonfinite'],
): PerSample {
  const samples = sampleInputs(g.graph, loss);
  const why = method === 'scan' ? undefined : ghostly();
  if (typeof why === 'object') return { samples: sampleCount(g, samples), ...why };
  ensure(
    method !== 'ghost' || why === undefined,
    `Ghost clipping does not apply, ${why}: leave out method=ghost.`,
  );
  const scan = scanSamples(g, loss, trained, samples);
  const outer = sampleInputs(g.graph, loss);
  return { method: 'scan', scan, why, samples: sampleCount(g, outer) };

  function ghostly(): string | { method: 'ghost'; losses: Value; layers: readonly Layer[] } {
    // The norms of a whole batch are of no use to leave out one sample, and a skipped update would have no noise.
    if (onNonfinite === 'skip') return 'as --on-nonfinite skip leaves out single samples';
    if (!loss.terms) return 'as the model computes its loss itself';
    if (typeof samples.batch === 'number' || samples.batch === null) return 'as the batch axis has no name';
    const layers = ghostLayers(trained);
    if (typeof layers === 'string') return `as ${layers.startsWith("'") ? layers : `there is ${layers}`}`;
    const losses = loss.terms
      .map(terms => sampleMeans(terms).mul(terms.factor))
      .reduce((sum, term) => sum.add(term)).value;
    const rows = rowsOfSamples(g, samples, losses);
    if (typeof rows === 'string') return `as ${rows} is not known to keep samples apart`;
    // The cotangent of an output that all samples read, such as the embedding of positions, is a sum over the samples.
    const shared = layers.find(({ node }) => !rows.has(node.outputs[0]!));
    if (shared) return `as the output of the layer of '${shared.param.name}' is shared by all samples`;
    const size = sampleCount(g, samples).op('Max', [1]).cast(losses.dtype!);
    replaceOutput(g, loss, g.of(losses).sum().div(size));
    return { method: 'ghost', losses, layers };
  }
}

/** Makes the mean of the samples' losses the loss of the step, 0 for no samples, under the name that it has. */
function replaceOutput(g: Builder, loss: AttachedLoss, mean: Expr): void {
  const { loss: old } = loss;
  const value = new Value(old.name, mean.type);
  old.name = g.scope.names.fresh(`${old.name}_of_batch`);
  g.identity(mean.value, value);
  g.graph.outputs = g.graph.outputs.map(v => (v === old ? value : v));
  loss.loss = value;
}

/** The sums over the samples of the clipped gradients; undefined where no gradient arrives. */
export function clipSamples(
  g: Builder,
  given: PerSample,
  trained: readonly Value[],
  { clip }: DpSgd,
  options: BackwardOptions,
): (Expr | undefined)[] {
  return given.method === 'ghost'
    ? clipByGhostNorms(g, given.losses, given.layers, trained, clip, options)
    : sumClippedGradients(g, given.scan, trained, clip, options);
}

/** Throws `bad-option` for options with which the noise would not protect each sample. */
export function checkPrivacy(options: InjectOptions, optimizer: { name: string; diagonal?: unknown }): void {
  const { dpSgd, loss } = options;
  if (!dpSgd) return;
  ensure(
    dpSgd.noise !== undefined,
    '--dp-sgd needs the noise, as clip=1,noise=1.1; train can choose it, with --dp-epsilon.',
  );
  // The sum over several batches cannot be divided by the size of one of them.
  ensure(
    dpSgd.batch !== undefined || (options.accumulate ?? 1) === 1,
    '--dp-sgd with --accumulate needs the expected size of a batch, as clip=1,noise=1.1,batch=32.',
  );
  const { lazyRows, checkpointActivations, gradients } = options;
  const others = {
    '--lazy-rows': lazyRows?.length,
    '--checkpoint-activations': checkpointActivations,
    '--gradients': gradients,
    '--qat': options.qat,
    [`--optimizer ${optimizer.name}`]: optimizer.diagonal,
  };
  const [other] =
    Object.entries(others).find(([, value]) => value !== undefined && value !== false && value !== 0) ?? [];
  ensure(!other, `--dp-sgd cannot be combined with ${other}.`);
  if (!loss || loss.kind === 'output') return;
  for (const { kind, classWeights } of [loss, ...(loss.plus ?? [])]) {
    ensure(
      !lossNamed(kind).acrossBatch,
      `--dp-sgd bounds the contribution of a sample, but its loss ${kind} depends on the rest of the batch: choose another loss.`,
    );
    ensure(
      classWeights === undefined,
      '--dp-sgd takes the mean loss of each sample, in which --class-weights cancel out: leave them out.',
    );
  }
  ensure(
    !loss.mixTargets,
    '--dp-sgd bounds the contribution of a sample, but mixup and cutmix mix samples: leave them out.',
  );
}

/** Throws `bad-option` for batch normalization on the statistics of a batch, and other statistics that the noise does not cover. */
export function checkStatistics(g: Builder, statistics: readonly StateUpdate[]): void {
  const data = dependentValues(g.graph.nodes, g.graph.inputs);
  const mixing = g.graph.nodes.find(node => {
    const mode = node.attrs.get('training_mode');
    return (
      node.opType === 'BatchNormalization' &&
      data.has(node.inputs[0]!) &&
      mode?.type === 'int' &&
      Number(mode.value) === 1
    );
  });
  if (mixing)
    throw new AgdError(
      'bad-option',
      `${mixing.label} mixes the samples of a batch, which --dp-sgd has to keep apart: use its running statistics, --batch-norm eval.`,
    );
  ensure(
    !statistics.length,
    `--dp-sgd does not cover averages over the data: '${statistics[0]?.state.name}'.`,
  );
}
