import { isFloat } from '../../graph/dtype.js';
import { AgdError } from '../../graph/errors.js';
import type { Value } from '../../graph/ir.js';
import type { Builder } from '../../ops/core/builder.js';
import type { Expr } from '../../ops/core/expr.js';

/**
 * Adds the input `<output>_cotangent` for each of these outputs. Throws `bad-option` if there are none, and
 * `no-such-value` or `bad-dtype` for a name that is not a floating-point output.
 */
export function addCotangents(g: Builder, names: readonly string[]): Map<Value, Expr> {
  if (!names.length)
    throw new AgdError('bad-option', 'Nothing to differentiate: give a loss or cotangents of outputs.');
  return new Map(
    names.map(name => {
      const y = g.graph.outputs.find(v => v.name === name);
      if (!y) {
        const known = g.graph.outputs.map(v => `'${v.name}'`).join(', ');
        throw new AgdError('no-such-value', `The model has no output '${name}'; its outputs are ${known}.`);
      }
      if (!isFloat(y.dtype))
        throw new AgdError(
          'bad-dtype',
          `Output '${name}' is ${y.dtype ?? 'not a tensor'}: it has no cotangent.`,
        );
      const input = g.newValue(`${name}_cotangent`, y.type);
      g.graph.inputs.push(input);
      return [y, g.of(input)];
    }),
  );
}
