import type { Value } from '../../graph/ir.js';
import {
  ensure,
  type Optimizer,
  type OptimizerOptions,
  resolveOptions,
} from '../../ops/optimizers/optimizer.js';
import { matcher } from '../common/match-names.js';
import type { ParameterGroup } from '../options.js';

export type GroupOptions<O> = {
  /** Applied in order: where several groups match and set the same option, the last one counts. */
  groups?: readonly ParameterGroup<O>[];
  /** Off: no weight decay on vectors (biases) and on scales and biases of normalizations; groups may say otherwise. */
  decayBiasNorm?: boolean;
  /** Each layer's learning rate is this times that of the next one towards the head; groups are about the head's. */
  layerDecay?: number;
};

/**
 * What of `base` each parameter has otherwise; `distances` are those of its layer from the head. Throws `no-such-value` for a glob that matches none of them,
 * `bad-option` for options that the optimizer refuses.
 */
export function groupParameters<O extends OptimizerOptions>(
  params: readonly Value[],
  optimizer: Optimizer<O>,
  base: O,
  { groups = [], decayBiasNorm = true, layerDecay = 1 }: GroupOptions<O>,
  distances: readonly number[] = [],
): Partial<O>[] {
  const names = params.map(p => p.name);
  const exempt = decayBiasNorm ? new Set<Value>() : withoutDecay(params);
  const layers = groups.map(({ match, options }) => {
    ensure(
      options.lr === undefined || base.lr > 0,
      'The lr of a group is a multiple of lr, which must be above 0.',
    );
    resolveOptions(optimizer, { ...base, ...options });
    const globs = typeof match === 'string' ? [match] : match;
    return { matches: matcher('group', globs, names, 'trained parameter'), options };
  });
  ensure(layerDecay === 1 || base.lr > 0, '--layer-decay takes multiples of lr, which must be above 0.');
  return params.map((p, i) => {
    const own = (exempt.has(p) ? { weightDecay: 0 } : {}) as Partial<O>;
    for (const { matches, options } of layers) if (matches?.(p.name)) Object.assign(own, options);
    const rate = layerDecay ** (distances[i] ?? 0);
    if (rate !== 1) own.lr = (own.lr ?? base.lr) * rate;
    if (Object.keys(own).length) resolveOptions(optimizer, { ...base, ...own });
    return own;
  });
}

function withoutDecay(params: readonly Value[]): Set<Value> {
  return new Set(
    params.filter(
      p =>
        (p.shape?.length ?? 0) <= 1 ||
        p.uses.some(({ node, index }) => node.opType.endsWith('Normalization') && index > 0),
    ),
  );
}
