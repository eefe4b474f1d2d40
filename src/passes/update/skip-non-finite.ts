import type { Value } from '../../graph/ir.js';
import { Tensor } from '../../graph/tensor.js';
import type { Builder } from '../../ops/core/builder.js';
import { keepScale, type LossScale, lowerScale } from '../differentiate/scale-loss.js';
import type { ScalarType } from '../options.js';
import { globalNorm } from './clip-gradients.js';
import { choose, stateInput, type Transition, when } from './transition.js';

/**
 * Leaves all state unchanged if the global gradient norm is not finite, and counts such steps in the state `skipped`. With
 * `scaling`, such a step lowers the loss scale. For CUDA, the update is computed in any case, so that nothing waits for the norm.
 */
export function skipNonFinite(
  g: Builder,
  transition: Transition,
  { scaling, scalars }: { scaling?: LossScale; scalars?: ScalarType } = {},
): { transition: Transition; skipped: Value } {
  const skipped = stateInput(g, 'skipped', Tensor.filled('int64', [], 0));
  const either = g.provider === 'cuda' ? choose : when;
  return {
    skipped,
    transition: (b, grads) =>
      either(
        b,
        globalNorm(grads, scalars).less(Number.POSITIVE_INFINITY),
        then =>
          new Map([
            ...transition(
              then,
              grads.map(e => then.of(e.value)),
            ),
            ...(scaling ? keepScale(then, scaling) : []),
          ]),
        otherwise =>
          new Map([
            [skipped, otherwise.of(skipped).add(1)],
            ...(scaling ? lowerScale(otherwise, scaling) : []),
          ]),
      ),
  };
}
