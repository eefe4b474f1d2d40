/** Sequences of tensors. The cotangent of a sequence is a sequence of its elements' cotangents. */
import type { TensorType } from '../graph/ir.js';
import { copyInto } from './core/bodies.js';
import type { Expr } from './core/expr.js';
import { expansion, type Operands, type Rule } from './core/rule.js';
import { elementOf, mapSequences, zerosLike } from './core/sequence.js';

type Sequences<I extends Operands> = Rule<I, readonly [Expr]>;

/** s = [x0, x1 ...]  =>  each gets its element of ds. */
export const SequenceConstruct: Sequences<readonly Expr[]> = ([ds], { inputs, g }) =>
  inputs.map((_, i) => () => at(ds, g.scalar(i, 'int64')));

/** y = s[i]  =>  ds[i] += dy. */
export const SequenceAt: Sequences<readonly [Expr, Expr]> = ([dy], { inputs: [s, i] }) => [
  {
    addTo(sum) {
      const ds = sum ?? zerosLike(s);
      const place = fromFront(i, ds.op('SequenceLength'));
      return insert(erase(ds, place), sum ? at(ds, place).add(dy) : dy, place);
    },
  },
  null,
];

/**
 * t = s with x inserted before its i-th element, or at its end if i is omitted  =>  ds = dt without that element, dx =
 * that element.
 */
export const SequenceInsert: Sequences<readonly [Expr, Expr, Expr?]> = ([dt], { inputs: [, , i], g }) => {
  // Counted from the end, the position in t is one more.
  const place = i ? i.less(0).where(i.sub(1), i) : g.scalar(-1, 'int64');
  return [() => erase(dt, place), () => at(dt, place), null];
};

/** t = s without its i-th element, or its last if i is omitted  =>  ds = dt with zeros there. */
export const SequenceErase: Sequences<readonly [Expr, Expr?]> = ([dt], { inputs: [s, i], g }) => [
  () => {
    const place = fromFront(i ?? g.scalar(-1, 'int64'), s.op('SequenceLength'));
    return insert(dt, at(s, place).zeros(), place);
  },
  null,
];

/** s = x split along an axis  =>  dx = the parts of ds concatenated. */
export const SplitToSequence: Sequences<readonly [Expr, Expr?]> = ([ds], { inputs: [x, split], attrs }) => [
  () => {
    const squeezed = !split && attrs.int('keepdims', 1) === 0;
    return ds
      .op('ConcatFromSequence', [], { axis: attrs.int('axis', 0), new_axis: squeezed ? 1 : 0 })
      .typed(x.type);
  },
  null,
];

/** y = the elements of s concatenated along an axis, or stacked along a new one  =>  ds = dy split there. */
export const ConcatFromSequence: Sequences<readonly [Expr]> = ([dy], { inputs: [s], attrs }) => {
  const axis = attrs.int('axis', 0);
  if (attrs.int('new_axis', 0)) return [() => dy.op('SplitToSequence', [], { axis, keepdims: 0 })];
  const extent = (e: Expr) => e.op('Shape', [], { start: axis, end: axis + 1 || undefined });
  return [
    () => {
      const type = { kind: 'tensor', dtype: 'int64', shape: [1] } as const;
      const [extents] = mapSequences([s], [type], (_, [e]) => [extent(e!)]);
      return dy.op('SplitToSequence', [extents!.op('ConcatFromSequence', [], { axis: 0 })], { axis });
    },
  ];
};

/** The body for each element of the sequences: a Loop. */
export const SequenceMap = expansion<readonly Expr[]>(({ inputs, attrs }) => {
  const body = attrs.graph('body')!;
  return mapSequences(
    inputs,
    body.outputs.map(v => v.type as TensorType),
    (b, elements) => {
      const values = new Map(body.inputs.map((v, i) => [v, elements[i]!.value]));
      copyInto(b, body, values);
      return body.outputs.map(v => b.of(values.get(v)!));
    },
  );
});

const at = (s: Expr, i: Expr): Expr => s.op('SequenceAt', [i]).typed(elementOf(s));
const erase = (s: Expr, i: Expr): Expr => s.op('SequenceErase', [i]);
const insert = (s: Expr, x: Expr, i: Expr): Expr => s.op('SequenceInsert', [x, i]);

/** A position that may be counted from the end. */
function fromFront(i: Expr, length: Expr): Expr {
  const known = i.constant?.[0];
  return known !== undefined && known >= 0
    ? i
    : i.less(0).where(i.cast('int64').add(length), i.cast('int64'));
}
