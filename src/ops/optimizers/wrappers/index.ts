import type { Optimizer, OptimizerOptions } from '../optimizer.js';
import { cautious } from './cautious.js';
import { quantized, type StateBits } from './quantized.js';

/** The wrappers that a step has: options of an injection, as its description records them. */
export type Wrappers = { cautious?: boolean; stateBits?: number };

/** The optimizer in its wrappers. */
export function wrapped<O extends OptimizerOptions>(
  optimizer: Optimizer<O>,
  wrappers: Wrappers,
): Optimizer<O> {
  const { stateBits } = wrappers;
  const stored = stateBits === undefined ? optimizer : quantized(optimizer, stateBits as StateBits);
  return wrappers.cautious ? cautious(stored) : stored;
}
