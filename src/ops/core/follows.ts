import type { Node } from '../../graph/ir.js';

/** Operators whose output has the type that its inputs have together, and nothing of its own. */
const FOLLOWING = new Set(
  'Add Sub Mul Div Neg Abs Exp Log Sqrt Reciprocal Tanh Sigmoid Relu Erf Softmax LogSoftmax Softplus Softsign Gelu Identity'.split(
    ' ',
  ),
);

/** Whether the type of a node's output follows from those of its inputs as well as anybody could tell. */
export function followsInputs({ domain, opType }: Node): boolean {
  return domain === '' && FOLLOWING.has(opType);
}
