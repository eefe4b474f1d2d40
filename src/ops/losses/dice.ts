import { range } from '../core/rule.js';
import type { Loss } from './loss.js';

/**
 * 1 - (2 sum(p t) + s) / (sum(p) + sum(t) + s), with p the sigmoid of the output and s = `smooth`, 1 if not given. The sums
 * are over the positions of a channel of a sample: over axes 2 and on, or axis 1 of [batch, labels].
 */
export const dice: Loss = {
  target: 'values',
  range: { least: 0, most: 1 },
  activation: 'sigmoid',
  options: ['smooth'],
  hasNoMask: true,
  terms(output, target, { smooth = 1 }) {
    const p = output.sigmoid();
    const axes = output.rank > 2 ? range(2, output.rank) : [output.rank - 1];
    const both = p.mul(target).sum(axes).mul(2).add(smooth);
    const each = p.sum(axes).add(target.sum(axes)).add(smooth);
    return { loss: both.div(each).rsub(1) };
  },
};
