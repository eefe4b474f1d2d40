/** Finds inputs that contain row numbers of other inputs, such as the edges of a graph. */
import { reads } from '../../graph/dependents.js';
import { isFloat } from '../../graph/dtype.js';
import type { Graph, Node, Value } from '../../graph/ir.js';

/**
 * Operators whose second input contains positions along an axis of the first input, and whether that is always the
 * first axis.
 */
const INDEXED = new Map<string, boolean>([
  ...['Gather', 'GatherElements', 'ScatterElements', 'Scatter'].map(op => [op, false] as const),
  ...['GatherND', 'ScatterND'].map(op => [op, true] as const),
]);

/**
 * The inputs whose integers are row numbers of values computed from other inputs, such as the edges of a graph with
 * its nodes. Samples then depend on each other, and on their order.
 */
export function rowNumbers({ nodes }: Graph, inputs: readonly Value[]): Set<Value> {
  const sources = new Map<Value | null, Set<Value>>(inputs.map(v => [v, new Set([v])]));
  const of = (v: Value | null | undefined) => sources.get(v ?? null) ?? NONE;
  const found = new Set<Value>();
  for (const node of nodes) {
    if (node.opType === 'Shape' || node.opType === 'Size') continue;
    if (numbersFirstAxis(node)) {
      const data = of(node.inputs[0]);
      for (const v of of(node.inputs[1]))
        if (!isFloat(v.dtype) && [...data].some(other => other !== v)) found.add(v);
    }
    const union = new Set(reads(node).flatMap(v => [...of(v)]));
    if (union.size) for (const output of node.outputs) if (output) sources.set(output, union);
  }
  return found;
}

const NONE: ReadonlySet<Value> = new Set();

function numbersFirstAxis(node: Node): boolean {
  const always = node.domain === '' ? INDEXED.get(node.opType) : undefined;
  if (always !== false) return always ?? false;
  const axis = node.attrs.get('axis');
  const at = axis?.type === 'int' ? Number(axis.value) : 0;
  const rank = node.inputs[0]?.shape?.length;
  return at === 0 || (rank !== undefined && at + rank === 0);
}
