/** What onnxruntime's WebGPU provider has to be told to compute a training step right. */

import { allGraphs, type Model, type Node } from '../graph/ir.js';
import { Names } from '../graph/names.js';
import { record } from '../graph/record.js';
import { isWideSplit } from '../passes/common/narrow-splits.js';

/** Nodes that the provider takes, and then stops at or computes wrong (onnxruntime 1.30). */
const FOR_CPU = record<(node: Node) => boolean>({
  MaxPool: ({ outputs: [, indices] }) => Boolean(indices),
  // In NCHW it takes the last axis for that of the channels unless there are four.
  BatchNormalization: ({ inputs: [x] }) => x?.shape?.length !== 4,
  ConvTranspose: ({ inputs: [, weight] }) => weight?.shape?.length === 5,
  Resize: ({ attrs }) => {
    const antialias = attrs.get('antialias');
    return antialias?.type === 'int' && Number(antialias.value) === 1;
  },
  Split: isWideSplit,
});

/** As onnxruntime takes an execution provider with its options. */
export type WebgpuProvider = { name: 'webgpu'; preferredLayout: 'NCHW'; forceCpuNodeNames?: string[] };

/** Gives a name to nodes without one that are to run on the CPU, as they are told apart by it. */
export function webgpuProvider(model: Model): WebgpuProvider {
  const names = Names.of(model);
  const nodes = [...allGraphs(model.graph)].flatMap(graph => graph.nodes);
  const onCpu = nodes.filter(node => FOR_CPU[node.opType]?.(node));
  for (const node of onCpu) node.name ||= names.fresh(node.opType.toLowerCase());
  return {
    name: 'webgpu',
    // In the default layout, NHWC, convolutions of 6 channels give wrong results.
    preferredLayout: 'NCHW',
    // The runtime refuses an empty list.
    ...(onCpu.length ? { forceCpuNodeNames: onCpu.map(node => node.name) } : {}),
  };
}
