/** Connectionist temporal classification. Graves et al. 2006, "Connectionist temporal classification". */
import { AgdError } from '../../graph/errors.js';
import { showShape } from '../../graph/ir.js';
import type { Expr } from '../core/expr.js';
import { scan } from '../core/scan.js';
import type { Loss } from './loss.js';

/** log 0, such that sums of a few stay finite: -inf - -inf would be NaN. */
const NEVER = -1e30;

/**
 * -log p(labels) / number of labels, as PyTorch's ctc_loss with its reduction `mean`. The output is [batch, time, classes],
 * scores or their log-softmax; the target [batch, labels], int64, with labels that are negative or the blank at its end as
 * padding; `lengths` [batch] are the times of each sample, all if not given.
 *
 * With the labels l set apart by blanks, alpha[0] = p[0, l[0]], p[0, l[1]], 0 ... and alpha[t, s] = p[t, l[s]] (alpha[t-1, s] +
 * alpha[t-1, s-1] + alpha[t-1, s-2]), the last where l[s] is neither a blank nor l[s-2]; the probability is the sum of the
 * last two at the last time. In logarithms. A sample without a path, as it has fewer times than labels, has the loss inf.
 */
export const ctc: Loss = {
  target: 'classes',
  third: 'lengths',
  isSequence: true,
  hasNoMask: true,
  options: ['blank', 'lengths'],
  terms(output, target, { blank = 0 }, { lengths }) {
    if (output.rank !== 3)
      throw new AgdError(
        'bad-shape',
        `Output '${output.value.name}' of shape ${showShape(output.shape)} does not fit ctc: expected [batch, time, classes].`,
      );
    const { g } = output;
    const { dtype } = output;
    const logp = output.op('LogSoftmax', [], { axis: 2 });
    const isLabel = target.greaterOrEqual(0).and(target.equal(blank).not());
    const labels = isLabel.where(target, blank);
    const count = isLabel.cast('int64').sum([1]);
    // [batch, 2 labels + 1]: blank, label, blank ... blank.
    const blanks = labels.full(blank);
    const rows = labels.dims(0, 1);
    const first = g.scalar(blank, 'int64').expand(g.vector([rows, 1]));
    const pairs = labels.unsqueeze([2]).concat([blanks.unsqueeze([2])], 2);
    const spread = first.concat([pairs.reshape(g.vector([rows, -1]))], 1);
    const before = (x: Expr, by: number, fill: number) =>
      g
        .scalar(fill, x.dtype)
        .expand(g.vector([rows, by]))
        .concat([x.slice([0], [-by], [1])], 1);
    const place = spread.dims(1, 2).iota();
    const skips = spread
      .equal(blank)
      .not()
      .and(spread.equal(before(spread, 2, blank)).not());
    // Scores of the labels at each time: [time, batch, places].
    const times = logp.dims(1, 2);
    const at = spread.unsqueeze([1]).expand(g.vector([rows, times, spread.dims(1, 2)]));
    const scores = logp.gatherElements(at, 2).transpose([1, 0, 2]);
    const skipBar = skips.where(g.scalar(0, dtype), g.scalar(NEVER, dtype));
    // Before the first time everything stands at place -1, from which places 0 and 1 are reached: place 0 by staying.
    const start = place.equal(0).where(g.scalar(0, dtype), g.scalar(NEVER, dtype)).expand(spread.dims());
    const limit = lengths?.cast('int64').reshape([-1, 1]);
    const clock = times.iota();
    const { states } = scan(g, {
      states: [start],
      inputs: limit ? [scores, clock] : [scores],
      body(b, [alpha], [score, time]) {
        const [a, s] = [alpha!, score!];
        const never = (by: number) => b.scalar(NEVER, dtype).expand(b.vector([a.dims(0, 1), by]));
        const shifted = (by: number) => never(by).concat([a.slice([0], [-by], [1])], 1);
        const ways = [a, shifted(1), shifted(2).add(b.of(skipBar.value))];
        const most = ways[0]!.maximum(ways[1]!).maximum(ways[2]!);
        const sum = ways.map(w => w.sub(most).exp()).reduce((x, y) => x.add(y));
        const next = most.add(sum.log()).add(s).maximum(NEVER);
        const kept = limit && time ? time.less(b.of(limit.value)).where(next, a) : next;
        return { states: [kept], outputs: [] };
      },
    });
    const last = states[0]!;
    const end = count.mul(2).unsqueeze([1]);
    const whole = last.gatherElements(end, 1);
    const short = last.gatherElements(end.sub(1).maximum(g.scalar(0, 'int64')), 1);
    const shortBar = count.greater(0).unsqueeze([1]).where(g.scalar(0, dtype), g.scalar(NEVER, dtype));
    const loss = whole
      .concat([short.add(shortBar)], 1)
      .op('ReduceLogSumExp', [g.ints([1])], { keepdims: 0 })
      .neg();
    const found = loss.less(-NEVER / 2).where(loss, g.scalar(Infinity, dtype));
    return { loss: found.div(count.maximum(g.scalar(1, 'int64')).cast(dtype)) };
  },
};
