/**
 * Control flow. The body of a backward pass runs the forward body again, from what was stored at the begin of
 * each iteration, and differentiates it.
 */

import { dtypeCode } from '../graph/dtype.js';
import { type Attr, type Graph, Node, type Value, type ValueType } from '../graph/ir.js';
import { prune } from '../graph/prune.js';
import { copyInto, scanAxis } from './core/bodies.js';
import { type Builder, toAttrs } from './core/builder.js';
import type { Expr } from './core/expr.js';
import type { NodeView, Operands, Pullback, Rule } from './core/rule.js';
import { outputOf } from './core/scan.js';
import { sumOf, zerosLike } from './core/sequence.js';
import { isDifferentiable, isSequence } from './core/types.js';

type Control = Rule<Operands, readonly (Expr | undefined)[]>;
type ControlNode = NodeView<Operands>;

/** The branch that was taken is run again and differentiated; what it does not read gets zeros. */
export const If: Control = (dys, node) => {
  const wanted = wantedCaptures(node);
  const branch = (name: string) => {
    const source = node.attrs.graph(name)!;
    const b = node.g.subgraph(`${name}_gradient`);
    const values = copyInto(b, source, new Map());
    const found = node.vjp(b, cotangentsOf(b, source.outputs, values, dys), wanted);
    b.graph.outputs = wanted.map((value, i) =>
      outputOf(b, (found[i] ?? zerosLike(b.of(value))).typed(value.type)),
    );
    prune(b.graph);
    return b.graph;
  };
  let results: Expr[] | undefined;
  const gradient = (value: Value) => {
    results ??= node.g.emit(
      'If',
      [node.inputs[0]],
      { then_branch: branch('then_branch'), else_branch: branch('else_branch') },
      { outputs: wanted.length, types: wanted.map(v => v.type) },
    );
    return results[wanted.indexOf(value)]!;
  };
  return [null, ...node.captures.map(v => (wanted.includes(v) ? () => gradient(v) : null))];
};

/** The iterations in reverse, each run again from its stacked states. */
export const Scan: Control = (dys, node) => {
  const body = node.attrs.graph('body')!;
  const count = node.attrs.int('num_scan_inputs', 0);
  const states = body.inputs.length - count;
  const axis = (name: string, i: number) => scanAxis(node.node, name, i);
  const outputs = [...body.outputs];
  const stacks = stackStates(node, body, body.inputs.slice(0, states));
  const scanned = node.inputs.slice(states).map((x, i) => ({
    x: x!,
    axis: axis('scan_input_axes', i),
    backwards: axis('scan_input_directions', i) === 1,
  }));
  const dOutputs = outputs.slice(states).map((_, k) => ({
    dy: dys[states + k],
    axis: axis('scan_output_axes', k),
    backwards: axis('scan_output_directions', k) === 1,
  }));
  return reverseIterations(node, body, {
    dStates: dys.slice(0, states),
    states: node.inputs.slice(0, states) as Expr[],
    stacks,
    scanned,
    outputs,
    dOutputs,
    fixed: new Map(),
    lead: 0,
  });
};

/** As for Scan; the number of iterations is that of the stacked states. */
export const Loop: Control = (dys, node) => {
  const body = node.attrs.graph('body')!;
  const carried = body.inputs.slice(2);
  const outputs = [...body.outputs];
  const dOutputs = outputs.slice(1 + carried.length).map((_, k) => dys[carried.length + k]);
  const [iterations] = stackStates(node, body, [body.inputs[0]!]);
  const stacks = carried.map(v => {
    if (isSequence(v.type)) return undefined;
    return v.shape?.every(d => d !== null) ? stackStates(node, body, [v])[0] : keepStates(node, body, v);
  });
  const truth = node.g.scalar(1, 'bool');
  return reverseIterations(node, body, {
    dStates: dys.slice(0, carried.length),
    states: node.inputs.slice(2) as Expr[],
    stacks,
    scanned: [],
    outputs,
    dOutputs: dOutputs.map(dy => ({ dy, axis: 0, backwards: false })),
    // An iteration that was run began with its condition true.
    fixed: new Map([[body.inputs[1]!, truth]]),
    counter: { input: body.inputs[0]!, stack: iterations! },
    lead: 2,
  });
};

type Along = { axis: number; backwards: boolean };

type Iterations = {
  /** Cotangents of the last states, and the states before the first iteration. */
  dStates: readonly (Expr | undefined)[];
  states: readonly Expr[];
  /** The states at the begin of each iteration, stacked or as a sequence; those of a sequence are not kept. */
  stacks: readonly (Expr | undefined)[];
  scanned: readonly (Along & { x: Expr })[];
  /** The body's outputs, and the cotangents of those that are stacked. */
  outputs: readonly Value[];
  dOutputs: readonly (Along & { dy?: Expr })[];
  /** Body inputs that are the same in every iteration. */
  fixed: ReadonlyMap<Value, Expr>;
  counter?: { input: Value; stack: Expr };
  /** Body and node inputs before the states; as many body outputs less one. */
  lead: number;
};

const TRUTH: ValueType = { kind: 'tensor', dtype: 'bool', shape: [] };

/** The pullbacks of a loop's operands, made of one loop over its iterations from the last to the first. */
function reverseIterations(node: ControlNode, body: Graph, spec: Iterations): Pullback[] {
  const { g } = node;
  const floating = spec.states.map(s => isDifferentiable(s.type));
  const bodyStates = body.inputs.slice(spec.lead, spec.lead + spec.states.length);
  const bodySlices = body.inputs.slice(spec.lead + bodyStates.length).slice(0, spec.scanned.length);
  const wanted = wantedCaptures(node);
  let run: { dStates: (Expr | undefined)[]; dSlices: (Expr | undefined)[]; dCaptures: Expr[] } | undefined;

  const results = () => {
    const b = g.subgraph('iteration_gradient');
    // A Loop may have done no iteration at all, which a Scan cannot: its backward pass is a Loop.
    const { counter } = spec;
    const round = counter && {
      iteration: b.input('iteration', counter.input.type),
      goOn: b.input('go_on', TRUTH),
    };
    const dState = spec.states.map((s, i) =>
      floating[i] ? b.input('dstate', bodyStates[i]!.type ?? s.type) : undefined,
    );
    const sums = wanted.map(v => b.input('dcapture', v.type));
    const values = new Map<Value, Value>();
    for (const [input, e] of spec.fixed) values.set(input, e.value);
    const inputs: (Along & { x: Expr })[] = [];
    const at = round && b.of(counter.stack.value).dims(0, 1).squeeze([0]).sub(1).sub(round.iteration);
    const slice = (type: ValueType | undefined, x: Expr, along: Along, hint: string) => {
      if (at)
        return (isSequence(x.type) ? b.of(x.value).op('SequenceAt', [at]) : b.of(x.value).gather(at)).typed(
          type,
        );
      inputs.push({ x, ...along });
      return b.input(hint, type);
    };
    const feed = (input: Value, x: Expr, along: Along) => {
      values.set(input, slice(input.type, x, along, 'slice').value);
    };
    // Slices come in the order of the iterations; the backward pass takes them from the last.
    const last = { axis: 0, backwards: true };
    if (counter) feed(counter.input, counter.stack, last);
    const lost = bodyStates.filter((_, i) => !spec.stacks[i]);
    for (const input of lost) values.set(input, b.newValue(input.name, input.type));
    for (const [i, input] of bodyStates.entries()) if (spec.stacks[i]) feed(input, spec.stacks[i], last);
    for (const [i, input] of bodySlices.entries()) feed(input, spec.scanned[i]!.x, turned(spec.scanned[i]!));
    const lead = Math.max(0, spec.lead - 1);
    const dOutputs = spec.dOutputs.map(({ dy, ...along }, k) => {
      if (!dy) return undefined;
      const { type } = spec.outputs[lead + bodyStates.length + k]!;
      return slice(type, dy, turned(along), 'dslice');
    });

    const copied = copyInto(b, body, values);
    const dys = [...Array(lead).fill(undefined), ...dState, ...dOutputs];
    const floats = [...bodyStates, ...bodySlices].filter(v => isDifferentiable(v.type));
    const cotangents = cotangentsOf(b, spec.outputs, copied, dys);
    // What an iteration adds to the cotangent of an outer value comes to what those before it did.
    for (const [i, v] of wanted.entries()) cotangents.set(v, sums[i]!);
    const found = node.vjp(b, cotangents, [...floats.map(v => values.get(v)!), ...wanted]);
    const of = (value: Value) => {
      const i = floats.indexOf(value);
      return i < 0 ? undefined : (found[i] ?? zerosLike(b.of(values.get(value)!))).typed(value.type);
    };
    const nextStates = bodyStates.flatMap(v => of(v) ?? []);
    const nextSums = wanted.map((v, i) => found[floats.length + i]!.typed(v.type));
    const slices = bodySlices.flatMap((v, i) =>
      isDifferentiable(v.type) ? [{ e: of(v)!, along: turned(spec.scanned[i]!) }] : [],
    );
    const results = [...(round ? [round.goOn] : []), ...nextStates, ...nextSums, ...slices.map(s => s.e)];
    b.graph.outputs = results.map(e => outputOf(b, e));
    const live = prune(b.graph);
    if (lost.some(v => live.has(values.get(v)!)))
      node.unsupported('a sequence that its body both changes and reads');

    const start = spec.states.flatMap((s, i) =>
      floating[i] ? [spec.dStates[i] ?? zerosLike(node.output(i, s.type))] : [],
    );
    const states = [...start, ...wanted.map(v => zerosLike(g.of(v)))];
    const scanAttrs = {
      num_scan_inputs: inputs.length,
      ...directions('scan_input', inputs),
      ...(slices.length
        ? directions(
            'scan_output',
            slices.map(s => s.along),
          )
        : {}),
    };
    const outs = g.emit(
      counter ? 'Loop' : 'Scan',
      counter
        ? [counter.stack.dims(0, 1).squeeze([0]), g.scalar(1, 'bool'), ...states]
        : [...states, ...inputs.map(i => i.x)],
      { body: b.graph, ...(counter ? {} : scanAttrs) },
      {
        outputs: start.length + wanted.length + slices.length,
        types: [
          ...spec.states.flatMap((s, i) => (floating[i] ? [s.type] : [])),
          ...wanted.map(v => v.type),
          ...spec.scanned.flatMap(({ x }) => (isDifferentiable(x.type) ? [x.type] : [])),
        ],
      },
    );
    const [first, second] = [start.length, start.length + wanted.length];
    return {
      dStates: spread(floating, outs.slice(0, first)),
      dCaptures: outs.slice(first, second),
      dSlices: spread(
        spec.scanned.map(({ x }) => isDifferentiable(x.type)),
        outs.slice(second),
      ),
    };
  };
  const made = () => {
    run ??= results();
    return run;
  };
  return [
    ...Array(spec.lead).fill(null),
    ...spec.states.map((_, i) => (floating[i] ? () => made().dStates[i]! : null)),
    ...spec.scanned.map(({ x }, i) => (isDifferentiable(x.type) ? () => made().dSlices[i]! : null)),
    ...node.captures.map(v => (wanted.includes(v) ? () => made().dCaptures[wanted.indexOf(v)]! : null)),
  ];
}

const turned = ({ axis, backwards }: Along): Along => ({ axis, backwards: !backwards });

function directions(prefix: string, along: readonly Along[]) {
  return {
    [`${prefix}_directions`]: along.map(a => (a.backwards ? 1 : 0)),
    [`${prefix}_axes`]: along.map(a => a.axis),
  };
}

/** Puts the elements of `some` where `at` says so. */
function spread<T>(at: readonly boolean[], some: readonly T[]): (T | undefined)[] {
  let next = 0;
  return at.map(here => (here ? some[next++] : undefined));
}

function wantedCaptures(node: ControlNode): Value[] {
  return node.captures.filter((v, i) => isDifferentiable(v.type) && node.needs(node.inputs.length + i));
}

/** Extends a loop so that it also gives the values of some of its body's inputs in every iteration, stacked. */
function stackStates({ node, g }: ControlNode, body: Graph, inputs: readonly Value[]): Expr[] {
  const more = ['scan_output_axes', 'scan_output_directions'].flatMap(name => {
    const attr = node.attrs.get(name);
    return attr?.type === 'ints' ? [[name, attr.value] as const] : [];
  });
  for (const [name, value] of more) {
    const longer: Attr = { type: 'ints', value: [...value, ...inputs.map(() => 0)] };
    node.attrs.set(name, longer);
  }
  return inputs.map(input => {
    const inner = g.newValue(`${input.name}_begin`, input.type);
    g.copy(input, inner, body.nodes);
    body.outputs.push(inner);
    const type =
      input.type?.kind === 'tensor'
        ? { ...input.type, shape: input.type.shape && [null, ...input.type.shape] }
        : undefined;
    const stack = g.newValue(`${input.name}_stack`, type);
    node.outputs.push(stack);
    return g.of(stack);
  });
}

/** The same for a Loop, as a sequence: one more value that it carries. Shapes may differ between iterations. */
function keepStates({ node, g }: ControlNode, body: Graph, input: Value): Expr {
  const carried = body.inputs.length - 2;
  const type: ValueType = { kind: 'sequence', elem: input.type! };
  const [none, before, after, kept] = ['none', 'before', 'after', 'kept'].map(hint =>
    g.newValue(`${input.name}_${hint}`, type),
  ) as [Value, Value, Value, Value];
  const start = new Node('SequenceEmpty', [], [none], toAttrs({ dtype: dtypeCode(input.dtype!) }));
  g.graph.nodes.splice(g.graph.nodes.indexOf(node), 0, start);
  body.nodes.push(new Node('SequenceInsert', [before, input], [after]));
  body.inputs.push(before);
  body.outputs.splice(1 + carried, 0, after);
  node.inputs.push(none);
  node.outputs.splice(carried, 0, kept);
  return g.of(kept);
}

/** The cotangents of the copies of a body's `outputs`; where two outputs are one value, their sum. */
function cotangentsOf(
  b: Builder,
  outputs: readonly Value[],
  values: ReadonlyMap<Value, Value>,
  dys: readonly (Expr | undefined)[],
): Map<Value, Expr> {
  const cotangents = new Map<Value, Expr>();
  outputs.forEach((output, i) => {
    const dy = dys[i];
    if (!dy || !isDifferentiable(output.type)) return;
    const value = values.get(output) ?? output;
    const here = b.of(dy.value);
    const known = cotangents.get(value);
    cotangents.set(value, known ? sumOf(known, here) : here);
  });
  return cotangents;
}
