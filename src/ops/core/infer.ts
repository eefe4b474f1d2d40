import { type DType, dtypeOf } from '../../graph/dtype.js';
import type { Dim, Node, Shape, Value, ValueType } from '../../graph/ir.js';
import { record } from '../../graph/record.js';
import type { Expr } from './expr.js';
import { join } from './types.js';

/**
 * Types of the outputs of nodes that rules emit. A model's own values are typed by the runtime; this types the nodes
 * added after that, so that later rules can choose a cheap form. Unknown shapes stay undefined, which is never wrong,
 * only slower.
 */
type Infer = (inputs: readonly (Expr | undefined)[], attr: Attrs, node: Node) => (Shape | undefined)[];

const same: Infer = ([x]) => [x?.shape];
const broadcast: Infer = inputs => [broadcastShapes(inputs.map(e => e?.shape))];
const reduce: Infer = ([x, axes], attr) => {
  const keep = attr.int('keepdims', 1) === 1;
  if (!x?.shape) return [undefined];
  if (!axes) return [keep ? x.shape.map(() => 1) : []];
  const known = axes.constant?.map(a => (a < 0 ? a + x.rank : a));
  if (!known) return [keep ? x.shape.map(() => null) : undefined];
  return [
    keep ? x.shape.map((d, i) => (known.includes(i) ? 1 : d)) : x.shape.filter((_, i) => !known.includes(i)),
  ];
};
/** The rank at least, and the leading extents given by `kept`. */
const sameRank =
  (kept = 0): Infer =>
  ([x]) => [x?.shape?.map((d, i) => (i < kept ? d : null))];
const shapeInput =
  (at: number): Infer =>
  inputs => [dimsOf(inputs[at])];

const SHAPES = record<Infer>({
  ...Object.fromEntries(
    (
      'Neg Abs Sign Exp Log Sqrt Reciprocal Tanh Sigmoid Relu Erf Sin Cos Tan Asin Acos Atan Sinh Cosh Asinh Acosh Atanh ' +
      'Floor Ceil Round Not Cast CastLike Identity Softmax LogSoftmax CumSum CumProd Trilu Clip Softplus Softsign Elu Selu Celu LeakyRelu ' +
      'HardSigmoid HardSwish ThresholdedRelu Gelu Mish IsNaN IsInf ScatterElements ScatterND ReverseSequence Dropout ' +
      'LayerNormalization BatchNormalization InstanceNormalization GroupNormalization RMSNormalization LpNormalization LRN Shrink ' +
      'RandomNormalLike RandomUniformLike Bernoulli EyeLike ' +
      // From ai.onnx.ml, for which the runtime has no inference.
      'Binarizer CategoryMapper Imputer LabelEncoder Normalizer Scaler'
    )
      .split(' ')
      .map(op => [op, same]),
  ),
  ...Object.fromEntries(
    (
      'Add Sub Mul Div Pow Mod Max Min Sum Mean Equal Greater GreaterOrEqual Less LessOrEqual And Or Xor Where PRelu ' +
      'BitwiseAnd BitwiseOr BitwiseXor BitShift'
    )
      .split(' ')
      .map(op => [op, broadcast]),
  ),
  ...Object.fromEntries(
    'Sum Mean Max Min Prod L1 L2 LogSum LogSumExp SumSquare'.split(' ').map(op => [`Reduce${op}`, reduce]),
  ),
  DFT: sameRank(),
  Resize: sameRank(),
  AveragePool: sameRank(2),
  MaxPool: sameRank(2),
  ConvTranspose: sameRank(1),
  Conv: ([x, w]) => [x?.shape?.map((d, i) => (i === 0 ? d : i === 1 ? (w?.extent(0) ?? null) : null))],
  MatMul: ([a, b]) => [matmulShape(a?.shape, b?.shape)],
  Gemm: ([a, b], attr) => {
    if (!a?.shape || !b?.shape) return [undefined];
    return [[a.shape[attr.int('transA', 0) ? 1 : 0]!, b.shape[attr.int('transB', 0) ? 0 : 1]!]];
  },
  Transpose: ([x], attr) => {
    const perm = attr.ints('perm');
    return [x?.shape && (perm ? perm.map(p => x.shape![p]!) : [...x.shape].reverse())];
  },
  Reshape: ([x, shape], attr) => [reshaped(x?.shape, dimsOf(shape), attr.int('allowzero', 0) === 1)],
  Expand: ([x, shape]) => [broadcastShapes([x?.shape, dimsOf(shape)])],
  ConstantOfShape: shapeInput(0),
  Shape: ([x], attr) => {
    const dims = shapePart(x?.shape, attr);
    return [[dims ? dims.length : null]];
  },
  Size: () => [[]],
  SequenceLength: () => [[]],
  NonZero: ([x]) => [[x?.shape ? x.shape.length : null, null]],
  Range: ([start, end, step]) => {
    const isCount = start?.constant?.[0] === 0 && step?.constant?.[0] === 1;
    return [[(isCount && dimsOf(end)?.[0]) || null]];
  },
  Unsqueeze: ([x, axes]) => {
    const known = axes?.constant;
    if (!x?.shape || !known) return [undefined];
    const rank = x.rank + known.length;
    const at = known.map(a => (a < 0 ? a + rank : a));
    const rest = [...x.shape];
    return [Array.from({ length: rank }, (_, i) => (at.includes(i) ? 1 : rest.shift()!))];
  },
  Squeeze: ([x, axes]) => {
    const known = axes?.constant?.map(a => (a < 0 ? a + (x?.shape?.length ?? 0) : a));
    return [known && x?.shape ? x.shape.filter((_, i) => !known.includes(i)) : undefined];
  },
  Concat: (inputs, attr) => {
    const shapes = inputs.map(e => e?.shape);
    if (!shapes.every(s => s)) return [undefined];
    const rank = shapes[0]!.length;
    const axis = (attr.int('axis', 0) + rank) % rank;
    const total = shapes.reduce<Dim>((n, s) => sumOfDims(n, s![axis]!), 0);
    return [shapes[0]!.map((d, i) => (i === axis ? total : d))];
  },
  Gather: ([x, indices], attr) => {
    if (!x?.shape || !indices?.shape) return [undefined];
    const axis = (attr.int('axis', 0) + x.rank) % x.rank;
    return [[...x.shape.slice(0, axis), ...indices.shape, ...x.shape.slice(axis + 1)]];
  },
  OneHot: ([indices, depth], attr) => {
    if (!indices?.shape) return [undefined];
    const axis = attr.int('axis', -1);
    const at = axis < 0 ? axis + indices.rank + 1 : axis;
    return [[...indices.shape.slice(0, at), depth?.constant?.[0] ?? null, ...indices.shape.slice(at)]];
  },
  GatherElements: ([, indices]) => [indices?.shape],
  GatherND: ([x, indices], attr) => {
    const last = indices?.extent(-1);
    if (!x?.shape || !indices?.shape || typeof last !== 'number') return [undefined];
    return [[...indices.shape.slice(0, -1), ...x.shape.slice(attr.int('batch_dims', 0) + last)]];
  },
  Slice: ([x, starts, ends, axes, steps]) => {
    if (!x?.shape) return [undefined];
    const [s, e] = [starts?.constant, ends?.constant];
    const at = axes ? axes.constant?.map(a => (a < 0 ? a + x.rank : a)) : s?.map((_, i) => i);
    const by = steps ? steps.constant : s?.map(() => 1);
    if (!at) return [x.shape.map(() => null)];
    return [
      x.shape.map((d, i) =>
        at.includes(i) ? sliced(d, s?.[at.indexOf(i)], e?.[at.indexOf(i)], by?.[at.indexOf(i)]) : d,
      ),
    ];
  },
  Pad: ([x, pads, , axes]) => {
    const known = pads?.constant;
    if (!x?.shape) return [undefined];
    const at = axes ? axes.constant?.map(a => (a < 0 ? a + x.rank : a)) : x.shape.map((_, i) => i);
    if (!known || !at) return [x.shape.map(() => null)];
    return [
      x.shape.map((d, i) => {
        const k = at.indexOf(i);
        const extra = k < 0 ? 0 : known[k]! + known[k + at.length]!;
        return extra === 0 ? d : typeof d === 'number' ? d + extra : null;
      }),
    ];
  },
  Split: ([x, sizes], attr, node) => {
    if (!x?.shape) return [undefined];
    const axis = (attr.int('axis', 0) + x.rank) % x.rank;
    const extent = x.shape[axis];
    const each = typeof extent === 'number' ? extent / node.outputs.length : Number.NaN;
    const size = (k: number) => (sizes ? sizes.constant?.[k] : Number.isInteger(each) ? each : null) ?? null;
    return node.outputs.map((_, k) => x.shape!.map((d, i) => (i === axis ? size(k) : d)));
  },
  Tile: ([x, repeats]) => {
    const known = repeats?.constant;
    return [
      x?.shape?.map((d, i) => (known?.[i] === 1 ? d : known && typeof d === 'number' ? d * known[i]! : null)),
    ];
  },
});

/** The same for operators with sequences or optional values as inputs or outputs. */
const CONTAINERS = record<(types: (ValueType | undefined)[], attr: Attrs) => ValueType | undefined>({
  SequenceEmpty: (_, attr) => ({
    kind: 'sequence',
    elem: { kind: 'tensor', dtype: dtypeOf(attr.int('dtype', 1)) },
    empty: true,
  }),
  SequenceConstruct: types => sequenceOf(types.reduce(join)),
  SequenceInsert: ([sequence, tensor]) => join(sequence, sequenceOf(tensor)),
  SequenceErase: ([sequence]) => sequence,
  SequenceAt: ([sequence]) => contents(sequence),
  SplitToSequence: ([x, split], attr) =>
    sequenceOf(along(x, attr.int('axis', 0), attr.int('keepdims', 1) || split ? [null] : [])),
  ConcatFromSequence: ([sequence], attr) => {
    const [elem, axis] = [contents(sequence), attr.int('axis', 0)];
    return attr.int('new_axis', 0) ? along(elem, axis, [null], 0) : along(elem, axis, [null]);
  },
  Optional: ([x]) => x && { kind: 'optional', elem: x },
  OptionalGetElement: ([x]) => (x?.kind === 'optional' ? x.elem : x),
});

const sequenceOf = (elem: ValueType | undefined): ValueType | undefined => elem && { kind: 'sequence', elem };
const contents = (type: ValueType | undefined) => (type?.kind === 'sequence' ? type.elem : undefined);

/** A tensor's type with `dims` in place of `count` axes. */
function along(type: ValueType | undefined, axis: number, dims: Shape, count = 1): ValueType | undefined {
  if (type?.kind !== 'tensor' || !type.shape) return type;
  const rank = type.shape.length;
  const at = axis < 0 ? axis + rank + 1 - count : axis;
  return { ...type, shape: [...type.shape.slice(0, at), ...dims, ...type.shape.slice(at + count)] };
}

const BOOLEAN = new Set(
  'Equal Greater GreaterOrEqual Less LessOrEqual And Or Xor Not IsNaN IsInf'.split(' '),
);
const INT64 = new Set('Shape Size NonZero ArgMax ArgMin SequenceLength'.split(' '));

class Attrs {
  constructor(private readonly node: Node) {}

  int(name: string, otherwise: number): number {
    const a = this.node.attrs.get(name);
    return a?.type === 'int' ? Number(a.value) : otherwise;
  }

  ints(name: string): number[] | undefined {
    const a = this.node.attrs.get(name);
    return a?.type === 'ints' ? a.value.map(Number) : undefined;
  }
}

/** The types of a new node's outputs, as far as they follow from its inputs. */
export function inferTypes(node: Node, inputs: readonly (Expr | undefined)[]): (ValueType | undefined)[] {
  const attr = new Attrs(node);
  const container = CONTAINERS[node.opType];
  if (container || node.opType === 'Identity') {
    const types = inputs.map(e => e?.type);
    return container ? [container(types, attr)] : types;
  }
  const dtype = resultDType(node, inputs, attr);
  const shapes = SHAPES[node.opType]?.(inputs, attr, node) ?? [undefined];
  return dtype ? shapes.map(shape => typeLike(inputs, dtype, shape)) : [];
}

/** The type of an input, where that is the same: most outputs have the type of an input, and types never change. */
function typeLike(inputs: readonly (Expr | undefined)[], dtype: DType, shape: Shape | undefined): ValueType {
  for (let i = 0; i < inputs.length; i++) {
    const type = inputs[i]?.value.type;
    if (type?.kind === 'tensor' && type.shape === shape && type.dtype === dtype) return type;
  }
  return { kind: 'tensor', dtype, shape };
}

function resultDType(node: Node, inputs: readonly (Expr | undefined)[], attr: Attrs): DType | undefined {
  if (BOOLEAN.has(node.opType)) return 'bool';
  if (INT64.has(node.opType)) return 'int64';
  if (node.opType === 'Cast') return dtypeOf(attr.int('to', 1));
  if (node.opType === 'ConstantOfShape') {
    const value = node.attrs.get('value');
    return value?.type === 'tensor' ? value.value.dtype : 'float32';
  }
  if (node.attrs.has('dtype')) return dtypeOf(attr.int('dtype', 1));
  return inputs[node.opType === 'Where' || node.opType === 'CastLike' ? 1 : node.opType === 'OneHot' ? 2 : 0]
    ?.value.dtype;
}

/** What is known of the numbers in vectors and scalars that are made of the results of Shape nodes. */
const EXTENTS = new WeakMap<Value, Shape>();

/** The extents in an int64 vector or scalar: known numbers, or those of values whose Shape it is made of. */
function dimsOf(shape: Expr | undefined): Shape | undefined {
  if (!shape) return undefined;
  const known = shape.constant ?? EXTENTS.get(shape.value);
  if (known) return known;
  const length = shape.shape?.length === 0 ? 1 : shape.extent(0);
  return typeof length === 'number' ? Array(length).fill(null) : undefined;
}

/** Remembers the extents that a new node puts together. */
export function learnExtents(node: Node, inputs: readonly (Expr | undefined)[]): void {
  const extents = node.domain ? undefined : extentsOf(node, inputs);
  if (extents) EXTENTS.set(node.outputs[0]!, extents);
}

const JOINING = new Set(['Shape', 'Concat', 'Squeeze', 'Unsqueeze', 'Add']);

function extentsOf(node: Node, inputs: readonly (Expr | undefined)[]): Shape | undefined {
  const { opType } = node;
  if (!JOINING.has(opType)) return undefined;
  const [a, b] = inputs;
  if (opType === 'Shape') return shapePart(a?.shape, new Attrs(node));
  if (a?.value.dtype !== 'int64') return undefined;
  if (opType === 'Concat') {
    const parts = inputs.map(dimsOf);
    return parts.every(part => part !== undefined) ? parts.flat() : undefined;
  }
  const [one, other] = [dimsOf(a), dimsOf(b)];
  if (one?.length !== 1) return undefined;
  // A vector of one extent, or a scalar.
  if (opType === 'Squeeze' || opType === 'Unsqueeze') return one;
  return opType === 'Add' && other?.length === 1 ? [sumOfDims(one[0]!, other[0]!)] : undefined;
}

const shapePart = (shape: Shape | undefined, attr: Attrs) =>
  shape?.slice(attr.int('start', 0), attr.int('end', shape.length));

const PLUS = ' + ';

/** Extents that are sums of the same ones have the same name. */
function sumOfDims(a: Dim, b: Dim): Dim {
  if (a === null || b === null) return null;
  if (typeof a === 'number' && typeof b === 'number') return a + b;
  const terms = [a, b].flatMap<string | number>(d => (typeof d === 'string' ? d.split(PLUS) : d));
  const names = terms.filter(d => typeof d === 'string').sort();
  const number = terms.reduce<number>((n, d) => (typeof d === 'number' ? n + d : n), 0);
  return names.length ? [...names, ...(number ? [number] : [])].join(PLUS) : number;
}

export function broadcastShapes(shapes: (Shape | undefined)[]): Shape | undefined {
  const first = shapes[0];
  let rank = 0;
  let isSame = first !== undefined;
  // By index, as for each node that is written: an iterator makes objects.
  for (let k = 0; k < shapes.length; k++) {
    const shape = shapes[k];
    if (!shape) return undefined;
    if (shape !== first) isSame = false;
    if (shape.length > rank) rank = shape.length;
  }
  if (isSame) return first;
  const result: Dim[] = [];
  for (let i = -rank; i < 0; i++) {
    let found: Dim = 1;
    for (let k = 0; k < shapes.length; k++) {
      const d = shapes[k]![i + shapes[k]!.length];
      if (d === undefined || d === 1 || d === found) continue;
      if (typeof d === 'number') found = typeof found === 'number' && found !== 1 ? found : d;
      else if (typeof found !== 'number') found = null;
      else if (found === 1) found = d;
    }
    result.push(found);
  }
  // One list for many values, which are then known to be alike.
  return shapes.find(shape => areSame(shape!, result)) ?? result;
}

function areSame(a: Shape, b: Shape): boolean {
  if (a.length !== b.length) return false;
  for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) return false;
  return true;
}

function matmulShape(a: Shape | undefined, b: Shape | undefined): Shape | undefined {
  if (!a?.length || !b?.length) return undefined;
  const batch = broadcastShapes([a.slice(0, -2), b.slice(0, -2)])!;
  return [...batch, ...(a.length > 1 ? [a.at(-2)!] : []), ...(b.length > 1 ? [b.at(-1)!] : [])];
}

function reshaped(from: Shape | undefined, to: Shape | undefined, zeroIsZero: boolean): Shape | undefined {
  if (!to) return undefined;
  const dims = to.map((d, i) => (d === 0 && !zeroIsZero ? (from?.[i] ?? null) : d));
  const open = dims.indexOf(-1);
  if (open < 0) return dims;
  const left = [...(from ?? [null])];
  const right: Dim[] = [];
  for (const d of dims) {
    if (d === -1) continue;
    const match = left.findIndex(l => l !== null && l === d);
    if (match >= 0) left.splice(match, 1);
    else right.push(d);
  }
  const isNotOne = (d: Dim) => d !== 1;
  const numbers = (ds: Dim[]) => ds.every(d => typeof d === 'number');
  const product = (ds: Dim[]) => (ds as number[]).reduce((n, d) => n * d, 1);
  if (numbers(left) && numbers(right)) dims[open] = product(left) / product(right);
  else {
    const [only, ...others] = left.filter(isNotOne);
    dims[open] = !others.length && !right.some(isNotOne) ? (only ?? null) : null;
  }
  return dims;
}

function sliced(d: Dim, start?: number, end?: number, step?: number): Dim {
  if (typeof d !== 'number' || start === undefined || end === undefined || step === undefined) return null;
  const clamp = (i: number, low: number, high: number) => Math.min(Math.max(i < 0 ? i + d : i, low), high);
  const [low, high] = step > 0 ? [0, d] : [-1, d - 1];
  const from = clamp(start, step > 0 ? 0 : low, high);
  const to = end < -d ? low : clamp(end, low, high);
  return Math.max(0, Math.ceil((to - from) / step));
}
