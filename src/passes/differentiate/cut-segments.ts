/** Cuts the forward pass into segments for activation checkpointing. */
import { byteLength } from '../../graph/dtype.js';
import type { Node, Value } from '../../graph/ir.js';

/** The value assumed for an extent that is only known at run time; only the order of values by size matters. */
const UNKNOWN_EXTENT = 32;

/**
 * Cuts nodes in topological order into `count` segments that write about equally many bytes. Each cut is placed where
 * the fewest bytes cross, within a quarter of a segment of the even position. Returns the segment of each node, from
 * 0.
 */
export function cutSegments(nodes: readonly Node[], count: number): number[] {
  const written = nodes.map(node => node.outputs.reduce((n, o) => n + (o ? sizeOf(o) : 0), 0));
  const ends = written.map(
    (
      sum => size =>
        (sum += size)
    )(0),
  );
  const crossing = bytesAcross(nodes);
  const step = (ends.at(-1) ?? 0) / count;
  const cuts = new Set<number>();
  for (let k = 1; k < count; k++) {
    const near = (i: number) => Math.abs(ends[i]! - k * step);
    const choice = nodes.flatMap((_, i) => (i < nodes.length - 1 && near(i) <= step / 4 ? [i] : []));
    const [best] = choice.sort((a, b) => crossing[a]! - crossing[b]! || near(a) - near(b));
    if (best !== undefined) cuts.add(best);
  }
  let segment = 0;
  return nodes.map((_, i) => (cuts.has(i - 1) ? ++segment : segment));
}

/** For each position, the bytes that nodes before it write and nodes after it read. */
function bytesAcross(nodes: readonly Node[]): number[] {
  const lastRead = new Map<Value, number>();
  nodes.forEach((node, i) => {
    for (const v of node.inputs) if (v) lastRead.set(v, i);
  });
  const change = Array<number>(nodes.length + 1).fill(0);
  nodes.forEach((node, i) => {
    for (const o of node.outputs) {
      const end = o ? lastRead.get(o) : undefined;
      if (!o || end === undefined) continue;
      change[i]! += sizeOf(o);
      change[end]! -= sizeOf(o);
    }
  });
  return change.map(
    (
      sum => delta =>
        (sum += delta)
    )(0),
  );
}

function sizeOf({ type }: Value): number {
  if (type?.kind !== 'tensor') return 0;
  const extents = type.shape?.map(d => (typeof d === 'number' ? d : UNKNOWN_EXTENT)) ?? [UNKNOWN_EXTENT];
  return byteLength(
    type.dtype,
    extents.reduce((n, d) => n * d, 1),
  );
}
