import type { Model, Node, Value } from '../../graph/ir.js';
import { type Builder, float } from '../../ops/core/builder.js';
import { type Constant, type Rewrite, rewriteNodes } from '../common/rewrite-nodes.js';

/**
 * A GELU that was exported in parts, y = x (1 + erf u) / 2 with u = x / sqrt(2), and its gradient in four passes fewer:
 * d (1 + erf u) + d x e / sqrt(2), in which d is dy / 2, is dy (P + u e / 2), with P = (1 + erf u) / 2 in one pass by
 * HardSigmoid, which y reads too. Returns whether there was anything to change.
 */
export function shortenGelu(model: Model): boolean {
  return rewriteNodes(model, rewritesOf);
}

const readersOf = (value: Value, opType: string) =>
  value.readers.filter(node => node.opType === opType && node.domain === '');

function rewritesOf(erf: Node, constant: Constant): Map<Node, Rewrite> {
  const rewrites = new Map<Node, Rewrite>();
  const [u] = erf.inputs;
  if (erf.opType !== 'Erf' || erf.domain || u?.dtype !== 'float32') return rewrites;
  const numberOf = (value: Value | null | undefined): number | undefined => {
    const tensor = constant(value);
    return tensor?.dims.length === 0 ? tensor.numbers()[0] : undefined;
  };
  /** The other operand of the node that computes `value`, one of whose operands is `of`. */
  const other = (value: Value | null | undefined, opType: string, of: Value | null | undefined) => {
    const node = value?.producer;
    if (node?.opType !== opType || node.domain || !of) return undefined;
    const [a, b] = node.inputs;
    return a === of ? b! : b === of ? a! : undefined;
  };
  /** What `value` is half of. */
  const whole = (value: Value) => {
    const node = value.producer;
    if (node?.opType !== 'Mul' || node.domain) return undefined;
    return node.inputs.find((_, i) => numberOf(node.inputs[1 - i]) === 0.5) ?? undefined;
  };
  const [x, by] = u.producer?.inputs ?? [];
  const scale = numberOf(by);
  if (!x || !scale || u.producer!.opType !== 'Div' || u.producer!.domain) return rewrites;
  const sums = readersOf(erf.outputs[0]!, 'Add').filter(({ inputs }) => inputs.some(v => numberOf(v) === 1));
  const squares = readersOf(u, 'Mul').filter(({ inputs }) => inputs.every(v => v === u));
  const powers = squares
    .flatMap(square =>
      readersOf(square.outputs[0]!, 'Sub').filter(({ inputs }) => inputs[1] === square.outputs[0]),
    )
    .flatMap(exponent => readersOf(exponent.outputs[0]!, 'Exp').map(power => ({ power, exponent })));
  for (const [sum] of sums.map(node => node.outputs))
    for (const { power, exponent } of powers) {
      const e = power.outputs[0]!;
      const log = numberOf(exponent.inputs[0]);
      if (log === undefined) continue;
      const p = (g: Builder) =>
        g.of(erf.outputs[0]!).op('HardSigmoid', [], { alpha: float(0.5), beta: float(0.5) });
      let found = false;
      for (const quotient of readersOf(e, 'Mul').flatMap(node => readersOf(node.outputs[0]!, 'Div')))
        for (const dx of readersOf(quotient.outputs[0]!, 'Add')) {
          const d = other(other(quotient.inputs[0], 'Mul', e), 'Mul', x);
          const dy = d && whole(d);
          const isGradient =
            dy &&
            numberOf(quotient.inputs[1]) === scale &&
            other(other(dx.outputs[0], 'Add', quotient.outputs[0]), 'Mul', sum) === d;
          if (!isGradient) continue;
          found = true;
          rewrites.set(dx, g => {
            const half = g
              .of(u)
              .square()
              .rsub(log - Math.LN2)
              .exp();
            return p(g).add(g.of(u).mul(half)).mul(g.of(dy)).value;
          });
        }
      if (!found) continue;
      for (const product of readersOf(sum!, 'Mul').filter(({ inputs }) => inputs.includes(x)))
        for (const y of readersOf(product.outputs[0]!, 'Mul').filter(
          node => whole(node.outputs[0]!) === product.outputs[0],
        ))
          rewrites.set(y, g => g.of(x).mul(p(g)).value);
    }
  return rewrites;
}
