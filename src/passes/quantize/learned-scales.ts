/** Learned step size quantization. Esser et al.: «Learned Step Size Quantization», ICLR 2020 (arXiv:1902.08153). */
import type { Model, Value } from '../../graph/ir.js';
import type { Builder } from '../../ops/core/builder.js';
import type { Expr } from '../../ops/core/expr.js';
import { range } from '../../ops/core/rule.js';
import type { AnyOptions } from '../../ops/optimizers/index.js';
import { namedIn, readQuantizers } from './quantization-record.js';

/** Q_P of the paper for activations of 8 bits. */
const LEVELS = 255;

/**
 * Multiplies the gradients of learned scales by 1 / sqrt(N Q_P), section 2.2 of the paper: N is the number of weights
 * that share the scale, or of numbers in one sample of an activation.
 */
export function scaleGradientsOfScales(
  g: Builder,
  model: Model,
  trained: readonly Value[],
  grads: readonly (Expr | undefined)[],
): (Expr | undefined)[] {
  const learned = readQuantizers(model).filter(q => q.kind === 'learned');
  const bySource = new Map(learned.map(q => [q.source, q]));
  const scales = namedIn(g.graph, new Set(learned.map(q => q.scale)));
  const weights = namedIn(g.graph, new Set(learned.flatMap(q => q.weight ?? [])));
  return grads.map((grad, i) => {
    const quantizer = bySource.get(trained[i]!.name);
    const scale = quantizer && scales.get(quantizer.scale);
    const node = scale && g.graph.nodes.find(n => n.opType === 'QuantizeLinear' && n.inputs[1] === scale);
    if (!grad || !node) return grad;
    if (quantizer.weight !== undefined) {
      const channels = trained[i]!.shape?.[0] ?? 1;
      const size = (weights.get(quantizer.weight)?.shape ?? []).reduce<number>((n, d) => n * Number(d), 1);
      const count = size / Number(channels);
      return grad.mul(1 / Math.sqrt(count * (quantizer.most ?? 127)));
    }
    const x = g.of(node.inputs[0]!);
    const extents = x.shape?.slice(1);
    if (extents?.every(d => typeof d === 'number'))
      return grad.mul(1 / Math.sqrt((extents as number[]).reduce((n, d) => n * d, 1) * LEVELS));
    const count = x.count(grad.dtype, range(1, x.rank));
    return grad.div(count.mul(LEVELS).sqrt());
  });
}

/**
 * The options of learned scales: no weight decay; and as optimizers other than SGD take steps of about lr, whatever the
 * gradient, a learning rate in proportion to the scale: that of its group or layer, if it has one, times the scale. A
 * group that names the scale itself, rather than by a pattern, decides its options as they are.
 */
export function groupsOfScales(
  model: Model,
  trained: readonly Value[],
  groups: readonly AnyOptions[],
  { name, settings }: { name: string; settings: { lr: number } },
  given: readonly { match: string | readonly string[]; options: AnyOptions }[] = [],
): AnyOptions[] {
  const learned = new Set(readQuantizers(model).flatMap(q => (q.kind === 'learned' ? [q.source] : [])));
  return groups.map((own, i) => {
    const value = trained[i]!;
    if (!learned.has(value.name)) return own;
    const scales = model.graph.initializers.get(value)!.numbers();
    const mean = scales.reduce((sum, s) => sum + Math.abs(s), 0) / scales.length;
    const { lr = settings.lr } = own as { lr?: number };
    const named = given.filter(({ match }) => [match].flat().includes(value.name)).map(g => g.options);
    const isRelative = name !== 'sgd' && !named.some(options => 'lr' in options);
    const hasDecay = named.some(options => 'weightDecay' in options);
    return { ...own, ...(hasDecay ? {} : { weightDecay: 0 }), ...(isRelative ? { lr: lr * mean } : {}) };
  });
}
