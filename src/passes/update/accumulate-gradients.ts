import { wideOf } from '../../graph/dtype.js';
import type { Value } from '../../graph/ir.js';
import { Tensor } from '../../graph/tensor.js';
import type { Builder } from '../../ops/core/builder.js';
import type { Expr } from '../../ops/core/expr.js';
import { orOne } from '../../ops/losses/index.js';
import { stateInput, type Transition, type Updates, when } from './transition.js';

/**
 * Accumulates the gradients of `batches` runs in the states `<param>_grad_sum` and the counter `micro_step`, and
 * applies the transition to their mean in the last of these runs. `kinds` are the terms of a run for each parameter:
 * `grad`, and others that are accumulated like it.
 *
 * With `weight`, what a run's loss is a mean of, such as tokens, a run counts as much as it weighs: the states
 * `<param>_grad_mean` are the weighted mean of the runs so far, and `micro_weight` is what these weigh together. A mean does
 * not overflow in 16 bits as a weighted sum does.
 */
export function accumulateGradients(
  g: Builder,
  params: readonly Value[],
  kinds: readonly string[],
  batches: number,
  transition: Transition,
  weight?: Expr,
): { transition: Transition; sums: Value[]; counter: Value; weight?: Value } {
  const counter = stateInput(g, 'micro_step', Tensor.filled('int64', [], 0));
  const weighed = weight && stateInput(g, 'micro_weight', Tensor.filled(weight.dtype, [], 0));
  const sums = kinds.flatMap(kind =>
    params.map(p => {
      const { dtype, dims } = g.graph.initializers.get(p)!;
      return stateInput(g, `${p.name}_${kind}_${weight ? 'mean' : 'sum'}`, Tensor.zeros(wideOf(dtype), dims));
    }),
  );
  return {
    counter,
    sums,
    weight: weighed,
    transition: (b, terms) => {
      const count = b.of(counter).add(1);
      const own = weight && b.of(weight.value);
      const heavy = weighed && own && b.of(weighed).add(own);
      // A run may weigh nothing, the first one too.
      const share = heavy && own!.div(orOne(heavy));
      const totals = terms.map((term, i) => {
        const sum = b.of(sums[i]!);
        return share ? sum.add(term.sub(sum).mul(share.cast(sum.dtype))) : sum.add(term);
      });
      const last = (then: Builder): Updates => {
        const means = totals.map(total => (share ? then.of(total.value) : then.of(total.value).div(batches)));
        const zeros = [...sums, ...(weighed ? [weighed] : [])].map(s => [s, then.of(s).zeros()] as const);
        return new Map([...transition(then, means), ...zeros, [counter, then.of(counter).zeros()]]);
      };
      return when(
        b,
        count.equal(batches),
        last,
        other =>
          new Map([
            [counter, other.of(count.value)],
            ...(weighed ? [[weighed, other.of(heavy!.value)] as const] : []),
            ...sums.map((s, i) => [s, other.of(totals[i]!.value)] as const),
          ]),
      );
    },
  };
}
