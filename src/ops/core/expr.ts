import { type DType, dtypeCode, isHalf, wideOf } from '../../graph/dtype.js';
import { AgdError } from '../../graph/errors.js';
import type { Dim, Graph, Shape, Value, ValueType } from '../../graph/ir.js';
import { dependencies } from '../../graph/prune.js';
import type { AttrInit, Builder, EmitOptions } from './builder.js';

/** An operand: an expression, or a number, which takes the other operand's element type. */
export type Operand = Expr | number;
type Keep = { keepdims?: boolean };

/**
 * A value of a graph under construction, whose methods add nodes. Elementwise methods broadcast as in ONNX. Reductions
 * keep the reduced axes only with `keepdims`; `axes` undefined means all axes.
 */
export class Expr {
  constructor(
    readonly value: Value,
    readonly g: Builder,
  ) {}

  get type(): ValueType | undefined {
    return this.value.type;
  }
  /** Element type; an expression without one cannot take part in arithmetic. */
  get dtype(): DType {
    const dtype = this.value.dtype;
    if (!dtype) throw new Error(`Value '${this.value.name}' has no element type.`);
    return dtype;
  }
  get shape(): Shape | undefined {
    return this.value.shape;
  }
  /** Number of axes. Throws `no-gradient` if it is only known at run time. */
  get rank(): number {
    const shape = this.shape;
    if (shape) return shape.length;
    throw unknownRank(this.g.graph, this.value);
  }
  /** The shape, if every extent is a known number. */
  get staticShape(): number[] | undefined {
    const shape = this.shape;
    return shape?.every(d => typeof d === 'number') ? ([...shape] as number[]) : undefined;
  }
  /** The contents as numbers, if they are known before the run: axes, shapes, pads ... */
  get constant(): number[] | undefined {
    return this.g.constant(this.value)?.numbers();
  }
  /** Extent of an axis; negative axes count from the end. */
  extent(axis: number): Dim {
    return this.shape?.at(axis) ?? null;
  }

  /** The same value with a type that is known better than inference can tell. */
  typed(type: ValueType | undefined): Expr {
    if (type) this.value.type = type;
    return this;
  }

  /** Any operator with this expression as its first input. */
  op(
    opType: string,
    others: readonly (Operand | undefined)[] = [],
    attrs: AttrInit = {},
    options: EmitOptions = {},
  ): Expr {
    // As a rule: a list that grows by one element has room for 16 more.
    const inputs =
      others.length === 1
        ? [this, this.#operand(others[0])]
        : [this, ...others.map(other => this.#operand(other))];
    return this.g.emit(opType, inputs, attrs, options)[0]!;
  }

  add(b: Operand): Expr {
    return this.op('Add', [b]);
  }
  sub(b: Operand): Expr {
    return this.op('Sub', [b]);
  }
  mul(b: Operand): Expr {
    return this.op('Mul', [b]);
  }
  div(b: Operand): Expr {
    return this.op('Div', [b]);
  }
  pow(b: Operand): Expr {
    return this.op('Pow', [b]);
  }
  /** b - this. */
  rsub(b: Operand): Expr {
    return this.#operand(b)!.sub(this);
  }
  /** b / this. */
  rdiv(b: Operand): Expr {
    return this.#operand(b)!.div(this);
  }
  neg(): Expr {
    return this.op('Neg');
  }
  abs(): Expr {
    return this.op('Abs');
  }
  sign(): Expr {
    return this.op('Sign');
  }
  exp(): Expr {
    return this.op('Exp');
  }
  log(): Expr {
    return this.op('Log');
  }
  sqrt(): Expr {
    return this.op('Sqrt');
  }
  square(): Expr {
    return this.mul(this);
  }
  reciprocal(): Expr {
    return this.op('Reciprocal');
  }
  tanh(): Expr {
    return this.op('Tanh');
  }
  sigmoid(): Expr {
    return this.op('Sigmoid');
  }
  relu(): Expr {
    return this.op('Relu');
  }
  erf(): Expr {
    return this.op('Erf');
  }
  sin(): Expr {
    return this.op('Sin');
  }
  cos(): Expr {
    return this.op('Cos');
  }
  floor(): Expr {
    return this.op('Floor');
  }
  ceil(): Expr {
    return this.op('Ceil');
  }
  maximum(b: Operand): Expr {
    return this.op('Max', [b]);
  }
  minimum(b: Operand): Expr {
    return this.op('Min', [b]);
  }

  equal(b: Operand): Expr {
    return this.op('Equal', [b]);
  }
  greater(b: Operand): Expr {
    return this.op('Greater', [b]);
  }
  greaterOrEqual(b: Operand): Expr {
    return this.op('GreaterOrEqual', [b]);
  }
  less(b: Operand): Expr {
    return this.op('Less', [b]);
  }
  lessOrEqual(b: Operand): Expr {
    return this.op('LessOrEqual', [b]);
  }
  not(): Expr {
    return this.op('Not');
  }
  and(b: Expr): Expr {
    return this.op('And', [b]);
  }
  or(b: Expr): Expr {
    return this.op('Or', [b]);
  }
  /** Elementwise selection with this boolean as the condition. At least one branch must be an expression. */
  where(yes: Operand, no: Operand): Expr {
    const like = (typeof yes === 'number' ? no : yes) as Expr;
    const [a, b] = [yes, no].map(e => (typeof e === 'number' ? this.g.scalar(e, like.dtype) : e));
    return this.g.emit('Where', [this, a, b])[0]!;
  }
  /** 1 where the boolean holds and 0 elsewhere, in the element type of `like`. */
  indicator(like: Expr): Expr {
    return this.cast(like.dtype);
  }
  /** This where the boolean holds and 0 elsewhere, for finite numbers: a product, at half the cost of a selection. */
  masked(holds: Expr): Expr {
    return this.mul(holds.indicator(this));
  }
  cast(dtype: DType): Expr {
    return dtype === this.dtype ? this : this.op('Cast', [], { to: dtypeCode(dtype) });
  }
  /** 16-bit floats as float32; other types unchanged. */
  wide(): Expr {
    return this.cast(wideOf(this.dtype));
  }

  matmul(b: Expr): Expr {
    return this.op('MatMul', [b]);
  }
  /** Reverses the axes, or permutes them by `perm`. What another Transpose has moved is not moved back, but read before it. */
  transpose(perm?: readonly number[]): Expr {
    if (perm?.every((p, i) => p === i)) return this;
    const node = this.value.producer;
    const moved = node?.opType === 'Transpose' && node.domain === '' ? node.attrs.get('perm') : undefined;
    if (perm && moved?.type === 'ints' && perm.every((p, i) => moved.value[p] === i))
      return this.g.of(node!.inputs[0]!);
    return this.op('Transpose', [], { perm });
  }
  /** Swaps the last two axes: the transpose of each matrix. */
  get mT(): Expr {
    const perm = Array.from({ length: this.rank }, (_, i) => i);
    [perm[this.rank - 2], perm[this.rank - 1]] = [this.rank - 1, this.rank - 2];
    return this.transpose(perm);
  }

  sum(axes?: readonly number[] | Expr, { keepdims = false }: Keep = {}): Expr {
    return this.#reduce('ReduceSum', axes, keepdims);
  }
  mean(axes?: readonly number[] | Expr, { keepdims = false }: Keep = {}): Expr {
    return this.#reduce('ReduceMean', axes, keepdims);
  }
  max(axes?: readonly number[] | Expr, { keepdims = false }: Keep = {}): Expr {
    return this.#reduce('ReduceMax', axes, keepdims);
  }
  min(axes?: readonly number[] | Expr, { keepdims = false }: Keep = {}): Expr {
    return this.#reduce('ReduceMin', axes, keepdims);
  }
  prod(axes?: readonly number[] | Expr, { keepdims = false }: Keep = {}): Expr {
    return this.#reduce('ReduceProd', axes, keepdims);
  }

  /** The extents, as a constant if they are known. `from` and `to` select a range of axes. */
  dims(from = 0, to?: number): Expr {
    const known = this.shape?.slice(from, to);
    if (known?.every(d => typeof d === 'number')) return this.g.ints(known as number[]);
    return this.op('Shape', [], from === 0 && to === undefined ? {} : { start: from, end: to });
  }
  /** Number of elements along `axes` (all if not given), as a scalar of element type `dtype`. */
  count(dtype: DType, axes?: readonly number[]): Expr {
    const over = axes ?? Array.from({ length: this.rank }, (_, i) => i);
    const known = over.map(a => this.extent(a));
    if (known.every(d => typeof d === 'number'))
      return this.g.scalar(
        (known as number[]).reduce((n, d) => n * d, 1),
        dtype,
      );
    if (this.g.provider === 'cuda' && dtype !== 'int64') return this.#countOnDevice(dtype, over);
    return this.dims().gather(this.g.ints(over)).prod([0]).cast(dtype);
  }
  /**
   * The same, as a sum of ones: what is computed from a Shape is on the CPU, and a number that the device reads of it
   * would have to be copied at each step, while an Expand takes its extents from there.
   */
  #countOnDevice(dtype: DType, over: readonly number[]): Expr {
    const known = over.map(a => this.extent(a)).filter(d => typeof d === 'number');
    const open = over.filter(a => typeof this.extent(a) !== 'number');
    const factors = open.map(a =>
      this.g
        .scalar(1, 'float32')
        .expand(this.dims(a, a + 1))
        .sum(),
    );
    const size = known.reduce((n, d) => n * d, 1);
    const [first, ...rest] = factors;
    const count = rest.reduce((n, factor) => n.mul(factor), first!);
    return (size === 1 ? count : count.mul(size)).cast(dtype);
  }
  reshape(shape: readonly number[] | Expr): Expr {
    if (shape instanceof Expr) return this.op('Reshape', [shape]);
    const here = this.staticShape;
    if (here?.length === shape.length && here.every((d, i) => d === shape[i])) return this;
    const isFlat = shape.length === 1 && shape[0] === -1 && here;
    // What inference would find from the constant, which is read for that.
    const dims = isFlat
      ? [here.reduce((n, d) => n * d, 1)]
      : shape.every(d => d > 0)
        ? [...shape]
        : undefined;
    const { dtype } = this.value;
    const known = dims && dtype ? { types: [{ kind: 'tensor', dtype, shape: dims } as const] } : {};
    return this.op('Reshape', [this.g.ints(shape)], {}, known);
  }
  /** Reshapes to the extents of `x`, which must have the same number of elements. */
  reshapeLike(x: Expr): Expr {
    if (sameShape(this.shape, x.shape)) return this;
    const mayBeEmpty = !x.staticShape?.every(d => d > 0);
    return this.op('Reshape', [x.dims()], mayBeEmpty ? { allowzero: 1 } : {}, {
      types: [{ kind: 'tensor', dtype: this.dtype, shape: x.shape }],
    });
  }
  expand(shape: readonly number[] | Expr): Expr {
    return this.op('Expand', [shape instanceof Expr ? shape : this.g.ints(shape)]);
  }
  /** Broadcasts to the extents of `x`. */
  expandLike(x: Expr): Expr {
    if (sameShape(this.shape, x.shape)) return this;
    return this.op(
      'Expand',
      [x.dims()],
      {},
      { types: [{ kind: 'tensor', dtype: this.dtype, shape: x.shape }] },
    );
  }
  unsqueeze(axes: readonly number[] | Expr): Expr {
    if (!(axes instanceof Expr) && axes.length === 0) return this;
    return this.op('Unsqueeze', [axes instanceof Expr ? axes : this.g.ints(axes)]);
  }
  squeeze(axes: readonly number[]): Expr {
    return axes.length ? this.op('Squeeze', [this.g.ints(axes)]) : this;
  }
  slice(
    starts: readonly number[] | Expr,
    ends: readonly number[] | Expr,
    axes: readonly number[],
    steps?: readonly number[],
  ): Expr {
    const ints = (e: readonly number[] | Expr) => (e instanceof Expr ? e : this.g.ints(e));
    return this.op('Slice', [ints(starts), ints(ends), this.g.ints(axes), steps && this.g.ints(steps)]);
  }
  gather(indices: Expr, axis = 0): Expr {
    return this.op('Gather', [indices], { axis });
  }
  gatherElements(indices: Expr, axis = 0): Expr {
    return this.op('GatherElements', [indices], { axis });
  }
  scatterElements(indices: Expr, updates: Expr, axis = 0, reduction = 'none'): Expr {
    return this.#scatter('ScatterElements', indices, updates, { axis, reduction });
  }
  scatterND(indices: Expr, updates: Expr, reduction = 'none'): Expr {
    return this.#scatter('ScatterND', indices, updates, { reduction });
  }
  /** 16-bit numbers are summed in float32: the runtime has no 16-bit kernel, and small terms would be lost. */
  #scatter(op: string, indices: Expr, updates: Expr, attrs: { axis?: number; reduction: string }): Expr {
    if (attrs.reduction === 'none' || !isHalf(this.dtype)) return this.op(op, [indices, updates], attrs);
    return this.wide().op(op, [indices, updates.wide()], attrs).cast(this.dtype);
  }
  /**
   * Pads with `fill` (zeros if not given): `pads` are the numbers of elements before, along each of `axes`, then those
   * after. The node lists all axes: when the runtime moves a transpose through a Pad with some axes, it treats these as
   * all of them.
   */
  pad(pads: Expr, axes?: Expr, fill?: Operand): Expr {
    if (!axes) return this.op('Pad', [pads, fill]);
    const { g, rank } = this;
    const zeros = Array<number>(2 * rank).fill(0);
    const [own, known] = [pads.constant, axes.constant?.map(a => (a + rank) % rank)];
    if (own && known) {
      const places = [...known, ...known.map(a => a + rank)];
      return this.op('Pad', [g.ints(zeros.map((_, i) => own[places.indexOf(i)] ?? 0)), fill]);
    }
    const at = axes.op('Mod', [rank]).cast('int64');
    return this.op('Pad', [g.ints(zeros).scatterElements(at.concat([at.add(rank)], 0), pads), fill]);
  }
  concat(others: readonly Expr[], axis: number): Expr {
    return others.length ? this.op('Concat', others, { axis }) : this;
  }

  /** The integers from 0 up to, but not including, this one: an int64 scalar or a vector with one element. */
  iota(): Expr {
    const end = this.rank ? this.squeeze([0]) : this;
    return this.g.scalar(0, 'int64').op('Range', [end, 1]);
  }

  /** Zeros (or `value`) with this expression's extents and element type. */
  full(value: number, dtype = this.dtype): Expr {
    const shape = this.staticShape;
    const one = this.g.scalar(value, dtype);
    if (shape?.length === 0) return one;
    return one.op('Expand', [this.dims()], {}, { types: [{ kind: 'tensor', dtype, shape: this.shape }] });
  }
  zeros(): Expr {
    return this.full(0);
  }
  ones(): Expr {
    return this.full(1);
  }

  /**
   * Undoes broadcasting: sums over the axes along which `x` was repeated to give this expression's shape, and returns a
   * tensor of the shape of `x`. If extents are not known, the axes are determined at run time: those where the shape of
   * `x`, left-padded with ones, is 1.
   */
  sumTo(x: Expr): Expr {
    if (sameShape(this.shape, x.shape)) return this;
    const axes = broadcastAxes(this.shape, x.shape);
    if (axes?.length === 0) return this;
    if (axes?.every((a, i) => a === i) && axes.length === this.rank - x.rank) return this.sum(axes);
    if (axes) return this.sum(axes, { keepdims: true }).reshapeLike(x);
    const ones = this.#padded(x).equal(1).op('NonZero').reshape([-1]);
    return this.#reduce('ReduceSum', ones, true).reshapeLike(x);
  }

  /** The extents of `x`, with leading ones for the axes that only this expression has. */
  #padded(x: Expr): Expr {
    if (this.shape?.length === x.shape?.length && x.shape) return x.dims();
    if (this.shape && x.shape) return this.g.ints(Array(this.rank - x.rank).fill(1)).concat([x.dims()], 0);
    const rank = (e: Expr) => e.dims().op('Shape');
    const lead = rank(this).sub(rank(x));
    return this.g.scalar(1, 'int64').expand(lead).concat([x.dims()], 0);
  }

  #reduce(opType: string, axes: readonly number[] | Expr | undefined, keepdims: boolean): Expr {
    if (axes && !(axes instanceof Expr) && axes.length === 0) return this;
    const dynamic = axes instanceof Expr;
    return this.op(opType, [dynamic || !axes ? axes : this.g.ints(axes)], {
      keepdims: keepdims ? 1 : 0,
      noop_with_empty_axes: dynamic ? 1 : undefined,
    });
  }

  #operand(o: Operand | undefined): Expr | undefined {
    return typeof o === 'number' ? this.g.scalar(o, this.dtype) : o;
  }
}

/** Whether two shapes are known to be equal; unknown extents are not. */
export function sameShape(a: Shape | undefined, b: Shape | undefined): boolean {
  return !!a && !!b && a.length === b.length && a.every((d, i) => d !== null && d === b[i]);
}

/** The axes along which `from` was repeated to give `shape`; undefined if the extents do not determine them. */
function broadcastAxes(shape: Shape | undefined, from: Shape | undefined): number[] | undefined {
  if (!shape || !from) return undefined;
  const lead = shape.length - from.length;
  const open = from.some((d, i) => typeof d !== 'number' && (d === null || d !== shape[lead + i]));
  if (open) return undefined;
  return shape.flatMap((d, i) => (i < lead || (from[i - lead] === 1 && d !== 1) ? [i] : []));
}

/** Names the input of unknown rank that a value's rank depends on, or else the first value of unknown rank. */
function unknownRank(graph: Graph, value: Value): AgdError {
  const needed = dependencies(graph, [value]);
  const isOpen = (v: Value | null) => v !== null && needed.has(v) && !v.shape;
  const input = graph.inputs.find(v => isOpen(v) && v.type?.kind === 'tensor');
  const first = graph.nodes.flatMap(node => node.outputs).find(isOpen) ?? value;
  const what = input
    ? `Input '${input.name}' has no shape in the file, and the gradient depends on its number of axes`
    : `No gradient through '${first.name}': its number of axes is not known before the model runs`;
  return new AgdError(
    'no-gradient',
    `${what}. \`train\` and \`grad\` take it from the data; for \`inject\`, export the model with ${input ? "the input's shape" : 'its shape in value_info'}.`,
  );
}
