/** Operators that only move elements. */
import type { Expr } from './core/expr.js';
import { type NodeView, normalizeAxis, type Rule, range, type Unary } from './core/rule.js';
import { scatterBack } from './core/scatter.js';

type WithShape = Rule<readonly [Expr, Expr?], readonly [Expr]>;
type Variadic = Rule<readonly Expr[], readonly [Expr]>;

// ---- shapes and axes ----

/** dx = dy, in the shape of x. */
export const Reshape: WithShape = ([dy], { inputs: [x] }) => [() => dy.reshapeLike(x), null];
export const Flatten: Unary = ([dy], { inputs: [x] }) => [() => dy.reshapeLike(x)];
export const Squeeze: WithShape = Reshape;
export const Unsqueeze: WithShape = Reshape;
export const Identity: Unary = ([dy]) => [() => dy];

/** The gradient applies the inverse permutation. */
export const Transpose: Unary = ([dy], { inputs: [x], attrs }) => {
  const perm = attrs.ints('perm') ?? range(0, x.rank).reverse();
  return [() => dy.transpose(perm.map((_, i) => perm.indexOf(i)))];
};

/** y = x, repeated along axes of extent 1 and new ones  =>  dx = dy, summed over these. */
export const Expand: WithShape = ([dy], { inputs: [x] }) => [() => dy.sumTo(x), null];

/** y = x, `repeats` times along each axis  =>  dx = the sum of the repetitions in dy. */
export const Tile: WithShape = ([dy], { inputs: [x, repeats] }) => {
  const interleaved = () => {
    const [r, d] = [repeats!.constant, x.staticShape];
    if (r && d) return x.g.ints(r.flatMap((n, i) => [n, d[i]!]));
    return repeats!
      .unsqueeze([1])
      .concat([x.dims().unsqueeze([1])], 1)
      .reshape([-1]);
  };
  const repetitions = range(0, x.rank).map(i => 2 * i);
  return [() => dy.reshape(interleaved()).sum(repetitions).reshapeLike(x), null];
};

// ---- parts ----

/** y = the inputs concatenated along `axis`  =>  each gets its part of dy. */
export const Concat: Variadic = ([dy], { g, inputs, attrs }) => {
  const axis = normalizeAxis(attrs.int('axis', 0), dy);
  const split = () => {
    const known = inputs.map(x => x.extent(axis));
    const [first, ...rest] = inputs.map(x => x.dims(axis, axis + 1));
    const sizes = known.every(d => typeof d === 'number') ? g.ints(known) : first!.concat(rest, 0);
    return g.emit('Split', [dy, sizes], { axis }, { outputs: inputs.length, types: inputs.map(x => x.type) });
  };
  // Computed once for all inputs, of which there may be thousands.
  let parts: Expr[] | undefined;
  return inputs.map((_, i) => () => {
    parts ??= split();
    return parts[i]!;
  });
};

/** y0, y1 ... = the parts of x along `axis`  =>  dx = dy0, dy1 ... concatenated. */
export const Split: Rule<readonly [Expr, Expr?], readonly (Expr | undefined)[]> = (dys, node) => {
  const parts = () => dys.map((dy, i) => dy ?? node.output(i).zeros());
  return [
    () => parts()[0]!.concat(parts().slice(1), normalizeAxis(node.attrs.int('axis', 0), node.inputs[0])),
    null,
  ];
};

type Sliced = readonly [x: Expr, starts: Expr, ends: Expr, axes?: Expr, steps?: Expr];

/** y = x[starts : ends : steps] along `axes`  =>  dx = dy at these places, 0 elsewhere. */
export const Slice: Rule<Sliced, readonly [Expr]> = ([dy], node) => {
  const [, starts, ends, axes, steps] = node.inputs;
  const isDense = !steps || steps.constant?.every(s => s === 1);
  const back = () => {
    if (isDense) return padBack(dy, node);
    return isReversal(node) ? dy.op('Slice', [starts, ends, axes, steps]) : scatterBack(dy, node);
  };
  return [back, null, null, null, null];
};

/** Whether the slice reverses whole axes, so that it is its own inverse. */
function isReversal({ inputs: [, starts, ends, , steps] }: NodeView<Sliced>): boolean {
  const all = (e: Expr | undefined, test: (n: number) => boolean) => !!e?.constant?.every(test);
  return all(steps, s => s === -1) && all(starts, s => s === -1) && all(ends, e => e < -(2 ** 31));
}

/** Pads dy with zeros for the elements before and after a slice with steps of 1. */
function padBack(dy: Expr, { g, inputs: [x, starts, , axes] }: NodeView<Sliced>): Expr {
  const count = starts.extent(0);
  const at = axes ?? (typeof count === 'number' ? g.ints(range(0, count)) : starts.dims().iota());
  const [from, extents, kept] = [
    starts.constant,
    at.constant?.map(a => x.extent(a)),
    at.constant?.map(a => dy.extent(a)),
  ];
  if (from && isKnown(extents) && isKnown(kept)) {
    const before = from.map((s, i) => Math.min(Math.max(s < 0 ? s + extents[i]! : s, 0), extents[i]!));
    const after = extents.map((d, i) => d - before[i]! - kept[i]!);
    return dy.pad(g.ints([...before, ...after]), at);
  }
  const d = x.dims().gather(at);
  const s = starts.cast('int64');
  const before = s.less(0).where(s.add(d), s).maximum(0).minimum(d);
  const after = d.sub(before).sub(dy.dims().gather(at));
  return dy.pad(before.concat([after], 0), at);
}

function isKnown(dims: readonly unknown[] | undefined): dims is number[] {
  return !!dims?.every(d => typeof d === 'number');
}

/**
 * y = x with elements added (or, for negative `pads`, removed) at the ends of `axes`  =>  dx = dy without these;
 * those that repeat elements of x (modes other than "constant") are added there. dconstant_value = the sum of
 * dy over the elements that were added.
 */
export const Pad: Rule<readonly [Expr, Expr, Expr?, Expr?], readonly [Expr]> = ([dy], node) => {
  const [x, pads, value, axes] = node.inputs;
  const opposite = () => (pads.constant ? node.g.ints(pads.constant.map(p => (p ? -p : 0))) : pads.neg());
  const isConstant = node.attrs.string('mode', 'constant') === 'constant';
  const added = () => x.zeros().pad(pads, axes, 1);
  return [
    () => (isConstant ? dy.pad(opposite(), axes) : scatterBack(dy, node, [pads, undefined, axes])),
    null,
    value && isConstant ? () => dy.mul(added()).sum().reshapeLike(value) : null,
    null,
  ];
};

/** y = x, cropped or padded at both ends of `axes` to the given extents  =>  dx = dy, the same way back. */
export const CenterCropPad: WithShape = ([dy], { g, inputs: [x], attrs }) => {
  const axes = attrs.ints('axes');
  const extents = () => (axes ? x.dims().gather(g.ints(axes)) : x.dims());
  return [() => dy.op('CenterCropPad', [extents()], { axes }), null];
};

/** y = x above (or below) a diagonal of each matrix, 0 elsewhere  =>  dx = dy there. */
export const Trilu: WithShape = ([dy], { inputs: [, k], attrs }) => [
  () => dy.op('Trilu', [k], { upper: attrs.int('upper', 1) }),
  null,
];

/** y = the elements of x (or its slices along `axis`) where the condition holds  =>  dx = dy there, 0 elsewhere. */
export const Compress: Rule<readonly [Expr, Expr], readonly [Expr]> = ([dy], node) => [
  () => scatterBack(dy, node),
  null,
];

// ---- permutations ----

/** y = blocks of channels of x as pixels. The block is the slower axis of the channels in mode "DCR". */
export const DepthToSpace: Unary = ([dy], { inputs: [x], attrs }) => {
  const blocksize = attrs.int('blocksize', 1);
  const blocksLast = () => {
    const channels = dy.op('SpaceToDepth', [], { blocksize });
    const [lead, size] = [dy.g.ints([0, blocksize ** 2, -1]), channels.dims(2)];
    return channels
      .reshape(lead.concat([size], 0))
      .transpose([0, 2, 1, 3, 4])
      .reshapeLike(x);
  };
  return [
    () => (attrs.string('mode', 'DCR') === 'CRD' ? blocksLast() : dy.op('SpaceToDepth', [], { blocksize })),
  ];
};

/** y = blocks of pixels of x as channels  =>  dx = these channels of dy as pixels. */
export const SpaceToDepth: Unary = ([dy], { attrs }) => [
  () =>
    dy.op('DepthToSpace', [], { blocksize: attrs.int('blocksize', 1), mode: attrs.string('mode', 'DCR') }),
];

/** y = x with the first elements of each sequence reversed  =>  dx = dy, reversed again. */
export const ReverseSequence: Rule<readonly [Expr, Expr], readonly [Expr]> = ([dy], { node, inputs }) => [
  () => dy.op('ReverseSequence', [inputs[1]], Object.fromEntries(node.attrs)),
  null,
];
