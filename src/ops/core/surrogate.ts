import { type FloatDType, isFloat } from '../../graph/dtype.js';
import type { Value } from '../../graph/ir.js';
import type { Expr } from './expr.js';
import { NodeView, type OpDef, type Operands, type Rule, zeroGradient } from './rule.js';

/** Why operators on integers have no gradient of their own. */
export const ON_INTEGERS = 'computes on integers';

/** Expresses an operator on the numbers that its integers represent, computed in `dtype`. */
type Surrogate<I extends Operands> = (node: NodeView<I>, dtype: FloatDType) => readonly Expr[];

/**
 * An operator on integers. Its straight-through gradient is that of its surrogate, evaluated at the actual integers;
 * the operator itself stays in the graph.
 */
export const onIntegers = <I extends Operands>(write: Surrogate<I>): OpDef =>
  zeroGradient(ON_INTEGERS, straightThrough(write as Surrogate<never>));

function straightThrough(write: Surrogate<never>): Rule<never, never> {
  const rule: Rule<Operands, Operands> = (dys, { node, g, opset, needs, vjp }) => {
    const inner = g.subgraph('surrogate');
    const dtypes = [...dys.map(dy => dy?.value.dtype), ...node.inputs.map(v => v?.dtype)];
    const results = write(new NodeView(node, inner, opset) as never, dtypes.find(isFloat) ?? 'float32');
    const seeds = new Map(results.flatMap((y, i) => (dys[i] ? [[y.value, inner.of(dys[i].value)]] : [])));
    // A value that is read twice has one gradient, the sum of both.
    const wrt = [...new Set(node.inputs)].filter((v): v is Value => !!v && needs(node.inputs.indexOf(v)));
    const grads = vjp(inner, seeds as Map<Value, Expr>, wrt);
    const { nodes } = inner.graph;
    inner.graph.nodes = [];
    g.adopt(nodes);
    return node.inputs.map((v, i) => {
      const grad = v && node.inputs.indexOf(v) === i ? grads[wrt.indexOf(v)] : undefined;
      return grad ? () => g.of(grad.value) : null;
    });
  };
  return rule as Rule<never, never>;
}
