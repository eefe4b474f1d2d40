import type { Graph, ValueType } from '../../graph/ir.js';
import { prune } from '../../graph/prune.js';
import { sliceType, stackType } from './bodies.js';
import type { Builder } from './builder.js';
import type { Expr } from './expr.js';

/** A value that is carried from step to step: what it is before the first, and the type that it keeps. */
export type State = { start: Expr; type: ValueType | undefined };

/** How a tensor is cut into the slices of the steps, or put together of them. */
export type Along = { axis: number; backwards: boolean };

/** With the graph of the step. */
type Results = { states: Expr[]; outputs: Expr[]; body: Graph };

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

/** What a Scan leaves out where it is the default. */
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
  const goOn = b.input('go_on', { kind: 'tensor', dtype: 'bool', shape: [] });
  const carried = states.map(s => b.input('state', s.type));
  finish(b, [goOn, ...body(b, i, carried)]);
  const results = g.emit(
    'Loop',
    [count, g.scalar(1, 'bool'), ...states.map(s => s.start)],
    { body: b.graph },
    { outputs: states.length, types: states.map(s => s.type) },
  );
  return { states: results, outputs: [], body: b.graph };
}

/** Ends a subgraph with these outputs: distinct values that its own nodes write. */
export function finish(b: Builder, outputs: readonly Expr[]): void {
  b.graph.outputs = outputs.map(e => b.rename(e, 'output'));
  prune(b.graph);
}
