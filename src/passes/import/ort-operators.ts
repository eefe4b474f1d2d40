import type { Node } from '../../graph/ir.js';
import { ortLowering } from '../../ops/ort-gradients/index.js';

/** Operators that ONNX Runtime's gradient builder writes too, but that stock builds have. */
const STOCK = new Set(['FusedMatMul', 'TransposeMatMul']);

/** What ONNX Runtime's training has besides: gradients come from it or go into it. */
const FRAME = new Set([
  ...['InPlaceAccumulator', 'InPlaceAccumulatorV2', 'PythonOp', 'YieldOp'],
  ...['AdamWOptimizer', 'SGDOptimizerV2', 'InplaceClipGradNorm'],
]);

/** Whether a node is one of those that only ONNX Runtime's training builds can run. */
export function isOrtTraining(node: Node): boolean {
  if (STOCK.has(node.opType)) return false;
  if (ortLowering(node)) return true;
  return node.domain === 'com.microsoft' && (FRAME.has(node.opType) || /Grad(_\w+)?$/.test(node.opType));
}
