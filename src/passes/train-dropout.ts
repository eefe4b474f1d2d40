import { Tensor } from '../graph/tensor.js';
import type { Builder } from '../ops/core/builder.js';

/**
 * Lets dropout drop (`train`), or do nothing (`eval`), whatever the exporter wrote. Each node gets a seed of its
 * own, made from `seed`: a session then draws the same masks, run by run, every time. Returns whether there
 * was any dropout.
 */
export function trainDropout(g: Builder, mode: 'train' | 'eval', seed: number): boolean {
  const nodes = g.graph.nodes.filter(node => node.opType === 'Dropout' && node.domain === '');
  nodes.forEach((node, i) => {
    const ratio = node.inputs[1] ? g.constant(node.inputs[1])?.numbers()[0] : 0.5;
    const drops = mode === 'train' && ratio !== 0;
    const flag = g.tensor(new Tensor('bool', [], Uint8Array.of(drops ? 1 : 0)), drops ? 'true' : 'false');
    while (node.inputs.length < 3) node.inputs.push(null);
    node.inputs[2] = flag.value;
    if (drops) node.attrs.set('seed', { type: 'int', value: (seed * 1009 + i) % 2 ** 31 });
  });
  return nodes.length > 0;
}
