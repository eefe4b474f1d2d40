import { wideOf } from '../../graph/dtype.js';
import type { Value } from '../../graph/ir.js';
import { Tensor } from '../../graph/tensor.js';
import type { Builder } from '../../ops/core/builder.js';
import type { Expr } from '../../ops/core/expr.js';
import { orOne } from '../../ops/losses/index.js';
import { stateInput, type Transition, type Updates, when } from './transition.js';

/** A term of a run: a gradient of a parameter, or what is accumulated like it. */
export type AccumulatedTerm = {
  param: Value;
  kind: string;
  /** The index of its weight. */
  part: number;
  /** The index of the mean that it is added to. */
  into: number;
};

/** The sum over the parts of the loss, for each of what they are added to. */
export function addParts(terms: readonly AccumulatedTerm[], values: readonly Expr[]): Expr[] {
  const sums: Expr[] = [];
  values.forEach((value, i) => {
    const { into } = terms[i]!;
    sums[into] = sums[into]?.add(value) ?? value;
  });
  return sums;
}

/**
 * Accumulates the terms of `batches` runs in the states `<param>_<kind>_sum` and the counter `micro_step`, and applies the
 * transition to their means in the last of these runs.
 *
 * With `weights`, what a run's losses are means of, such as tokens, a run counts as much as it weighs: the states
 * `<param>_<kind>_mean` are the weighted means of the runs so far, and `micro_weight` is what these weigh together. A mean
 * does not overflow in 16 bits as a weighted sum does. Terms of losses with different weights have means of their own, which
 * the last run adds.
 */
export function accumulateGradients(
  g: Builder,
  terms: readonly AccumulatedTerm[],
  batches: number,
  transition: Transition,
  weights: readonly Expr[] = [],
): { transition: Transition; sums: Value[]; counter: Value; weights: Value[] } {
  const counter = stateInput(g, 'micro_step', Tensor.filled('int64', [], 0));
  const weighed = weights.map(w => stateInput(g, 'micro_weight', Tensor.filled(w.dtype, [], 0)));
  const sums = terms.map(({ param, kind }) => {
    const { dtype, dims } = g.graph.initializers.get(param)!;
    const hint = `${param.name}_${kind}_${weights.length ? 'mean' : 'sum'}`;
    return stateInput(g, hint, Tensor.zeros(wideOf(dtype), dims));
  });
  return {
    counter,
    sums,
    weights: weighed,
    transition: (b, values) => {
      const count = b.of(counter).add(1);
      const heavy = weighed.map((w, i) => b.of(w).add(b.of(weights[i]!.value)));
      // A run may weigh nothing, the first one too.
      const shares = heavy.map((all, i) => b.of(weights[i]!.value).div(orOne(all)));
      const totals = values.map((value, i) => {
        const sum = b.of(sums[i]!);
        const share = shares[terms[i]!.part];
        return share ? sum.add(value.sub(sum).mul(share.cast(sum.dtype))) : sum.add(value);
      });
      const last = (then: Builder): Updates => {
        const means = totals.map(total => {
          const mean = then.of(total.value);
          return weights.length ? mean : mean.div(batches);
        });
        const zeros = [...sums, ...weighed].map(s => [s, then.of(s).zeros()] as const);
        return new Map([
          ...transition(then, addParts(terms, means)),
          ...zeros,
          [counter, then.of(counter).zeros()],
        ]);
      };
      return when(
        b,
        count.equal(batches),
        last,
        other =>
          new Map([
            [counter, other.of(count.value)],
            ...weighed.map((w, i) => [w, other.of(heavy[i]!.value)] as const),
            ...sums.map((s, i) => [s, other.of(totals[i]!.value)] as const),
          ]),
      );
    },
  };
}
