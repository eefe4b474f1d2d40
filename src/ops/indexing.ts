/** Operators that read or write elements at positions given by indices. */
import { Tensor } from '../graph/tensor.js';
import type { Expr } from './core/expr.js';
import { type Binary, type NodeView, normalizeAxis, type Rule, range, type Unary } from './core/rule.js';
import { positions, scatterBack, scatterFlat } from './core/scatter.js';

// ---- reading ----

/** y = x[indices] along `axis`  =>  dx[indices] += dy. */
export const Gather: Binary = ([dy], { inputs: [x, indices], attrs }) => [
  () => addAlong(dy, x, indices, normalizeAxis(attrs.int('axis', 0), x)),
  null,
];

/**
 * Sums the slices of dy at `indices` along one axis of a zero tensor of the shape of `x`. ScatterND would take less
 * memory for indices, but ONNX Runtime's adds in parallel, and loses terms where indices repeat.
 */
function addAlong(dy: Expr, x: Expr, indices: Expr, axis: number): Expr {
  const { g, rank } = x;
  const slices = () => dy.reshape(g.ints([...Array(axis).fill(0), -1]).concat([x.dims(axis + 1)], 0));
  const rows = indices.rank === 1 ? dy : slices();
  const column = indices.reshape(range(0, rank).map(i => (i === axis ? -1 : 1)));
  return x.zeros().scatterElements(column.expandLike(rows), rows, axis, 'add');
}

/** y = x[... indices[i, j, k] ...] with the index in place of `axis`  =>  dx += dy at these positions. */
export const GatherElements: Binary = ([dy], { inputs: [x, indices], attrs }) => [
  () => x.zeros().scatterElements(indices, dy, attrs.int('axis', 0), 'add'),
  null,
];

/** y = x[indices[...]], the last axis of the indices is a position in x  =>  dx += dy at these positions. */
export const GatherND: Binary = ([dy], node) => [() => scatterBack(dy, node), null];

type TopKRule = Rule<readonly [Expr, Expr], readonly [Expr?, Expr?]>;

/** y = the k largest (or smallest) elements along `axis`  =>  dx = dy at these elements, 0 elsewhere. */
export const TopK: TopKRule = ([dy], node) => {
  const [x] = node.inputs;
  const axis = normalizeAxis(node.attrs.int('axis', -1), x);
  return [() => x.zeros().scatterElements(indexOutput(node, 1), dy!, axis), null];
};

/** y = the distinct elements (or slices along `axis`)  =>  dx = dy at the first occurrence of each, 0 elsewhere. */
export const Unique: Rule<readonly [Expr], readonly [Expr]> = ([dy], node) => {
  const [x] = node.inputs;
  const first = indexOutput(node, 1, [null]);
  if (node.attrs.has('axis'))
    return [() => addAlong(dy, x, first, normalizeAxis(node.attrs.int('axis', 0), x))];
  return [() => scatterFlat(dy, first, x)];
};

/** An output of the node that contains indices. Its shape is that of the first output if not given. */
function indexOutput(node: NodeView, index: number, shape = node.output().shape): Expr {
  return node.output(index, { kind: 'tensor', dtype: 'int64', shape });
}

// ---- writing ----

/** How an operator that writes at indices reads and writes at them. */
type Places = { read(from: Expr): Expr; write(into: Expr, what: Expr, reduction?: string): Expr };

/**
 * y = data, with the updates u written at some positions, combined by `reduction` unless that is "none":
 * - none: ddata = dy with zeros written there, du = dy there;
 * - add: ddata = dy, du = dy there;
 * - mul: each factor gets dy times the product of the others, see `otherFactors`;
 * - max, min: dy goes to those of data and u that equal y, in equal shares. With "none", all u that are written to the
 *   same position get its cotangent (as in PyTorch).
 */
function scatterRule(dy: Expr, y: Expr, data: Expr, u: Expr, reduction: string, places: Places) {
  const { read, write } = places;
  if (reduction === 'none') return [() => write(dy, u.zeros()), null, () => read(dy)];
  if (reduction === 'add') return [() => dy, null, () => read(dy)];
  if (reduction === 'mul')
    return [
      () => dy.mul(write(data.ones(), u, 'mul')),
      null,
      () => read(dy).mul(otherFactors(data, u, places)),
    ];
  const keeps = () => data.equal(y);
  const wins = () => u.equal(read(y));
  const share = () => dy.div(write(keeps().indicator(dy), wins().indicator(dy), 'add'));
  return [() => keeps().where(share(), 0), null, () => wins().where(read(share()), 0)];
}

/**
 * For each update, the product of all other factors at its position: 0 if one of them is 0, otherwise the product of
 * all nonzero factors, divided by the update unless that is 0.
 */
function otherFactors(data: Expr, u: Expr, { read, write }: Places): Expr {
  const isZero = u.equal(0);
  const nonzero = isZero.where(1, u);
  const zeros = isZero.indicator(u);
  const otherZeros = read(write(data.zeros(), zeros, 'add')).sub(zeros);
  return otherZeros.less(0.5).where(read(write(data, nonzero, 'mul')).div(nonzero), 0);
}

type Scatter = Rule<readonly [Expr, Expr, Expr], readonly [Expr]>;

/** data with u at positions whose index along `axis` is given; see `scatterRule`. */
export const ScatterElements: Scatter = ([dy], node) => {
  const [data, indices, u] = node.inputs;
  const axis = node.attrs.int('axis', 0);
  return scatterRule(dy, node.output(), data, u, node.attrs.string('reduction', 'none'), {
    read: from => from.gatherElements(indices, axis),
    write: (into, what, reduction) => into.scatterElements(indices, what, axis, reduction),
  });
};

/**
 * data with u at positions given by the last axis of the indices; see `scatterRule`. Reductions use flat positions:
 * ONNX Runtime's ScatterND reduces in parallel, and loses terms where indices repeat.
 */
export const ScatterND: Scatter = ([dy], node) => {
  const [data, indices, u] = node.inputs;
  const at = () => positions(data).op('GatherND', [indices]).reshape([-1]);
  const flat = (e: Expr) => e.reshape([-1]);
  return scatterRule(dy, node.output(), data, u, node.attrs.string('reduction', 'none'), {
    read: from => from.op('GatherND', [indices]),
    write: (into, what, reduction) =>
      reduction
        ? flat(into).scatterElements(at(), flat(what), 0, reduction).reshapeLike(into)
        : into.scatterND(indices, what),
  });
};

/**
 * y = the cache with u written from a position along `axis` on, per batch  =>  dcache = dy with zeros there, du = dy
 * there.
 */
export const TensorScatter: Rule<readonly [Expr, Expr, Expr?], readonly [Expr]> = ([dy], node) => {
  const [cache, u, starts] = node.inputs;
  const attrs = Object.fromEntries(node.node.attrs);
  const axis = normalizeAxis(node.attrs.int('axis', -2), cache);
  const along = (e: Expr, at: number) => e.reshape(range(0, cache.rank).map(i => (i === at ? -1 : 1)));
  const read = () => {
    const steps = along(positions(u.dims(axis, axis + 1).op('ConstantOfShape')), axis);
    const at = starts ? steps.add(along(starts, 0)) : steps;
    const isCircular = node.attrs.string('mode', 'linear') === 'circular';
    const places = isCircular ? at.op('Mod', [cache.dims(axis, axis + 1)]) : at;
    return dy.gatherElements(places.expandLike(u), axis);
  };
  return [() => dy.op('TensorScatter', [u.zeros(), starts], attrs), read, null];
};

// ---- making ----

/**
 * y = values[1] at the indices along `axis`, values[0] elsewhere  =>  each value gets the sum of dy at its
 * positions.
 */
export const OneHot: Rule<readonly [Expr, Expr, Expr], readonly [Expr]> = ([dy], node) => {
  const [indices, depth, values] = node.inputs;
  const total = (off: number, on: number) => {
    const bounds = node.g.tensor(Tensor.from('float32', [2], new Float32Array([off, on]))).cast(dy.dtype);
    return dy.mul(indices.op('OneHot', [depth, bounds], { axis: node.attrs.int('axis', -1) })).sum();
  };
  return [
    null,
    null,
    () =>
      total(1, 0)
        .reshape([1])
        .concat([total(0, 1).reshape([1])], 0)
        .reshapeLike(values),
  ];
};

/** y = start + i * delta for i = 0, 1 ...  =>  dstart = sum(dy), ddelta = sum(dy * i); y does not depend on limit. */
export const Range: Rule<readonly [Expr, Expr, Expr], readonly [Expr]> = ([dy], { inputs }) => [
  () => dy.sum().reshapeLike(inputs[0]),
  null,
  () => dy.mul(positions(dy).cast(dy.dtype)).sum().reshapeLike(inputs[2]),
];

// ---- optional values ----

/** An optional value has the cotangent of its contents. */
export const Optional: Unary = ([dy]) => [() => dy];
export const OptionalGetElement: Unary = ([dy]) => [() => dy];
