/** Gradients of the kinds that an optimizer meets, step by step; each kind is a parameter of `WIDTH` coordinates. */
import { type Random, random } from '../../../src/graph/random.js';

const WIDTH = 64;

/** A gradient from a normal number, the step from 0 and a number of [0, 1). */
const KINDS: Record<string, (noise: number, step: number, chance: number) => number> = {
  large: noise => 1e4 * noise,
  tiny: noise => 1e-6 * noise,
  constant: () => 0.3,
  sparse: (noise, _, chance) => (chance < 0.1 ? noise : 0),
  alternating: (noise, step) => (step % 2 ? 1 : -1) * (1 + 0.1 * noise),
};
export const KIND_NAMES = Object.keys(KINDS);

export type Gradients = Record<string, readonly number[]>;

/** Parameters of magnitude `size`, and `count` steps of gradients, all of them float32 numbers. */
export function gradientSequences(
  count: number,
  size: number,
  seed = 1,
): { start: Gradients; steps: Gradients[] } {
  const draw = random(seed);
  const each = (make: (kind: string) => number): Gradients =>
    Object.fromEntries(
      KIND_NAMES.map(kind => [kind, Array.from({ length: WIDTH }, () => Math.fround(make(kind)))]),
    );
  return {
    start: each(() => size * normal(draw)),
    steps: Array.from({ length: count }, (_, step) =>
      each(kind => KINDS[kind]!(normal(draw), step, unit(draw))),
    ),
  };
}

const unit = (draw: Random) => (draw() + 0.5) / 2 ** 32;
const normal = (draw: Random) => Math.sqrt(-2 * Math.log(unit(draw))) * Math.cos(2 * Math.PI * unit(draw));
