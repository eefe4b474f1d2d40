/** Sequences as cotangents: one tensor for each of the primal sequence, of the same shape. */
import { dtypeCode } from '../../graph/dtype.js';
import type { TensorType } from '../../graph/ir.js';
import type { Builder } from './builder.js';
import type { Expr } from './expr.js';
import { loop, type State } from './scan.js';
import { isSequence } from './types.js';

/**
 * Maps f over sequences: operands that are sequences are passed element by element, others as they are. `elems` are the
 * types of the results.
 */
export function mapSequences(
  operands: readonly Expr[],
  elems: readonly TensorType[],
  f: (b: Builder, operands: readonly Expr[]) => readonly Expr[],
): Expr[] {
  const [first] = operands as [Expr];
  const { g } = first;
  const states = elems.map((elem): State => {
    const [start] = g.emit('SequenceEmpty', [], { dtype: dtypeCode(elem.dtype) });
    return { start: start!, type: { kind: 'sequence', elem } };
  });
  return loop(g, first.op('SequenceLength'), states, (b, i, made) => {
    const here = operands.map(({ value, type }) =>
      isSequence(type) ? b.of(value).op('SequenceAt', [i]) : b.of(value),
    );
    return f(b, here).map((y, k) => made[k]!.op('SequenceInsert', [y]).typed(states[k]!.type));
  }).states;
}

/** The sum of two cotangents of one value. */
export function sumOf(a: Expr, b: Expr): Expr {
  if (!isSequence(a.type)) return a.add(b);
  return mapSequences([a, b], [elementOf(a)], (_, [x, y]) => [x!.add(y!)])[0]!;
}

/** The cotangent of a value that nothing depends on. */
export function zerosLike(x: Expr): Expr {
  return isSequence(x.type) ? mapSequences([x], [elementOf(x)], (_, [e]) => [e!.zeros()])[0]! : x.zeros();
}

/** The type of a sequence's elements. */
export function elementOf({ type, value }: Expr): TensorType {
  if (type?.kind === 'sequence' && type.elem.kind === 'tensor') return type.elem;
  throw new Error(`Value '${value.name}' is not a sequence of tensors.`);
}
