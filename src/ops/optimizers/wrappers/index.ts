import type { Optimizer, OptimizerOptions } from '../optimizer.js';
import { cautious } from './cautious.js';
import { quantized, type Rounding, type StateBits } from './quantized.js';
import { GAMMA, weightedSharpness } from './weighted-sharpness.js';

/** The wrappers that a step has: options of an injection, as its description records them. */
export type Wrappers = {
  cautious?: boolean;
  stateBits?: number;
  stateRounding?: Rounding;
  wsam?: { gamma?: number };
};

/** The optimizer in its wrappers. */
export function wrapped<O extends OptimizerOptions>(
  optimizer: Optimizer<O>,
  { cautious: isCautious, stateBits, stateRounding, wsam }: Wrappers,
): Optimizer<O> {
  const stored =
    stateBits === undefined ? optimizer : quantized(optimizer, stateBits as StateBits, stateRounding);
  const masked = isCautious ? cautious(stored) : stored;
  return wsam ? weightedSharpness(masked, wsam.gamma ?? GAMMA) : masked;
}
