/**
 * The shared check on shapes and attributes drawn at random: what nobody thought of writing down. The same ones each
 * time; the name of a test says which.
 */
import { describe, it } from 'vitest';
import { type Random, random } from '../../src/graph/random.js';
import { type AttrInit, float } from '../../src/ops/core/builder.js';
import { bools, checkVjp, type Input, ints, type VjpCase } from './vjp.js';

const CASES = 12;

/** Choices made by one generator. */
class Dice {
  constructor(private readonly next: Random) {}
  /** A whole number from `low` to `high`, both included. */
  int(low: number, high: number): number {
    return low + (this.next() % (high - low + 1));
  }
  /** True once in `times`. */
  once(times = 2): boolean {
    return this.int(1, times) === 1;
  }
  of<T>(items: readonly T[]): T {
    return items[this.int(0, items.length - 1)]!;
  }
  list<T>(count: number, make: (i: number) => T): T[] {
    return Array.from({ length: count }, (_, i) => make(i));
  }
  dims(rank: number, most = 3): number[] {
    return this.list(rank, () => this.int(1, most));
  }
  shuffled<T>(items: readonly T[]): T[] {
    const left = [...items];
    return items.map(() => left.splice(this.int(0, left.length - 1), 1)[0]!);
  }
  /** Some of the axes of a tensor, in any order, some of them counted from the end. */
  axes(rank: number, count = this.int(0, rank)): number[] {
    const all = this.list(rank, i => i);
    return this.shuffled(all)
      .slice(0, count)
      .map(a => (this.once() ? a : a - rank));
  }
  /** A shape that broadcasts to `full`: without some leading axes, and with ones. */
  part(full: readonly number[]): number[] {
    return full.slice(this.int(0, full.length)).map(d => (this.once(3) ? 1 : d));
  }
  /** Which extents a rule is not told. */
  hidden(): VjpCase['symbolic'] {
    const seed = this.next();
    const share = this.of([0, 1, 2]);
    return (input, axis) => random(seed, 16 * input + axis)() % 2 < share;
  }
}

type Drawn = [op: string, inputs: Input[], c: VjpCase];

/** A test for each case of a family; a case is drawn from numbers of its own. */
function family(name: string, draw: (dice: Dice) => Drawn, cases = CASES): void {
  describe(name, () => {
    for (let i = 0; i < cases; i++) {
      const [op, inputs, c] = draw(
        new Dice(random(i, [...name].reduce((n, ch) => 31 * n + ch.charCodeAt(0), 7) % 2 ** 31)),
      );
      const shown = inputs.map(x => (x && 'dims' in x ? `${x.dtype}[${x.dims}]` : `[${x}]`)).join(' ');
      it(`${i}: ${op} ${shown} ${JSON.stringify(c.attrs ?? {})}`, () => checkVjp(op, inputs, c));
    }
  });
}

// ---- broadcasts ----

/** Shapes that broadcast to `full` together. */
function operands(dice: Dice, count: number): number[][] {
  const full = dice.dims(dice.int(0, 4));
  const parts = dice.list(count, () => dice.part(full));
  parts[dice.int(0, count - 1)] = full;
  return parts;
}

family(
  'elementwise',
  dice => {
    const c: VjpCase = { range: [0.5, 2], step: 1e-3, symbolic: dice.hidden() };
    const op = dice.of([
      'Add',
      'Sub',
      'Mul',
      'Div',
      'Pow',
      'Max',
      'Min',
      'Sum',
      'Mean',
      'Where',
      'PRelu',
      'Expand',
    ]);
    const several = /Max|Min|Sum|Mean/.test(op) ? dice.int(2, 3) : 2;
    const shapes = operands(dice, several);
    if (op === 'Where') {
      const condition = dice.part(shapes[0]!);
      const size = condition.reduce((n, d) => n * d, 1);
      return [
        op,
        [
          bools(
            dice.list(size, () => dice.int(0, 1)),
            condition,
          ),
          ...shapes,
        ],
        c,
      ];
    }
    if (op === 'PRelu') {
      const x = dice.dims(dice.int(1, 4));
      return [op, [x, dice.part(x)], { ...c, range: [-2, 2] }];
    }
    if (op === 'Expand') {
      const full = dice.dims(dice.int(0, 4));
      return [op, [dice.part(full), ints(full)], { ...c, constants: dice.once() ? [1] : [] }];
    }
    return [op, shapes, c];
  },
  3 * CASES,
);

family('MatMul', dice => {
  const [m, k, n] = dice.dims(3) as [number, number, number];
  const batch = dice.dims(dice.int(0, 2));
  const a = dice.once(5) ? [k] : [...dice.part(batch), m, k];
  const b = dice.once(5) ? [k] : [...dice.part(batch), k, n];
  return ['MatMul', [a, b], { symbolic: dice.hidden() }];
});

family('Gemm', dice => {
  const [m, k, n] = dice.dims(3) as [number, number, number];
  const attrs = { transA: dice.int(0, 1), transB: dice.int(0, 1), alpha: float(0.7), beta: float(1.3) };
  const inputs = [attrs.transA ? [k, m] : [m, k], attrs.transB ? [n, k] : [k, n]];
  return ['Gemm', dice.once(4) ? inputs : [...inputs, dice.part([m, n])], { attrs, symbolic: dice.hidden() }];
});

// ---- reductions ----

family(
  'Reduce',
  dice => {
    const x = dice.dims(dice.int(1, 4));
    const given = dice.once(6) ? null : dice.axes(x.length);
    const attrs = {
      keepdims: dice.int(0, 1),
      ...(given?.length === 0 ? { noop_with_empty_axes: dice.int(0, 1) } : {}),
    };
    const op = `Reduce${dice.of(['Sum', 'Mean', 'Max', 'Min', 'Prod', 'L1', 'L2', 'LogSum', 'LogSumExp', 'SumSquare'])}`;
    const c: VjpCase = { attrs, range: [0.5, 2], step: 1e-3, symbolic: dice.hidden() };
    return [op, given ? [x, ints(given)] : [x], { ...c, constants: dice.once() ? [1] : [] }];
  },
  2 * CASES,
);

// ---- places ----

/** Places along an axis of `extent`, some counted from the end. */
const places = (dice: Dice, count: number, extent: number) =>
  dice.list(count, () => dice.int(-extent, extent - 1));
const size = (dims: readonly number[]) => dims.reduce((n, d) => n * d, 1);

family('Gather', dice => {
  const x = dice.dims(dice.int(1, 3), 4);
  const axis = dice.int(-x.length, x.length - 1);
  const shape = dice.dims(dice.int(0, 2));
  return [
    'Gather',
    [x, ints(places(dice, size(shape), x.at(axis)!), shape)],
    { attrs: { axis }, symbolic: dice.hidden() },
  ];
});

family('GatherElements', dice => {
  const x = dice.dims(dice.int(1, 3), 4);
  const axis = dice.int(-x.length, x.length - 1);
  const along = axis < 0 ? axis + x.length : axis;
  const shape = x.map((d, i) => (i === along ? dice.int(1, 4) : dice.int(1, d)));
  return [
    'GatherElements',
    [x, ints(places(dice, size(shape), x[along]!), shape)],
    { attrs: { axis }, symbolic: dice.hidden() },
  ];
});

family('GatherND', dice => {
  const x = dice.dims(dice.int(1, 4));
  const batch_dims = dice.int(0, Math.min(1, x.length - 1));
  const depth = dice.int(1, x.length - batch_dims);
  const rows = [...x.slice(0, batch_dims), ...dice.dims(dice.int(0, 1))];
  const index = () => dice.list(depth, i => places(dice, 1, x[batch_dims + i]!)[0]!);
  const indices = dice.list(size(rows), index).flat();
  return [
    'GatherND',
    [x, ints(indices, [...rows, depth])],
    { attrs: { batch_dims }, symbolic: dice.hidden() },
  ];
});

const REDUCTIONS = ['none', 'add', 'mul', 'max', 'min'];

family('ScatterElements', dice => {
  const x = dice.dims(dice.int(1, 3), 4);
  const axis = dice.int(-x.length, x.length - 1);
  const along = axis < 0 ? axis + x.length : axis;
  const reduction = dice.of(REDUCTIONS);
  const shape = x.map(d => dice.int(1, d));
  // What is written without a reduction is not written twice.
  const order = dice.shuffled(dice.list(x[along]!, i => i));
  const inner = size(shape.slice(along + 1));
  const indices = dice.list(size(shape), i =>
    reduction === 'none' ? order[Math.floor(i / inner) % shape[along]!]! : places(dice, 1, x[along]!)[0]!,
  );
  return [
    'ScatterElements',
    [x, ints(indices, shape), shape],
    { attrs: { axis, reduction }, step: 1e-3, symbolic: dice.hidden() },
  ];
});

family('ScatterND', dice => {
  const x = dice.dims(dice.int(1, 3));
  const depth = dice.int(1, x.length);
  const count = Math.min(size(x.slice(0, depth)), dice.int(1, 3));
  const at = dice.shuffled(dice.list(size(x.slice(0, depth)), i => i)).slice(0, count);
  const indices = at.flatMap(flat => {
    const index: number[] = [];
    for (let axis = depth - 1, rest = flat; axis >= 0; axis--) {
      index.unshift(rest % x[axis]!);
      rest = Math.floor(rest / x[axis]!);
    }
    return index;
  });
  const u = [count, ...x.slice(depth)];
  return [
    'ScatterND',
    [x, ints(indices, [count, depth]), u],
    { attrs: { reduction: dice.of(REDUCTIONS) }, step: 1e-3, symbolic: dice.hidden() },
  ];
});

// ---- movement ----

family(
  'Slice',
  dice => {
    const x = dice.dims(dice.int(1, 3), 5);
    const axes = dice.axes(x.length, dice.int(1, x.length));
    const bound = (a: number) => dice.int(-x.at(a)! - 1, x.at(a)! + 1);
    const steps = dice.once() ? [ints(axes.map(() => dice.of([1, 1, 2, -1, -2, 3])))] : [];
    const inputs = [x, ints(axes.map(bound)), ints(axes.map(bound)), ints(axes), ...steps];
    return [
      'Slice',
      inputs,
      { constants: dice.once() ? [1, 2, 3, 4].slice(0, inputs.length - 1) : [], symbolic: dice.hidden() },
    ];
  },
  2 * CASES,
);

family('Pad', dice => {
  const x = dice.dims(dice.int(1, 3), 4);
  const axes = dice.axes(x.length, dice.int(1, x.length));
  const mode = dice.of(['constant', 'constant', 'reflect', 'edge', 'wrap']);
  const most = (a: number) => (mode === 'reflect' ? x.at(a)! - 1 : mode === 'wrap' ? x.at(a)! : 3);
  const least = mode === 'constant' ? -1 : 0;
  const amounts = [...axes, ...axes].map(a => dice.int(x.at(a)! > 2 ? least : 0, most(a)));
  const c: VjpCase = {
    attrs: { mode },
    opset: 19,
    constants: dice.once() ? [1, 3] : [],
    symbolic: dice.hidden(),
  };
  return ['Pad', [x, ints(amounts), null, ints(axes)], c];
});

family('Tile, Transpose, Split', dice => {
  const x = dice.dims(dice.int(1, 4));
  const symbolic = dice.hidden();
  switch (dice.int(1, 3)) {
    case 1:
      return ['Tile', [x, ints(dice.dims(x.length))], { symbolic, constants: dice.once() ? [1] : [] }];
    case 2:
      return ['Transpose', [x], { symbolic, attrs: { perm: dice.shuffled(x.map((_, i) => i)) } }];
    default: {
      const parts = dice.dims(dice.int(1, 3));
      const axis = dice.int(-x.length, x.length - 1);
      const whole = x.with(
        axis,
        parts.reduce((a, b) => a + b),
      );
      return ['Split', [whole, ints(parts)], { symbolic, attrs: { axis }, outputs: parts.length }];
    }
  }
});

// ---- windows ----

/** Kernel, strides, dilations and pads over 1 to 3 axes, and an input that holds at least one window. */
function windows(dice: Dice) {
  const rank = dice.int(1, 3);
  const auto_pad = dice.of(['NOTSET', 'NOTSET', 'SAME_UPPER', 'SAME_LOWER', 'VALID']);
  const kernel = dice.list(rank, () => dice.int(1, 3));
  // Padded by SAME, the runtime has no convolution that is dilated, and no pool that leaves elements out.
  const isSame = auto_pad.startsWith('SAME');
  const strides = dice.list(rank, i => dice.int(1, isSame ? kernel[i]! : 3));
  const dilations = dice.list(rank, () => (isSame ? 1 : dice.of([1, 1, 2])));
  // No window lies in the padding alone.
  const pads = dice.list(2 * rank, i => (dice.once() ? 0 : dice.int(0, kernel[i % rank]! - 1)));
  const reach = kernel.map((k, i) => (k - 1) * dilations[i]! + 1);
  const spatial = reach.map(r => r + dice.int(0, rank === 3 ? 1 : 3));
  const padding: AttrInit = auto_pad === 'NOTSET' ? { pads } : { auto_pad };
  // A window that begins after the end the runtime leaves out when it runs, and not when it infers shapes.
  const beyond = auto_pad === 'NOTSET' ? pads.slice(rank) : Array<number>(rank).fill(0);
  const mayCeil = strides.every((s, i) => s <= reach[i]! - beyond[i]!);
  const attrs: AttrInit = { kernel_shape: kernel, strides, dilations, ...padding };
  return { kernel, spatial, strides, attrs, isSame, mayCeil };
}

family('Conv', dice => {
  const { kernel, spatial, attrs } = windows(dice);
  const group = dice.int(1, 2);
  const [n, c, m] = [dice.int(1, 2), dice.int(1, 2), dice.int(1, 2)];
  const inputs = [[n, group * c, ...spatial], [group * m, c, ...kernel], [group * m]];
  return [
    'Conv',
    dice.once() ? inputs : inputs.slice(0, 2),
    { attrs: { ...attrs, group }, symbolic: dice.hidden() },
  ];
});

family('ConvTranspose', dice => {
  const { kernel, spatial, strides, attrs, isSame } = windows(dice);
  const group = dice.int(1, 2);
  const [n, c, m] = [dice.int(1, 2), dice.int(1, 2), dice.int(1, 2)];
  // With SAME the runtime's kernel and its shape inference take this differently.
  const output_padding = strides.map(s => (isSame ? 0 : dice.int(0, s - 1)));
  const inputs = [
    [n, group * c, ...spatial.map(d => Math.min(d, 3))],
    [group * c, m, ...kernel],
    [group * m],
  ];
  return [
    'ConvTranspose',
    dice.once() ? inputs : inputs.slice(0, 2),
    { attrs: { ...attrs, group, ...(dice.once() ? { output_padding } : {}) }, symbolic: dice.hidden() },
  ];
});

family(
  'pools',
  dice => {
    const op = dice.of(['MaxPool', 'AveragePool', 'LpPool']);
    const { spatial, attrs, mayCeil } = windows(dice);
    const more = {
      AveragePool: { count_include_pad: dice.int(0, 1) },
      LpPool: { p: dice.int(1, 3) },
      MaxPool: {},
    }[op]!;
    const c: VjpCase = {
      attrs: { ...attrs, ...more, ceil_mode: mayCeil ? dice.int(0, 1) : 0 },
      opset: op === 'AveragePool' ? 19 : 18,
      step: op === 'MaxPool' ? 1e-3 : 1e-2,
      symbolic: dice.hidden(),
    };
    return [op, [[dice.int(1, 2), dice.int(1, 2), ...spatial]], c];
  },
  2 * CASES,
);
