import type { Optimizer, OptimizerOptions } from '../optimizer.js';
import { cautious } from './cautious.js';

/** The wrappers that a step has: options of an injection, as its description records them. */
export type Wrappers = { cautious?: boolean };

/** The optimizer in its wrappers. */
export function wrapped<O extends OptimizerOptions>(
  optimizer: Optimizer<O>,
  wrappers: Wrappers,
): Optimizer<O> {
  return wrappers.cautious ? cautious(optimizer) : optimizer;
}
