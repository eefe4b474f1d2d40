import type { Value } from '../../graph/ir.js';
import {
  ensure,
  type Optimizer,
  type OptimizerOptions,
  type ParameterUse,
  resolveOptions,
} from '../../ops/optimizers/optimizer.js';
import type { ParameterGroup } from '../options.js';

export type GroupOptions<O> = {
  /** Applied in order: if several groups match and set the same option, the last one wins. */
  groups?: readonly ParameterGroup<O>[];
  /**
   * If false: no weight decay on vectors (biases) and on scales and biases of normalizations, unless a group sets it.
   */
  decayBiasNorm?: boolean;
  /**
   * Each layer's learning rate is this factor times that of the next layer towards the head; learning rates of groups
   * apply to the head.
   */
  layerDecay?: number;
};

/**
 * The options of each parameter that differ from `base`. `distances` are those of its layer from the head, `uses` what the
 * model uses it as. Throws
 * `no-such-value` for a glob that matches no parameter, and `bad-option` for options that the optimizer rejects.
 */
export async function groupParameters<O extends OptimizerOptions>(
  params: readonly Value[],
  optimizer: Optimizer<O>,
  base: O,
  { groups = [], decayBiasNorm = true, layerDecay = 1 }: GroupOptions<O>,
  distances: readonly number[] = [],
  uses: readonly ParameterUse[] = [],
): Promise<Partial<O>[]> {
  const { matcher } = groups.length ? await import('../common/match-names.js') : {};
  const names = params.map(p => p.name);
  const exempt = decayBiasNorm ? new Set<Value>() : withoutDecay(params);
  const layers = groups.map(({ match, options }) => {
    ensure(
      options.lr === undefined || base.lr > 0,
      'The lr of a group is a multiple of lr, which must be above 0.',
    );
    resolveOptions(optimizer, { ...base, ...options });
    const globs = typeof match === 'string' ? [match] : match;
    return { matches: matcher?.('group', globs, names, 'trained parameter'), options };
  });
  ensure(layerDecay === 1 || base.lr > 0, '--layer-decay takes multiples of lr, which must be above 0.');
  return params.map((p, i) => {
    const used = uses[i] && optimizer.forUse?.(uses[i]);
    const own = { ...used, ...(exempt.has(p) ? { weightDecay: 0 } : {}) } as Partial<O>;
    for (const { matches, options } of layers) if (matches?.(p.name)) Object.assign(own, options);
    const rate = layerDecay ** (distances[i] ?? 0);
    if (rate !== 1)
      for (const name of ['lr' as keyof O, ...(optimizer.rates ?? [])])
        own[name] = (((own[name] ?? base[name]) as number) * rate) as O[keyof O];
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
