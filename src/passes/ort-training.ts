import type { Node } from '../graph/ir.js';

const NAMES = new Set([
  'BatchNormInternal',
  'BroadcastGradientArgs',
  'ConcatTraining',
  'InPlaceAccumulator',
  'InPlaceAccumulatorV2',
  'LSTMTraining',
  'GRUTraining',
  'ReduceSumTraining',
  'SoftmaxCrossEntropyLossInternal',
  'SplitTraining',
  'YieldOp',
]);

/** Whether a node is one of those that ONNX Runtime's own gradient builder writes, and stock builds cannot run. */
export function isOrtGradient(node: Node): boolean {
  return (
    NAMES.has(node.opType) || (/Grad(_13|_14)?$|GradInternal$/.test(node.opType) && node.opType !== 'Grad')
  );
}
