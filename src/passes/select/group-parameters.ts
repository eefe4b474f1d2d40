import type { Value } from '../../graph/ir.js';
import {
  ensure,
  type Optimizer,
  type OptimizerOptions,
  resolveOptions,
} from '../../ops/optimizers/optimizer.js';
import type { ParameterGroup } from '../options.js';
import { matcher } from './select-parameters.js';

export type GroupOptions<O> = {
  /** Applied in order: where several groups match and set the same option, the last one counts. */
  groups?: readonly ParameterGroup<O>[];
  /** Off: no weight decay on vectors (biases) and on scales and biases of normalizations; groups may say otherwise. */
  decayBiasNorm?: boolean;
};

/**
 * What of `base` each parameter has otherwise. Throws `no-such-value` for a glob that matches none of them,
 * `bad-option` for options that the optimizer refuses.
 */
export function groupParameters<O extends OptimizerOptions>(
  params: readonly Value[],
  optimizer: Optimizer<O>,
  base: O,
  { groups = [], decayBiasNorm = true }: GroupOptions<O>,
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
  return params.map(p => {
    const own = (exempt.has(p) ? { weightDecay: 0 } : {}) as Partial<O>;
    for (const { matches, options } of layers) if (matches?.(p.name)) Object.assign(own, options);
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
