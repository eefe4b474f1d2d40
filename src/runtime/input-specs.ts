/** What the inputs of a graph take, of which data are bound. */
import { AgdError } from '../graph/errors.js';
import type { Value } from '../graph/ir.js';
import type { Fed, LeastBatch } from '../passes/options.js';
import { rowNumbers } from '../passes/run/row-numbers.js';
import type { InputSpec } from './data/bind.js';

/** What arrays have to be to feed these inputs of a graph. Throws `unsupported-type`. */
export function inputSpecs({ graph, inputs, leastBatch }: Fed): InputSpec[] {
  const rows = rowNumbers(graph, inputs);
  return inputs.map(value => {
    const spec = inputSpec(value, leastBatch);
    return rows.has(value) ? { ...spec, numbersRows: true } : spec;
  });
}

function inputSpec(value: Value, leastBatch?: LeastBatch): InputSpec {
  if (value.type?.kind !== 'tensor')
    throw new AgdError(
      'unsupported-type',
      `Input '${value.name}' is not a tensor; it cannot be fed from arrays.`,
    );
  const { dtype, shape } = value.type;
  const isBatched = leastBatch !== undefined && shape?.[0] === leastBatch.axis;
  return { name: value.name, dtype, shape, ...(isBatched ? { least: leastBatch.samples } : {}) };
}
