import type { Value } from '../../graph/ir.js';
import { Tensor } from '../../graph/tensor.js';
import type { Builder } from '../../ops/core/builder.js';
import { stateInput, type Transition, type Updates, when } from './transition.js';

/**
 * Accumulates the gradients of `batches` runs in the states `<param>_grad_sum` and the counter `micro_step`, and
 * applies the transition to their mean in the last of these runs. `kinds` are the terms of a run for each parameter:
 * `grad`, and others that are accumulated like it.
 */
export function accumulateGradients(
  g: Builder,
  params: readonly Value[],
  kinds: readonly string[],
  batches: number,
  transition: Transition,
): { transition: Transition; sums: Value[]; counter: Value } {
  const counter = stateInput(g, 'micro_step', Tensor.filled('int64', [], 0));
  const sums = kinds.flatMap(kind =>
    params.map(p => {
      const { dtype, dims } = g.graph.initializers.get(p)!;
      return stateInput(g, `${p.name}_${kind}_sum`, Tensor.zeros(dtype, dims));
    }),
  );
  return {
    counter,
    sums,
    transition: (b, terms) => {
      const count = b.of(counter).add(1);
      const totals = terms.map((term, i) => b.of(sums[i]!).add(term));
      const last = (then: Builder): Updates => {
        const means = totals.map(total => then.of(total.value).div(batches));
        const zeros = sums.map(sum => [sum, then.of(sum).zeros()] as const);
        return new Map([...transition(then, means), ...zeros, [counter, then.of(counter).zeros()]]);
      };
      return when(
        b,
        count.equal(batches),
        last,
        other =>
          new Map([
            [counter, other.of(count.value)],
            ...sums.map((s, i) => [s, other.of(totals[i]!.value)] as const),
          ]),
      );
    },
  };
}
