import { withInitializers } from '../../graph/clone.js';
import { AgdError } from '../../graph/errors.js';
import type { Model, Value } from '../../graph/ir.js';
import type { Builder } from '../../ops/core/builder.js';
import { readDescription } from '../file/step-metadata.js';
import { stateInput, type Transition } from './transition.js';

/**
 * Keeps an exponential moving average of the weights in the states `<param>_ema`, which start as the weights: after
 * each update, ema = decay ema + (1 - decay) w.
 */
export function averageWeights(
  g: Builder,
  params: readonly Value[],
  decay: number,
  transition: Transition,
): { transition: Transition; averages: Value[] } {
  const averages = params.map(p => stateInput(g, `${p.name}_ema`, g.graph.initializers.get(p)!));
  return {
    averages,
    transition: (b, grads) => {
      const updates = transition(b, grads);
      params.forEach((param, i) => {
        const average = b.of(averages[i]!);
        const step = updates
          .get(param)!
          .sub(average)
          .mul(1 - decay);
        updates.set(averages[i]!, average.add(step));
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
  const averages = new Map(parameters.map(p => [p.name, tensors.get(p.ema!)!]));
  return withInitializers(injected, name => averages.get(name));
}
