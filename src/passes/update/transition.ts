import type { Value, ValueType } from '../../graph/ir.js';
import type { Tensor } from '../../graph/tensor.js';
import type { Builder } from '../../ops/core/builder.js';
import type { Expr } from '../../ops/core/expr.js';

/** A tensor that a training step changes: `state` is the input, `value` its next value. */
export type StateUpdate = { state: Value; value: Value };

/** The next value of each state that a step changes. */
export type Updates = Map<Value, Expr>;

/** Adds the nodes that compute the next state from the gradients of the parameters to the graph of `g`. */
export type Transition = (g: Builder, grads: readonly Expr[]) => Updates;

/** A state: a graph input whose initializer is its value before the first step. */
export function stateInput(g: Builder, hint: string, tensor: Tensor): Value {
  const value = g.newValue(hint, { kind: 'tensor', dtype: tensor.dtype, shape: tensor.dims });
  g.graph.inputs.push(value);
  g.graph.initializers.set(value, tensor);
  return value;
}

/** A constant that others may replace, with its own name. */
export function initializer(g: Builder, hint: string, tensor: Tensor): Value {
  const value = g.newValue(hint, { kind: 'tensor', dtype: tensor.dtype, shape: tensor.dims });
  g.graph.initializers.set(value, tensor);
  return value;
}

/**
 * Executes one of two branches in an If, so that only that one costs time. A state that only one branch changes stays
 * as it is in the other.
 */
export function when(
  g: Builder,
  condition: Expr,
  then: (g: Builder) => Updates,
  otherwise: (g: Builder) => Updates,
): Updates {
  const branches = [g.subgraph('then'), g.subgraph('else')] as const;
  const updates = [then(branches[0]), otherwise(branches[1])] as const;
  const states = [...new Set([...updates[0].keys(), ...updates[1].keys()])];
  branches.forEach((b, i) => {
    b.graph.outputs = states.map(s => b.rename(updates[i]!.get(s) ?? b.of(s), `${s.name}_${b.graph.name}`));
  });
  const types = states.map((s): ValueType | undefined => s.type);
  const attrs = { then_branch: branches[0].graph, else_branch: branches[1].graph };
  const chosen = g.emit('If', [condition], attrs, { outputs: states.length, types });
  return new Map(states.map((s, i) => [s, chosen[i]!]));
}

/**
 * Computes both branches and chooses each state elementwise, where a condition of `when` costs more: an If of a device waits for
 * its condition to be copied to the CPU. What is not chosen may be anything.
 */
export function choose(
  g: Builder,
  condition: Expr,
  then: (g: Builder) => Updates,
  otherwise: (g: Builder) => Updates,
): Updates {
  const [chosen, others] = [then(g), otherwise(g)] as const;
  const states = new Set([...chosen.keys(), ...others.keys()]);
  return new Map(
    [...states].map(s => {
      const [next, other] = [chosen.get(s) ?? g.of(s), others.get(s) ?? g.of(s)];
      return [s, condition.where(next, other)];
    }),
  );
}

/** A separate graph output with a descriptive name. */
export function output(g: Builder, e: Expr, hint: string): Value {
  const value = g.rename(e, hint);
  g.graph.addOutputs(value);
  return value;
}
