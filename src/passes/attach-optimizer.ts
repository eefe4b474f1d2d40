import type { Value } from '../graph/ir.js';
import { Tensor } from '../graph/tensor.js';
import type { Builder } from '../ops/core/builder.js';
import type { Expr } from '../ops/core/expr.js';
import type { Optimizer, OptimizerOptions, Scalars } from '../ops/optimizers/optimizer.js';

/** A tensor that a training step changes: `state` is fed, `value` is the output that replaces it. */
export type StateUpdate = { state: Value; value: Value };

export type AttachedOptimizer = {
  lr: Value;
  step: Value;
  /** Every parameter, its optimizer state (by the optimizer's names) and the step counter. */
  updates: StateUpdate[];
  slots: Map<Value, Record<string, Value>>;
};

/**
 * Adds the update of every parameter: its new value and its new state become outputs. The learning rate and the
 * state become inputs with initializers, so that the file starts from its defaults. Parameters with equal
 * options share the scalars of the step.
 */
export function attachOptimizer<O extends OptimizerOptions>(
  g: Builder,
  optimizer: Optimizer<O>,
  parameters: readonly { param: Value; grad: Expr; options: O }[],
): AttachedOptimizer {
  const lr = input(g, 'lr', Tensor.filled('float32', [], parameters[0]!.options.lr));
  const step = input(g, 'step', Tensor.filled('int64', [], 0));
  const next = g.of(step).add(1);
  const updates: StateUpdate[] = [{ state: step, value: output(g, next, 'step_new') }];
  const slots: AttachedOptimizer['slots'] = new Map();
  const t = next.cast('float64');
  const rate = g.of(lr).cast('float64');
  const shared = new Map<string, Scalars>();
  for (const { param, grad, options } of parameters) {
    const key = `${grad.dtype} ${JSON.stringify(options)}`;
    let scalars = shared.get(key);
    if (!scalars) {
      const exact = Object.entries(optimizer.scalars(t, rate, options));
      scalars = Object.fromEntries(exact.map(([name, e]) => [name, e.cast(grad.dtype)]));
      shared.set(key, scalars);
    }
    const tensor = g.graph.initializers.get(param)!;
    if (!g.graph.inputs.includes(param)) g.graph.inputs.push(param);
    const state = Object.fromEntries(
      optimizer
        .states(options)
        .map(name => [name, input(g, `${param.name}_${name}`, Tensor.zeros(tensor.dtype, tensor.dims))]),
    );
    slots.set(param, state);
    const operands = Object.fromEntries(Object.entries(state).map(([name, v]) => [name, g.of(v)]));
    const updated = optimizer.update(g.of(param), grad, operands, scalars, options);
    updates.push({ state: param, value: output(g, updated.param, `${param.name}_new`) });
    for (const [name, value] of Object.entries(state))
      updates.push({ state: value, value: output(g, updated.state[name]!, `${value.name}_new`) });
  }
  return { lr, step, updates, slots };
}

/** A graph input with a default. */
function input(g: Builder, hint: string, tensor: Tensor): Value {
  const value = g.newValue(hint, { kind: 'tensor', dtype: tensor.dtype, shape: tensor.dims });
  g.graph.inputs.push(value);
  g.graph.initializers.set(value, tensor);
  return value;
}

/** A graph output of its own, under a name that tells what it is. */
export function output(g: Builder, e: Expr, hint: string): Value {
  const value = g.rename(e, hint);
  g.graph.outputs.push(value);
  return value;
}
