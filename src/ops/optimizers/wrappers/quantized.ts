/**
 * Optimizer states in 8 or 4 bits. Dettmers, Lewis, Shleifer, Zettlemoyer: «8-bit Optimizers via Block-wise
 * Quantization», ICLR 2022; Li, Chen, Zhu: «Memory Efficient Optimizers with 4-bit States», NeurIPS 2023.
 */
import type { Expr } from '../../core/expr.js';
import { Generator, keyOfBatch } from '../../random.js';
import {
  asKept,
  ensure,
  type KeptState,
  type Optimizer,
  type OptimizerOptions,
  type State,
  statesOf,
} from '../optimizer.js';

export type StateBits = 8 | 4;
export const ROUNDINGS = ['nearest', 'stochastic'] as const;
export type Rounding = (typeof ROUNDINGS)[number];

/** Elements that share a scale, as in the papers. */
const BLOCK = { 8: 256, 4: 128 };
/** Smaller parameters keep their states in float32: they take little memory. */
const LEAST = 4096;
/** Below the root of every float32 above 0. */
const TINY = 1e-30;

/** The least level above 0 of numbers with a sign in 8 bits, in units of the largest. */
const RANGE = 1e-5;

/**
 * With k a whole number, and s a scale of the block, such that the largest |x| is the last level,
 *
 *     8 bits    x = s sign(k) 1e-5^((K - |k|) / (K - 1)), 0 for k = 0     -K <= k <= K,   K = 127
 *     4 bits    x = y |y|,  y = s k / K                                  -K <= k <= K,   K = 7
 *     squares   x = y^4,    y = s (k + 1) / (K + 1)                       0 <= k <= K,   K = 255 or 15
 *
 * In 8 bits, levels differ by less than 10 %: an average with a beta of 0.9 that gets zeros moves to the next level in each step,
 * down to 0. With wider levels it stays where it is, and the optimizer takes steps for ever.
 * The last is for squares, of which a step takes the root: their range is that of the roots, and none becomes 0, by which a
 * step would be divided. The levels are closer to each other near 0, as those of the papers' dynamic map are, and need no table.
 * Of a state, `<name>` has the k of each block as uint8 (two in a byte, those of the second half of a block above) and
 * `<name>_scale` the s. `stochastic` rounds to one of the two nearest levels, such that the mean of what is stored is x, by
 * random numbers that follow from the update and the name of the state: a resumed run draws the same ones, and so do ranks,
 * whose states are equal. States in shapes of their own, scalars and exact ones stay as they are.
 */
export function quantized<O extends OptimizerOptions>(
  optimizer: Optimizer<O>,
  bits: StateBits,
  rounding: Rounding = 'nearest',
): Optimizer<O> {
  const block = BLOCK[bits];
  const isLarge = (shape: readonly number[]) => sizeOf(shape) >= LEAST;
  /** The states of a large parameter that are quantized. */
  const chosen = (options: O, shape: readonly number[]) =>
    isLarge(shape)
      ? statesOf(optimizer, options, shape).filter(
          ({ scalar, exact, dims }) => !scalar && !exact && `${dims}` === `${shape}`,
        )
      : [];

  const states = (options: O, shape: readonly number[]): readonly KeptState[] => {
    const names = new Set(chosen(options, shape).map(s => s.name));
    const blocks = Math.ceil(sizeOf(shape) / block);
    return statesOf(optimizer, options, shape).flatMap(({ name, value, ...state }): KeptState[] => {
      if (!names.has(name)) return [{ ...state, name, value }];
      const top = state.square ? 2 ** bits - 1 : 2 ** bits - 2;
      const codes = bits === 8 ? top : 17 * top;
      const dims = [blocks, (block * bits) / 8];
      return [
        { name, value: codes, dims, dtype: 'uint8' },
        {
          name: scaleOf(name),
          value: Number(value) ** (1 / levelsOf(bits, !!state.square).power),
          dims: [blocks, 1],
        },
      ];
    });
  };

  /** Those of them that these are: small parameters that are updated as one vector have none. */
  const chosenOf = (options: O, shape: readonly number[], kept: State) =>
    chosen(options, shape).filter(({ name }) => kept[scaleOf(name)]);

  const decoded = (options: O, shape: readonly number[], kept: State, like: Expr): State => {
    const found = { ...kept };
    for (const { name, square } of chosenOf(options, shape, kept)) {
      const scale = kept[scaleOf(name)]!;
      found[name] = decode(kept[name]!.cast(scale.dtype), scale, { bits, square, shape }).cast(like.dtype);
    }
    return found;
  };

  return {
    ...optimizer,
    states,
    whole: (options, shape) =>
      chosen(options, shape).length > 0 || (optimizer.whole?.(options, shape) ?? false),

    scalars: (step, ...rest) => ({
      ...optimizer.scalars(step, ...rest),
      ...(rounding === 'stochastic' ? { update: step } : {}),
    }),

    update(w, grad, kept, scalars, options, diagonal) {
      const shape = w.staticShape!;
      const before = decoded(options, shape, kept, w);
      const updated = optimizer.update(w, grad, before, scalars, options, diagonal);
      const state = { ...updated.state };
      const rounded = chosenOf(options, shape, kept);
      const draw = scalars.update && rounded[0] && drawer(scalars.update, kept[rounded[0].name]!);
      for (const { name, square } of rounded) {
        const { codes, scale } = encode(state[name]!, { bits, square, shape }, draw);
        state[name] = codes;
        state[scaleOf(name)] = scale;
      }
      return { ...updated, state };
    },

    ...(optimizer.totals && {
      totals: {
        ...optimizer.totals,
        terms(w, grad, kept, scalars, options) {
          const state = decoded(options, w.staticShape!, kept, w);
          return optimizer.totals!.terms(w, grad, state, scalars, options);
        },
      },
    }),

    checkpoint(options, step, shape) {
      if (!chosen(options, shape).length)
        return optimizer.checkpoint?.(options, step, shape) ?? asKept(statesOf(optimizer, options, shape));
      return asKept(states(options, shape));
    },

    observed: optimizer.observed && {
      names: optimizer.observed.names,
      observe(before, after, scalars, options, shape) {
        const [like] = Object.values(scalars);
        const [one, two] = [before, after].map(kept => decoded(options, shape, kept, like!));
        return optimizer.observed!.observe(one!, two!, scalars, options, shape);
      },
    },

    validate(options) {
      optimizer.validate?.(options);
      ensure(
        !('centered' in options && options.centered),
        'centered subtracts two averages, which rounding of the state can make negative: it cannot be combined with state_bits.',
      );
    },
  };
}

type Form = { bits: StateBits; square: boolean; shape: readonly number[] };

const scaleOf = (name: string) => `${name}_scale`;
const sizeOf = (shape: readonly number[]) => shape.reduce((n, d) => n * d, 1);

/** Draws tensors of numbers in (0, 1) like others, which differ by update, parameter and call. */
function drawer(update: Expr, state: Expr): (like: Expr) => Expr {
  const name = [...state.value.name].reduce((hash, c) => (31 * hash + c.codePointAt(0)!) % 2 ** 32, 7);
  const key = keyOfBatch(update.cast('int64'));
  const generator = new Generator(key, name);
  return like => generator.uniform(key, like.count('int64')).reshape(like.staticShape!).cast(like.dtype);
}

/** Codes as uint8 and scales of the blocks of a tensor. */
function encode(
  x: Expr,
  { bits, square, shape }: Form,
  draw?: (like: Expr) => Expr,
): { codes: Expr; scale: Expr } {
  const { g } = x;
  const [size, block] = [sizeOf(shape), BLOCK[bits]];
  const blocks = Math.ceil(size / block);
  const flat = x.reshape([-1]);
  const extra = blocks * block - size;
  const rows = (extra ? flat.pad(g.ints([0, extra])) : flat).reshape([blocks, block]);
  const levels = levelsOf(bits, square);
  const root = rootOf(square ? rows.maximum(0) : rows.abs(), levels.power);
  const scale = root.max([1], { keepdims: true });
  const exact = levels.at(root.div(scale.maximum(TINY)));
  const level = draw ? between(exact, levels, draw).minimum(levels.top) : exact.op('Round');
  const codes = square ? level.sub(1).maximum(0) : level.mul(rows.sign()).add(levels.top);
  return { codes: (bits === 8 ? codes : packed(codes, block)).cast('uint8'), scale };
}

type Levels = {
  /** The number of the last level. */
  top: number;
  /** The scale is the largest |x| to the power of its inverse. */
  power: 1 | 2 | 4;
  /** Where a share of the scale is among the levels, which have whole numbers. */
  at(share: Expr): Expr;
  /** The share of a level. */
  of(level: Expr): Expr;
};

function levelsOf(bits: StateBits, square: boolean): Levels {
  const top = square ? 2 ** bits : 2 ** (bits - 1) - 1;
  if (square || bits === 4)
    return { top, power: square ? 4 : 2, at: share => share.mul(top), of: level => level.div(top) };
  const step = -Math.log(RANGE) / (top - 1);
  return {
    top,
    power: 1,
    at: share => share.maximum(TINY).log().div(step).add(top).maximum(0),
    of: level => level.greater(0).where(level.sub(top).mul(step).exp(), level.zeros()),
  };
}

const rootOf = (x: Expr, power: 1 | 2 | 4) => (power === 1 ? x : power === 2 ? x.sqrt() : x.sqrt().sqrt());
const raised = (x: Expr, power: 1 | 2 | 4) =>
  power === 1 ? x : power === 2 ? x.square() : x.square().square();

/** One of the levels below and above, such that the mean of their numbers is that of `exact`. */
function between(exact: Expr, { power, of }: Levels, draw: (like: Expr) => Expr): Expr {
  const numberOf = (level: Expr) => raised(of(level), power);
  const below = exact.floor();
  const [least, next] = [numberOf(below), numberOf(below.add(1))];
  const share = numberOf(exact).sub(least).div(next.sub(least));
  return below.add(draw(exact).less(share).cast(exact.dtype));
}

/** The inverse of `encode` for codes in a floating-point type. */
function decode(stored: Expr, scale: Expr, { bits, square, shape }: Form): Expr {
  const codes = bits === 8 ? stored : unpacked(stored);
  const [size, block] = [sizeOf(shape), BLOCK[bits]];
  const { top, power, of } = levelsOf(bits, square);
  const signed = square ? codes.add(1) : codes.sub(top);
  const y = of(square ? signed : signed.abs()).mul(scale);
  const x = square ? raised(y, power) : raised(y, power).mul(signed.sign());
  const flat = x.reshape([-1]);
  const own = size % block ? flat.slice([0], [size], [0]) : flat;
  return own.reshape(shape);
}

function packed(codes: Expr, block: number): Expr {
  const half = (from: number) => codes.slice([from], [from + block / 2], [1]);
  return half(block / 2)
    .mul(16)
    .add(half(0));
}

function unpacked(bytes: Expr): Expr {
  const high = bytes.div(16).floor();
  return bytes.sub(high.mul(16)).concat([high], 1);
}
