import { optimizerOf } from '../index.js';
import type { Averaging, Optimizer, OptimizerOptions } from '../optimizer.js';
import { cautious } from './cautious.js';
import { quantized, type Rounding, type StateBits } from './quantized.js';
import { scheduleFree } from './schedule-free.js';
import { GAMMA, weightedSharpness } from './weighted-sharpness.js';

/** The wrappers that a step has: options of an injection, as its description records them. */
export type Wrappers = {
  cautious?: boolean;
  stateBits?: number;
  stateRounding?: Rounding;
  wsam?: { gamma?: number };
  scheduleFree?: Averaging;
};

/** The optimizer in its wrappers. The others wrap what moves the z of a Schedule-Free optimizer. */
export function wrapped<O extends OptimizerOptions>(
  optimizer: Optimizer<O>,
  { scheduleFree: averaging, ...wrappers }: Wrappers,
): Optimizer<O> {
  const { inner } = optimizer;
  const moved = inner ? scheduleFree(around(inner.optimizer, wrappers), inner.averagingOf) : undefined;
  const own = moved ?? around(optimizer, wrappers);
  return averaging ? scheduleFree(own, () => averaging) : own;
}

/** The optimizer of a training step in its wrappers; none for a step that was made elsewhere. Throws `bad-option` as `optimizerOf` does. */
export function optimizerOfStep({
  optimizer,
  ...wrappers
}: Wrappers & { optimizer: { name: string; extension?: boolean } }) {
  const found = optimizerOf(optimizer);
  return found && wrapped(found, wrappers);
}

function around<O extends OptimizerOptions>(
  optimizer: Optimizer<O>,
  { cautious: isCautious, stateBits, stateRounding, wsam }: Wrappers,
): Optimizer<O> {
  const stored =
    stateBits === undefined ? optimizer : quantized(optimizer, stateBits as StateBits, stateRounding);
  const masked = isCautious ? cautious(stored) : stored;
  return wsam ? weightedSharpness(masked, wsam.gamma ?? GAMMA) : masked;
}
