import type { Graph, ValueType } from '../../graph/ir.js';
import { prune } from '../../graph/prune.js';
import { sliceType, stackType } from './bodies.js';
import type { Builder } from './builder.js';
import type { Expr } from './expr.js';

/** A loop-carried value: its value before the first step, and its fixed type. */
export type State = { start: Expr; type: ValueType | undefined };

/** How a tensor is split into slices for the steps, or stacked from them. */
export type Along = { axis: number; backwards: boolean };

/** With the body's graph. */
type Results = { states: Expr[]; outputs: Expr[]; body: Graph };

export type ScanSpec = {
  /** Initial values of the loop-carried values. */
  states: readonly Expr[];
  /** Values that are sliced along their first axis, one slice per step. */
  inputs: readonly Expr[];
  /** From the last slice to the first; stacked outputs are in that order too. */
  reverse?: boolean;
  /** One step, on expressions of the body's own graph; outer values are read with `b.of`. */
  body(
    b: Builder,
    states: readonly Expr[],
    slices: readonly Expr[],
  ): { states: readonly Expr[]; outputs: readonly Expr[] };
};

/** A loop over the first axis: the states after the last step, and the steps' outputs stacked along a new first axis. */
export function scan(g: Builder, { states, inputs, reverse = false, body }: ScanSpec): Results {
  const way = { axis: 0, backwards: reverse };
  return scanAlong(
    g,
    states.map(start => ({ start, type: start.type })),
    inputs.map(x => ({ x, ...way })),
    (b, carried, slices) => {
      const step = body(b, carried, slices);
      return { states: step.states, outputs: step.outputs.map(y => ({ y, ...way })) };
    },
  );
}

/** The same along any axes, each tensor from its first slice to the last or backwards. */
export function scanAlong(
  g: Builder,
  states: readonly State[],
  inputs: readonly (Along & { x: Expr })[],
  body: (
    b: Builder,
    states: readonly Expr[],
    slices: readonly Expr[],
  ) => { states: readonly Expr[]; outputs: readonly (Along & { y: Expr })[] },
): Results {
  const b = g.subgraph('scan_body');
  const carried = states.map(s => b.input('state', s.type));
  const slices = inputs.map(({ x, axis }) => b.input('slice', sliceType(x.type, axis)));
  const step = body(b, carried, slices);
  finish(b, [...step.states, ...step.outputs.map(o => o.y)]);
  const [first] = inputs;
  const length = first ? first.x.extent(first.axis) : null;
  const results = g.emit(
    'Scan',
    [...states.map(s => s.start), ...inputs.map(i => i.x)],
    {
      body: b.graph,
      num_scan_inputs: inputs.length,
      ...directions('scan_input', inputs),
      ...directions('scan_output', step.outputs),
    },
    {
      outputs: states.length + step.outputs.length,
      types: [...states.map(s => s.type), ...step.outputs.map(o => stackType(o.y.type, o.axis, length))],
    },
  );
  return { states: results.slice(0, states.length), outputs: results.slice(states.length), body: b.graph };
}

/** Scan attributes that are omitted at their default. */
function directions(prefix: string, along: readonly Along[]) {
  return {
    [`${prefix}_directions`]: along.some(a => a.backwards)
      ? along.map(a => (a.backwards ? 1 : 0))
      : undefined,
    [`${prefix}_axes`]: along.some(a => a.axis) ? along.map(a => a.axis) : undefined,
  };
}

/** `count` steps, numbered from 0: the states after the last of them. */
export function loop(
  g: Builder,
  count: Expr,
  states: readonly State[],
  body: (b: Builder, i: Expr, states: readonly Expr[]) => readonly Expr[],
): Results {
  const b = g.subgraph('loop_body');
  const i = b.input('iteration', { kind: 'tensor', dtype: 'int64', shape: [] });
  const condition = b.input('go_on', { kind: 'tensor', dtype: 'bool', shape: [] });
  const carried = states.map(s => b.input('state', s.type));
  finish(b, [condition, ...body(b, i, carried)]);
  const results = g.emit(
    'Loop',
    [count, g.scalar(1, 'bool'), ...states.map(s => s.start)],
    { body: b.graph },
    { outputs: states.length, types: states.map(s => s.type) },
  );
  return { states: results, outputs: [], body: b.graph };
}

/** Completes a subgraph with these outputs, made distinct values that its own nodes write. */
export function finish(b: Builder, outputs: readonly Expr[]): void {
  b.graph.outputs = outputs.map(e => b.rename(e, 'output'));
  prune(b.graph);
}
