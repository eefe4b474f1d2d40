import type { Dim } from '../../graph/ir.js';
import type { InputSpec } from './match.js';

/** How exporters name the axis of the samples; not a product, as in 'batch*seq'. */
const BATCH = /^[\w.]*batch[\w.]*$/i;

/**
 * The inputs with the axis along which their samples lie: where they have the extent of the target's samples, else
 * the first. Null for those that have no such axis: scalars, and those that `whole` names.
 */
export function withBatchAxes(
  inputs: readonly InputSpec[],
  target: string | undefined,
  whole: readonly string[] = [],
): InputSpec[] {
  const shape = inputs.find(({ name }) => name === target)?.shape ?? [];
  const extent = shape.find(isBatch) ?? shape[0];
  return inputs.map(input => ({ ...input, batchAxis: batchAxis(input, extent, whole) }));
}

function batchAxis({ name, shape }: InputSpec, extent: Dim | undefined, whole: readonly string[]) {
  if (shape?.length === 0 || whole.includes(name)) return null;
  const same = extent === undefined || extent === null ? -1 : (shape?.indexOf(extent) ?? -1);
  return same >= 0 ? same : Math.max(0, shape?.findIndex(isBatch) ?? 0);
}

const isBatch = (dim: Dim) => typeof dim === 'string' && BATCH.test(dim);
