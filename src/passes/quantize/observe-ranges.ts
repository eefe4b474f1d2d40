/** Updates the averaged ranges of activations in each step of quantization-aware training. */
import type { Model } from '../../graph/ir.js';
import { topologicalOrder } from '../../graph/topological-order.js';
import type { Builder } from '../../ops/core/builder.js';
import { movingAverage } from '../../ops/optimizers/optimizer.js';
import type { StateUpdate } from '../update/transition.js';
import { namedIn, readQuantizers } from './quantization-record.js';

/** The share of the range so far that a step keeps, as of PyTorch's moving averages of ranges. */
const KEPT = 0.99;

/**
 * Moves averaged ranges towards the least and the largest value of the batch, zero included, before the batch is rounded
 * with them. Returns the updates of the ranges.
 */
export function observeRanges(g: Builder, model: Model): StateUpdate[] {
  const averaged = readQuantizers(model).filter(q => q.kind === 'averaged');
  const values = namedIn(g.graph, new Set(averaged.flatMap(q => [q.scale, q.source])));
  const updates = averaged.flatMap((quantizer): StateUpdate[] => {
    const range = values.get(quantizer.source);
    const scale = values.get(quantizer.scale);
    const order = g.graph.nodes.filter(node => node.opType === 'QuantizeLinear' && node.inputs[1] === scale);
    const x = order[0]?.inputs[0];
    if (!range || !x) return [];
    const readers = [...range.readers];
    const low = g.of(x).min().minimum(0);
    const high = g.of(x).max().maximum(0);
    const batch = low.unsqueeze([0]).concat([high.unsqueeze([0])], 0);
    const next = movingAverage(g.of(range), batch, KEPT);
    for (const node of readers) node.inputs = node.inputs.map(v => (v === range ? next.value : v));
    return [{ state: range, value: next.value }];
  });
  if (updates.length) g.graph.nodes = topologicalOrder(g.graph.nodes);
  return updates;
}
