import { withInitializers } from '../../graph/clone.js';
import { isHalf, wideOf } from '../../graph/dtype.js';
import { AgdError } from '../../graph/errors.js';
import type { Model, Value } from '../../graph/ir.js';
import type { Builder } from '../../ops/core/builder.js';
import { readDescription } from '../file/step-metadata.js';
import { stateInput, type Transition } from './transition.js';
import { exactWeight, inType } from './update-parameters.js';

/**
 * Keeps an exponential moving average of the weights in the states `<param>_ema`, which start as the weights: after
 * each update, ema = decay ema + (1 - decay) w. That of 16-bit weights is float32, as its steps are smaller than their
 * rounding.
 */
export function averageWeights(
  g: Builder,
  params: readonly Value[],
  carries: readonly (Value | undefined)[],
  decay: number,
  transition: Transition,
): { transition: Transition; averages: Value[] } {
  const averages = params.map(p =>
    stateInput(g, `${p.name}_ema`, inType(g.graph.initializers.get(p)!, wideOf(p.dtype!))),
  );
  return {
    averages,
    transition: (b, grads) => {
      const updates = transition(b, grads);
      params.forEach((param, i) => {
        const average = b.of(averages[i]!);
        const next = updates.get(param)!;
        const carry = carries[i] && updates.get(carries[i]);
        const w = isHalf(param.dtype) ? exactWeight(next, carry) : next;
        updates.set(averages[i]!, average.add(w.sub(average).mul(1 - decay)));
      });
      return updates;
    },
  };
}

/** An injected model with the averages in place of the weights. Throws `bad-option` if it keeps none. */
export function averagedModel(injected: Model): Model {
  const { ema, parameters } = readDescription(injected);
  if (ema === undefined)
    throw new AgdError(
      'bad-option',
      'The model keeps no average of its weights: inject it with --ema DECAY.',
    );
  const tensors = new Map([...injected.graph.initializers].map(([v, tensor]) => [v.name, tensor]));
  const averages = new Map(
    parameters.map(p => [p.name, inType(tensors.get(p.ema!)!, tensors.get(p.name)!.dtype)]),
  );
  return withInitializers(injected, name => averages.get(name));
}
