/** The optimizers of ONNX's own training operators: (R, T, X.., G.., state..) -> (new X.., new state..). */
import type { Expr } from './core/expr.js';
import { expansion, type NodeView } from './core/rule.js';

type OptimizerNode = NodeView<readonly Expr[]>;

/** The learning rate and the number of updates, as float64 scalars, and the tensors of each parameter. */
function operands({ inputs }: OptimizerNode, kinds: number) {
  const [r, t] = inputs.slice(0, 2).map(e => (e.rank ? e.reshape([]) : e).cast('float64')) as [Expr, Expr];
  const tensors = inputs.slice(2);
  const n = tensors.length / kinds;
  const each = Array.from({ length: n }, (_, i) =>
    Array.from({ length: kinds }, (_, k) => tensors[k * n + i]!),
  );
  return { r, t, each };
}

/** Outputs in the operators' order: all new X, then all new tensors of the first kind of state ... */
function inOrder(results: readonly (readonly Expr[])[]): Expr[] {
  return results[0]!.flatMap((_, k) => results.map(result => result[k]!));
}

/** g + norm_coefficient * x, the gradient including that of the penalty norm_coefficient / 2 * |x|^2. */
function regularized({ attrs }: OptimizerNode, x: Expr, g: Expr): Expr {
  const c = attrs.float('norm_coefficient', 0);
  return c ? g.add(x.mul(c)) : g;
}

/** r = R / (1 + T decay_factor);  H += g^2;  X -= r g / (sqrt(H) + epsilon). */
export const Adagrad = expansion<readonly Expr[]>(node => {
  const { r, t, each } = operands(node, 3);
  const rate = r.div(t.mul(node.attrs.float('decay_factor', 0)).add(1));
  return inOrder(
    each.map(([x, grad, h]) => {
      const g = regularized(node, x!, grad!);
      const sum = h!.add(g.square());
      const scale = sum.sqrt().add(node.attrs.float('epsilon', 1e-6));
      return [x!.sub(g.mul(rate.cast(x!.dtype)).div(scale)), sum];
    }),
  );
});

/**
 * V = alpha V + (1 - alpha) g;  H = beta H + (1 - beta) g^2;  r = R sqrt(1 - beta^T) / (1 - alpha^T), R where T = 0;
 * X -= r V / (sqrt(H) + epsilon), and then (1 - norm_coefficient_post) X.
 */
export const Adam = expansion<readonly Expr[]>(node => {
  const { r, t, each } = operands(node, 4);
  const [alpha, beta] = [node.attrs.float('alpha', 0.9), node.attrs.float('beta', 0.999)];
  const first = t.greater(0);
  const corrected = (x: number) => first.where(node.g.scalar(x, 'float64').pow(t).rsub(1), 1);
  const rate = r.mul(corrected(beta).sqrt()).div(corrected(alpha));
  const post = node.attrs.float('norm_coefficient_post', 0);
  return inOrder(
    each.map(([x, grad, v, h]) => {
      const g = regularized(node, x!, grad!);
      const average = v!.mul(alpha).add(g.mul(1 - alpha));
      const squares = h!.mul(beta).add(g.square().mul(1 - beta));
      const scale = squares.sqrt().add(node.attrs.float('epsilon', 1e-6));
      const moved = x!.sub(average.mul(rate.cast(x!.dtype)).div(scale));
      return [post ? moved.mul(1 - post) : moved, average, squares];
    }),
  );
});

/** V = alpha V + b g with b = beta, 1 where T = 0;  X -= R V, or with Nesterov's momentum X -= R (g + alpha V). */
export const Momentum = expansion<readonly Expr[]>(node => {
  const { r, t, each } = operands(node, 3);
  const [alpha, beta] = [node.attrs.float('alpha', 0), node.attrs.float('beta', 1)];
  const mode = node.attrs.string('mode', 'standard');
  if (mode !== 'standard' && mode !== 'nesterov') node.unsupported(`mode '${mode}'`);
  const factor = t.greater(0).where(node.g.scalar(beta, 'float64'), 1);
  return inOrder(
    each.map(([x, grad, v]) => {
      const g = regularized(node, x!, grad!);
      const momentum = v!.mul(alpha).add(g.mul(factor.cast(g.dtype)));
      const step = mode === 'nesterov' ? g.add(momentum.mul(alpha)) : momentum;
      return [x!.sub(step.mul(r.cast(x!.dtype))), momentum];
    }),
  );
});
