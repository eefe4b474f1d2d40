/** Gradients of convolutions, pools and resizing. */

import { Conv, ConvTranspose } from '../convolution.js';
import type { Expr } from '../core/expr.js';
import { type GradientNode, lowering } from '../core/gradient-node.js';
import type { Rule } from '../core/rule.js';
import { AveragePool, MaxPool } from '../pooling.js';
import { Resize } from '../resampling.js';

type Back = readonly [dy: Expr, x: Expr, w: Expr];

const convolution = (rule: Rule<readonly [Expr, Expr, Expr?], readonly [Expr]>) =>
  lowering<Back>(node => {
    const [dy, x, w] = node.inputs;
    // The rule only needs to know that there is a bias.
    return node.byRule(rule, [dy], { inputs: [x, w, dy] });
  });

export const ConvGrad = convolution(Conv);
export const ConvTransposeGrad = convolution(ConvTranspose);

/** x is found at the pool that computes these indices. */
export const MaxPoolGrad = lowering<readonly [dy: Expr, indices: Expr]>(node => {
  const [dy, indices] = node.inputs;
  const x = node.writer(1)?.inputs[0];
  if (!x) return node.unsupported('indices that do not come from a MaxPool');
  return node.byRule(MaxPool, [dy], { inputs: [node.g.of(x)], outputs: [dy, indices] });
});

/**
 * The operator does not refer to x, which is found by its name, or replaced by the extents that the file declares for
 * the output.
 */
export const AveragePoolGrad = lowering((node: GradientNode<readonly [dy: Expr]>) => {
  const [dy] = node.inputs;
  const x = node.primal() ?? node.output();
  if (!x.shape) return node.unsupported('an input that cannot be found by its name');
  return node.byRule(AveragePool, [dy], { inputs: [x] });
});

/** dy, x, then the inputs of Resize after x. */
export const ResizeGrad = lowering<readonly [dy: Expr, x: Expr, roi?: Expr, scales?: Expr]>(node => {
  const [dy, ...inputs] = node.inputs;
  return node.byRule(Resize, [dy], { inputs });
});
