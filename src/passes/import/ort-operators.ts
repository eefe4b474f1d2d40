/** Distinguishes the operators of ONNX Runtime's training graphs: those that stock builds run from those that they do not. */
import type { Node } from '../../graph/ir.js';
import { ortLowering } from '../../ops/ort-gradients/index.js';

/** Operators that ONNX Runtime's gradient builder emits and stock builds support. */
const STOCK = new Set(['FusedMatMul', 'TransposeMatMul']);

/** Other operators of ONNX Runtime's training, which write or read gradients. */
const FRAME = new Set([
  ...['InPlaceAccumulator', 'InPlaceAccumulatorV2', 'PythonOp', 'YieldOp'],
  ...['AdamWOptimizer', 'SGDOptimizerV2', 'InplaceClipGradNorm'],
]);

/** Whether only ONNX Runtime's training builds can run a node. */
export function isOrtTraining(node: Node): boolean {
  if (STOCK.has(node.opType)) return false;
  if (ortLowering(node)) return true;
  return node.domain === 'com.microsoft' && (FRAME.has(node.opType) || /Grad(_\w+)?$/.test(node.opType));
}
