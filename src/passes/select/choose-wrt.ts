import { isFloat } from '../../graph/dtype.js';
import { AgdError } from '../../graph/errors.js';
import type { Graph, Value } from '../../graph/ir.js';
import { globTest } from '../common/match-names.js';

/** The floating-point inputs and initializers that match. Throws `no-such-value` for a glob that matches none. */
export function chooseWrt(
  { inputs, initializers }: Graph,
  globs: readonly string[],
  constants: ReadonlySet<Value> = new Set(),
): Value[] {
  const floating = [...new Set([...inputs, ...initializers.keys()])].filter(
    v => isFloat(v.dtype) && !constants.has(v),
  );
  const chosen = globs.flatMap(glob => {
    const matches = globTest(glob);
    const found = floating.filter(v => v.name === glob || matches(v.name));
    if (!found.length) {
      const names = floating
        .map(v => `'${v.name}'`)
        .slice(0, 8)
        .join(', ');
      throw new AgdError(
        'no-such-value',
        `--wrt '${glob}' matches no floating-point input or initializer, such as ${names}.`,
      );
    }
    return found;
  });
  return [...new Set(chosen)];
}
