/** Einstein summation. */

import { type Expr, sameShape } from './core/expr.js';
import { broadcastShapes } from './core/infer.js';
import type { Rule } from './core/rule.js';

/** An operand with one letter per axis. */
type Term = { x: Expr; letters: string };

/**
 * y = einsum(operands)  =>  dx = einsum(dy, the other operands -> letters of x). Along a letter that only x
 * has, dx is repeated; where x has a letter twice, dx is 0 off the diagonal.
 */
export const Einsum: Rule<readonly Expr[], readonly [Expr]> = ([dy], { inputs, attrs }) => {
  const { operands, result } = parse(attrs.string('equation', ''), inputs);
  return operands.map(({ x, letters }, i) => () => {
    const factors = [{ x: dy, letters: result }, ...operands.filter((_, j) => j !== i)];
    const absent = (letter: string, axis: number) =>
      letters.indexOf(letter) < axis || !factors.some(f => f.letters.includes(letter));
    const present = [...letters].filter((letter, axis) => !absent(letter, axis)).join('');
    const missing = [...letters].flatMap((letter, axis) => (absent(letter, axis) ? [axis] : []));
    return broadcastTo(x, onDiagonal(x, letters, contract(factors, present).unsqueeze(missing)));
  });
};

/** The letters of each operand and of the result, with new letters for the axes of an ellipsis. */
function parse(equation: string, inputs: readonly Expr[]): { operands: Term[]; result: string } {
  const [left, right] = equation.replaceAll(' ', '').split('->') as [string, string?];
  const terms = left.split(',');
  const hidden = terms.map((t, i) => (t.includes('...') ? inputs[i]!.rank - t.length + 3 : 0));
  const free = [...ALPHABET].filter(letter => !equation.includes(letter)).join('');
  const ellipsis = free.slice(0, Math.max(0, ...hidden));
  const spell = (t: string, axes: number) => t.replace('...', ellipsis.slice(ellipsis.length - axes));
  const once = [...left.replace(/[^a-zA-Z]/g, '')].filter(
    (c, _, all) => all.indexOf(c) === all.lastIndexOf(c),
  );
  return {
    operands: inputs.map((x, i) => ({ x, letters: spell(terms[i]!, hidden[i]!) })),
    result: right === undefined ? ellipsis + once.sort().join('') : spell(right, ellipsis.length),
  };
}

const ALPHABET = 'abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ';

/** The product of these terms, summed over the letters that are not in `to`. */
function contract(terms: readonly Term[], to: string): Expr {
  const scalars = terms.filter(t => t.letters === '').map(t => t.x);
  const tensors = terms.filter(t => t.letters !== '');
  const [first, ...rest] = tensors.length ? [product(tensors, to), ...scalars] : scalars;
  return rest.reduce((y, x) => y.mul(x), first!);
}

function product(terms: readonly Term[], to: string): Expr {
  const [{ x, letters }, ...others] = terms as [Term, ...Term[]];
  if (others.length === 0 && letters === to) return x;
  const extent = (letter: string) =>
    broadcastShapes(
      terms.filter(t => t.letters.includes(letter)).map(t => [t.x.extent(t.letters.indexOf(letter))]),
    )![0]!;
  return x.op(
    'Einsum',
    others.map(t => t.x),
    { equation: `${terms.map(t => t.letters)}->${to}` },
    { types: [{ kind: 'tensor', dtype: x.dtype, shape: [...to].map(extent) }] },
  );
}

/** Zeros where two axes of x with the same letter have different positions; `e` has extent 1 in the later one. */
function onDiagonal(x: Expr, letters: string, e: Expr): Expr {
  const position = (axis: number) => {
    const extent = x.dims(axis, axis + 1).squeeze([0]);
    const index = x.g.scalar(0, 'int64').op('Range', [extent, 1]);
    return index.reshape([...letters].map((_, i) => (i === axis ? -1 : 1)));
  };
  return [...letters].reduce((masked, letter, axis) => {
    const first = letters.indexOf(letter);
    return first === axis ? masked : position(first).equal(position(axis)).where(masked, 0);
  }, e);
}

/** Repeats along the axes where only `e` has extent 1, and sums along those where only x has. */
function broadcastTo(x: Expr, e: Expr): Expr {
  const both = broadcastShapes([x.shape, e.shape]);
  return (sameShape(both, e.shape) ? e : e.expand(x.dims())).sumTo(x);
}
