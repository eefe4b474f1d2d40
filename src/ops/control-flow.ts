/**
 * Control flow. The body of a backward pass runs the forward body again, from what was stored at the begin of
 * each iteration, and differentiates it.
 */
import { dtypeCode } from '../graph/dtype.js';
import { type Attr, type Graph, Node, type Value, type ValueType } from '../graph/ir.js';
import { copyInto, randomNodes, scanAxis, stackType } from './core/bodies.js';
import { type Builder, toAttrs } from './core/builder.js';
import type { Expr } from './core/expr.js';
import type { NodeView, Operands, Pullback, Rule } from './core/rule.js';
import { type Along, finish, loop, type State, scanAlong } from './core/scan.js';
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
    const seeds = source.outputs.map((v, i) => [v, dys[i]] as const);
    const found = node.vjp(b, cotangentsOf(b, values, seeds), wanted);
    finish(
      b,
      wanted.map((value, i) => (found[i] ?? zerosLike(b.of(value))).typed(value.type)),
    );
    // With a seed, both runs of the branch draw the same.
    refuseRandom(node, b.graph, drawn => !drawn.attrs.has('seed'));
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
  const states = body.inputs.length - node.attrs.int('num_scan_inputs', 0);
  const along = (prefix: string, i: number): Along => ({
    axis: scanAxis(node.node, `${prefix}_axes`, i),
    backwards: scanAxis(node.node, `${prefix}_directions`, i) === 1,
  });
  const outputs = [...body.outputs];
  const last = lastStates(node, outputs);
  const stacks = stackStates(node, body, body.inputs.slice(0, states));
  const result = reverseIterations(node, body, {
    states: stacks.map((stack, i) => ({
      ...{ input: body.inputs[i]!, output: outputs[i]!, last: last[i]! },
      ...{ dLast: dys[i], stack },
    })),
    scanned: body.inputs.slice(states).map((input, i) => {
      return { input, x: node.inputs[states + i]!, ...along('scan_input', i) };
    }),
    stacked: outputs.slice(states).map((output, i) => {
      return { output, dy: dys[states + i], ...along('scan_output', i) };
    }),
  });
  return [...result.states, ...result.scanned, ...result.captures];
};

/** As for Scan; the number of iterations is that of the stacked ones. */
export const Loop: Control = (dys, node) => {
  const body = node.attrs.graph('body')!;
  const [iteration, goesOn, ...carried] = body.inputs as [Value, Value, ...Value[]];
  const outputs = body.outputs.slice(1);
  const last = lastStates(node, outputs);
  const states = carried.map((input, i) => ({ input, output: outputs[i]!, last: last[i]!, dLast: dys[i] }));
  const stacked = outputs.slice(carried.length).map((output, i) => {
    return { output, dy: dys[carried.length + i], ...FIRST_TO_LAST };
  });
  const [iterations] = stackStates(node, body, [iteration]);
  const stackOf = (v: Value) => {
    if (isSequence(v.type)) return undefined;
    return v.shape?.every(d => d !== null) ? stackStates(node, body, [v])[0] : keepStates(node, body, v);
  };
  const result = reverseIterations(node, body, {
    states: states.map(s => {
      const elements = appends(body, s);
      return { ...s, appends: elements, stack: elements === undefined ? stackOf(s.input) : undefined };
    }),
    scanned: [],
    stacked,
    loop: { iteration, goesOn, count: iterations!.dims(0, 1).squeeze([0]) },
  });
  return [null, null, ...result.states, ...result.captures];
};

const FIRST_TO_LAST: Along = { axis: 0, backwards: false };
const turned = ({ axis, backwards }: Along): Along => ({ axis, backwards: !backwards });

/** A value that a body carries: its input and output there, the last one and its cotangent. */
type Carried = { input: Value; output: Value; last: Expr; dLast?: Expr };

type Iterations = {
  /** With what they were at the begin of each iteration, stacked or as a sequence, or how many elements each appended. */
  states: readonly (Carried & { stack?: Expr; appends?: number })[];
  scanned: readonly (Along & { input: Value; x: Expr })[];
  stacked: readonly (Along & { output: Value; dy?: Expr })[];
  /** Where it is a Loop: the other inputs of its body, and how many iterations it did. */
  loop?: { iteration: Value; goesOn: Value; count: Expr };
};

/** The pullbacks of a loop's operands, made of one loop over its iterations from the last to the first. */
function reverseIterations(node: ControlNode, body: Graph, spec: Iterations) {
  const wanted = wantedCaptures(node);
  const states = spec.states.filter(s => isDifferentiable(s.input.type));
  const scanned = spec.scanned.filter(s => isDifferentiable(s.input.type));
  let made: ReturnType<typeof backwardLoop> | undefined;
  const results = () => {
    made ??= backwardLoop(node, body, spec, { states, scanned, wanted });
    return made;
  };
  const pullbacks = <T>(all: readonly T[], some: readonly T[], from: (i: number) => Expr): Pullback[] =>
    all.map(x => (some.includes(x) ? () => from(some.indexOf(x)) : null));
  return {
    states: pullbacks(spec.states, states, i => results().states[i]!),
    scanned: pullbacks(spec.scanned, scanned, i => results().outputs[i]!),
    captures: pullbacks(node.captures, wanted, i => results().states[states.length + i]!),
  };
}

/** What of a loop is differentiated. */
type Differentiated = {
  states: Iterations['states'];
  scanned: Iterations['scanned'];
  wanted: readonly Value[];
};

/**
 * The loop of the backward pass. It carries the cotangents of the states, those of outer values, and sequences that
 * are shortened again. (A Loop may have done no iteration at all, which a Scan cannot: its backward pass is a Loop.)
 */
function backwardLoop(node: ControlNode, body: Graph, spec: Iterations, of: Differentiated) {
  const { g } = node;
  const kept = spec.states.filter(s => s.stack);
  const undone = spec.states.filter(s => s.appends !== undefined);
  const lost = spec.states.filter(s => !s.stack && s.appends === undefined);
  const missing = lost.map(({ input }) => g.newValue(input.name, input.type));
  const cotangents = spec.stacked.filter(s => s.dy);
  const carried: State[] = [
    ...of.states.map(s => ({ start: s.dLast ?? zerosLike(s.last), type: s.input.type })),
    ...of.wanted.map(v => ({ start: zerosLike(g.of(v)), type: v.type })),
    ...undone.map(s => ({ start: s.last, type: s.input.type })),
  ];
  // Slices come in the order of the iterations; the backward pass takes them from the last.
  const inputs = [
    ...kept.map(s => ({ x: s.stack!, ...turned(FIRST_TO_LAST) })),
    ...spec.scanned.map(s => ({ x: s.x, ...turned(s) })),
    ...cotangents.map(s => ({ x: s.dy!, ...turned(s) })),
  ];
  const sliced = [
    ...kept.map(s => s.input),
    ...spec.scanned.map(s => s.input),
    ...cotangents.map(s => s.output),
  ];

  const step = (b: Builder, values: Map<Value, Value>, now: readonly Expr[], slices: readonly Expr[]) => {
    const primals = kept.length + spec.scanned.length;
    const [dStates, sums, longer] = [
      now.slice(0, of.states.length),
      now.slice(of.states.length, of.states.length + of.wanted.length),
      now.slice(of.states.length + of.wanted.length),
    ];
    slices.forEach((e, i) => {
      e.typed(sliced[i]!.type);
      if (i < primals) values.set(sliced[i]!, e.value);
    });
    lost.forEach(({ input }, i) => {
      values.set(input, missing[i]!);
    });
    const shorter = undone.map((s, i) => {
      const e = Array.from({ length: s.appends! }).reduce<Expr>(e => e.op('SequenceErase'), longer[i]!);
      values.set(s.input, e.value);
      return e;
    });
    copyInto(b, body, values);
    const seeds = cotangentsOf(b, values, [
      ...of.states.map((s, i) => [s.output, dStates[i]!] as const),
      ...cotangents.map((s, i) => [s.output, slices[primals + i]!] as const),
      // What an iteration adds to the cotangent of an outer value comes to what those before it did.
      ...of.wanted.map((v, i) => [v, sums[i]!] as const),
    ]);
    const inner = [...of.states, ...of.scanned].map(s => s.input);
    const found = node.vjp(b, seeds, [...inner.map(v => values.get(v)!), ...of.wanted]);
    const gradient = (v: Value, i: number) => (found[i] ?? zerosLike(b.of(values.get(v) ?? v))).typed(v.type);
    const all = [...inner, ...of.wanted].map(gradient);
    const [first, second] = [of.states.length, inner.length];
    return {
      states: [...all.slice(0, first), ...all.slice(second), ...shorter],
      outputs: all.slice(first, second).map((y, i) => ({ y, ...turned(of.scanned[i]!) })),
    };
  };

  const { loop: forward } = spec;
  const results = forward
    ? loopBack(g, forward, carried, inputs, (b, values, now, slices) => step(b, values, now, slices).states)
    : scanAlong(g, carried, inputs, (b, now, slices) => step(b, new Map(), now, slices));
  if (results.body.captures().some(v => missing.includes(v)))
    node.unsupported('a sequence that its body both changes and reads');
  refuseRandom(node, results.body, () => true);
  return results;
}

/** Throws where a backward pass reads what was drawn at random: running the forward body again draws something else. */
function refuseRandom(node: ControlNode, backward: Graph, drawsAnew: (drawn: Node) => boolean): void {
  const drawn = randomNodes(backward, node.g).find(drawsAnew);
  if (drawn) node.unsupported(`random numbers in its body, which ${drawn.label} would draw anew for it`);
}

/** A loop over the iterations of a Loop from the last to the first, with slices of the inputs. */
function loopBack(
  g: Builder,
  { iteration, goesOn, count }: NonNullable<Iterations['loop']>,
  carried: readonly State[],
  inputs: readonly { x: Expr }[],
  step: (
    b: Builder,
    values: Map<Value, Value>,
    now: readonly Expr[],
    slices: readonly Expr[],
  ) => readonly Expr[],
) {
  // An iteration that was run began with its condition true.
  const truth = g.scalar(1, 'bool').value;
  return loop(g, count, carried, (b, i, now) => {
    const at = b.of(count.value).sub(1).sub(i);
    const slices = inputs.map(({ x: { value, type } }) =>
      isSequence(type) ? b.of(value).op('SequenceAt', [at]) : b.of(value).gather(at),
    );
    return step(
      b,
      new Map([
        [goesOn, truth],
        [iteration, at.value],
      ]),
      now,
      slices,
    );
  });
}

/**
 * How many elements an iteration puts at the end of a sequence that it carries and reads, where it changes it in no
 * other way: the sequence is had again by taking them off. 0 for a value that stays the same.
 */
function appends(body: Graph, { input, output }: Carried): number | undefined {
  const chain = new Set<Node>();
  let at = output;
  while (at !== input) {
    const node = body.nodes.find(n => n.outputs.includes(at));
    if (!node || !(node.opType === 'Identity' || (node.opType === 'SequenceInsert' && !node.inputs[2])))
      return undefined;
    chain.add(node);
    at = node.inputs[0]!;
  }
  const forms = new Set([input, ...[...chain].flatMap(n => n.outputs)]);
  const reads = (n: Node) =>
    [...n.inputs, ...n.subgraphs().flatMap(sub => sub.captures())].some(v => forms.has(v));
  if (!body.nodes.some(n => !chain.has(n) && reads(n))) return undefined;
  return [...chain].filter(n => n.opType === 'SequenceInsert').length;
}

/** What a loop's outputs are at its end; those that were omitted are added. */
function lastStates(node: ControlNode, outputs: readonly Value[]): Expr[] {
  return outputs.map((v, i) => node.output(i, v.type));
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
    const stack = g.newValue(`${input.name}_stack`, stackType(input.type));
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

/** The cotangents of the copies of a body's values; where two are one value, their sum. */
function cotangentsOf(
  b: Builder,
  values: ReadonlyMap<Value, Value>,
  seeds: readonly (readonly [Value, Expr | undefined])[],
): Map<Value, Expr> {
  const cotangents = new Map<Value, Expr>();
  for (const [original, dy] of seeds) {
    if (!dy || !isDifferentiable(original.type)) continue;
    const value = values.get(original) ?? original;
    const here = b.of(dy.value);
    const known = cotangents.get(value);
    cotangents.set(value, known ? sumOf(known, here) : here);
  }
  return cotangents;
}
