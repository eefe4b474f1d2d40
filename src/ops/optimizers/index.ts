import { AgdError } from '../../graph/errors.js';
import { agd } from './agd.js';
import type { Optimizer, OptimizerOptions } from './optimizer.js';

export const OPTIMIZERS = { agd };

/** Throws `bad-option` for a name that is none of `OPTIMIZERS`. Its options are to be those of its own type. */
export function optimizerNamed(name: string): Optimizer<OptimizerOptions> {
  const found = new Map(Object.entries(OPTIMIZERS)).get(name as keyof typeof OPTIMIZERS);
  if (!found)
    throw new AgdError(
      'bad-option',
      `There is no optimizer '${name}'; there are ${Object.keys(OPTIMIZERS).join(', ')}.`,
    );
  return found as unknown as Optimizer<OptimizerOptions>;
}
