import type { Dim, Value, ValueType } from '../../graph/ir.js';
import type { Builder } from './builder.js';
import type { Expr } from './expr.js';

export type ScanSpec = {
  /** Values that are carried from step to step, as they are before the first. */
  states: readonly Expr[];
  /** Values that are cut along their first axis, a slice a step. */
  inputs: readonly Expr[];
  /** From the last slice to the first; what is stacked then is so too. */
  reverse?: boolean;
  /** One step, on expressions of the body's own graph; outer values are read with `b.of`. */
  body(
    b: Builder,
    states: readonly Expr[],
    slices: readonly Expr[],
  ): { states: readonly Expr[]; outputs: readonly Expr[] };
};

/** A loop over the first axis: the states after the last step, and the steps' outputs stacked along a new first axis. */
export function scan(
  g: Builder,
  { states, inputs, reverse, body }: ScanSpec,
): { states: Expr[]; outputs: Expr[] } {
  const b = g.subgraph('scan_body');
  const carried = states.map(s => b.input('state', s.type));
  const slices = inputs.map(x => b.input('slice', sliceType(x)));
  const step = body(b, carried, slices);
  b.graph.outputs = [...step.states, ...step.outputs].map(e => outputOf(b, e));
  const count = inputs.length;
  const way = (n: number) => (reverse ? Array(n).fill(1) : undefined);
  const length = inputs[0]!.extent(0);
  const results = g.emit(
    'Scan',
    [...states, ...inputs],
    {
      body: b.graph,
      num_scan_inputs: count,
      scan_input_directions: way(count),
      scan_output_directions: step.outputs.length ? way(step.outputs.length) : undefined,
    },
    {
      outputs: states.length + step.outputs.length,
      types: [...states.map(s => s.type), ...step.outputs.map(e => stackType(e, length))],
    },
  );
  return { states: results.slice(0, states.length), outputs: results.slice(states.length) };
}

/** Outputs of a body are distinct values that its own nodes write. */
export function outputOf(b: Builder, e: Expr): Value {
  const value = b.newValue('output', e.type);
  b.identity(e.value, value);
  return value;
}

function sliceType({ type }: Expr): ValueType | undefined {
  return type?.kind === 'tensor' ? { ...type, shape: type.shape?.slice(1) } : type;
}

function stackType({ type }: Expr, length: Dim): ValueType | undefined {
  return type?.kind === 'tensor' ? { ...type, shape: type.shape && [length, ...type.shape] } : type;
}
