import { AgdError } from '../../graph/errors.js';
import type { Model } from '../../graph/ir.js';
import type { LossFunction } from './loss-function.js';

/** The options with a loss that is a function as `lossGraph`. Throws `bad-option` if there is such a graph too. */
export function withLossFunction<O extends { loss?: unknown; lossGraph?: unknown }>(
  options: O,
): Omit<O, 'loss' | 'lossGraph'> & {
  loss?: Exclude<O['loss'], LossFunction>;
  lossGraph?: Model | LossFunction;
} {
  const { loss, lossGraph, ...others } = options;
  if (typeof loss !== 'function') return options as never;
  if (lossGraph)
    throw new AgdError('bad-option', 'Give the loss as a function or as lossGraph, not as both.');
  return { ...others, lossGraph: loss as LossFunction };
}
