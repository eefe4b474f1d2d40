/** Rows of values and of arrays. */
import { Tensor } from '../../graph/tensor.js';
import { takeRows } from './convert.js';
import type { Block, Values } from './source.js';

/** The values with these numbers. */
export function gather(values: Values, rows: ArrayLike<number>): Values {
  const count = rows.length;
  if (values instanceof Tensor)
    return takeRows(values, Uint32Array.from(rows), values.dtype, [count, ...values.dims.slice(1)], 1);
  if (Array.isArray(values)) return Array.from(rows, row => values[row]!);
  const typed = values as Float64Array;
  const out = new (typed.constructor as Float64ArrayConstructor)(count);
  for (let i = 0; i < count; i++) out[i] = typed[rows[i]!]!;
  return out;
}

export function gatherBlock({ values }: Block, rows: ArrayLike<number>): Block {
  return {
    rows: rows.length,
    values: new Map([...values].map(([name, list]) => [name, gather(list, rows)])),
  };
}
