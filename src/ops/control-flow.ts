/**
 * Control flow. The body of a backward pass recomputes the forward body from the values stored at the start of each
 * iteration, and differentiates it.
 */
import { reads } from '../graph/dependents.js';
import { dtypeCode } from '../graph/dtype.js';
import { type Attr, type Graph, Node, type Value, type ValueType } from '../graph/ir.js';
import { copyInto, randomNodes, scanAxis, stackType } from './core/bodies.js';
import { Builder, toAttrs } from './core/builder.js';
import type { Expr } from './core/expr.js';
import type { NodeView, Operands, Pullback, Rule } from './core/rule.js';
import { type Along, finish, loop, type State, scanAlong } from './core/scan.js';
import { elementOf, sumOf, zerosLike } from './core/sequence.js';
import { isDifferentiable, isSequence } from './core/types.js';

type Control = Rule<Operands, readonly (Expr | undefined)[]>;
type ControlNode = NodeView<Operands>;

/** The branch that was taken is recomputed and differentiated. Values that it does not read get zeros. */
export const If: Control = (dys, node) => {
  const wanted = wantedCaptures(node);
  const branch = (name: string) => {
    const source = node.attrs.graph(name)!;
    const b = node.g.subgraph(`${name}_gradient`);
    const values = copyInto(b, source, new Map());
    // A branch whose output has another rank is not the one that was taken.
    const seeds = source.outputs.map((v, i) => [v, sameRank(v, dys[i]) ? dys[i] : undefined] as const);
    const found = node.vjp(b, cotangentsOf(b, values, seeds), wanted);
    finish(
      b,
      wanted.map((value, i) => (found[i] ?? zerosLike(b.of(value))).typed(value.type)),
    );
    // With a seed, both runs of the branch draw the same numbers.
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

const sameRank = ({ shape }: Value, dy: Expr | undefined) =>
  !shape || !dy?.shape || shape.length === dy.shape.length;

/** The iterations in reverse order, each recomputed from its stacked states. */
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
      input: body.inputs[i]!,
      output: outputs[i]!,
      last: last[i]!,
      dLast: dys[i],
      stack: { x: stack },
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

/** As for Scan. The number of iterations is that of the stacked states. */
export const Loop: Control = (dys, node) => {
  const body = node.attrs.graph('body')!;
  const [iteration, condition, ...carried] = body.inputs as [Value, Value, ...Value[]];
  const outputs = body.outputs.slice(1);
  const last = lastStates(node, outputs);
  const states = carried.map((input, i) => ({ input, output: outputs[i]!, last: last[i]!, dLast: dys[i] }));
  const stacked = outputs.slice(carried.length).map((output, i) => {
    return { output, dy: dys[carried.length + i], ...FIRST_TO_LAST };
  });
  const [iterations] = stackStates(node, body, [iteration]);
  const result = reverseIterations(node, body, {
    states: states.map(s => ({ ...s, ...keep(node, body, s) })),
    scanned: [],
    stacked,
    loop: { iteration, condition, count: iterations!.dims(0, 1).squeeze([0]) },
  });
  return [null, null, ...result.states, ...result.captures];
};

const FIRST_TO_LAST: Along = { axis: 0, backwards: false };
const turned = ({ axis, backwards }: Along): Along => ({ axis, backwards: !backwards });

/** A loop-carried value: its input and output in the body, its final value and the cotangent of that. */
type Carried = { input: Value; output: Value; last: Expr; dLast?: Expr };

/**
 * How a carried value is reconstructed as it was at the start of each iteration: from a stack, from a sequence that
 * contains the elements of its sequences in order, with their number in `lengths`, or by removing the elements that an
 * iteration appended. Both are undefined if it is not needed.
 */
type Kept = { stack?: { x: Expr; lengths?: Expr }; appends?: number };

type Iterations = {
  states: readonly (Carried & Kept)[];
  scanned: readonly (Along & { input: Value; x: Expr })[];
  stacked: readonly (Along & { output: Value; dy?: Expr })[];
  /** For a Loop: the other inputs of its body, and its number of iterations. */
  loop?: { iteration: Value; condition: Value; count: Expr };
};

/** The pullbacks of a loop's operands, computed by one loop over its iterations from the last to the first. */
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

/** The parts of a loop that are differentiated. */
type Differentiated = {
  states: Iterations['states'];
  scanned: Iterations['scanned'];
  wanted: readonly Value[];
};

/**
 * The loop of the backward pass. It carries the cotangents of the states and of outer values, and the sequences from
 * which elements are removed. (Unlike a Scan, a Loop may have had no iteration, so that its backward pass must be a
 * Loop.)
 */
function backwardLoop(node: ControlNode, body: Graph, spec: Iterations, of: Differentiated) {
  const { g } = node;
  const kept = spec.states.filter(s => s.stack);
  const undone = spec.states.filter(s => s.appends !== undefined);
  const cotangents = spec.stacked.filter(s => s.dy);
  const carried: State[] = [
    ...of.states.map(s => ({ start: s.dLast ?? zerosLike(s.last), type: s.input.type })),
    ...of.wanted.map(v => ({ start: zerosLike(g.of(v)), type: v.type })),
    ...undone.map(s => ({ start: s.last, type: s.input.type })),
  ];
  // Slices are in the order of the iterations; the backward pass reads them from the last to the first.
  const inputs = [
    ...kept.map(s => ({ ...s.stack!, ...turned(FIRST_TO_LAST) })),
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
    const shorter = undone.map((s, i) => {
      const e = Array.from({ length: s.appends! }).reduce<Expr>(e => e.op('SequenceErase'), longer[i]!);
      values.set(s.input, e.value);
      return e;
    });
    copyInto(b, body, values);
    const seeds = cotangentsOf(b, values, [
      ...of.states.map((s, i) => [s.output, dStates[i]!] as const),
      ...cotangents.map((s, i) => [s.output, slices[primals + i]!] as const),
      // The cotangent of an outer value is the sum over all iterations.
      ...of.wanted.map((v, i) => [v, sums[i]!] as const),
    ]);
    const inner = [...of.states, ...of.scanned].map(s => s.input);
    const wrt = [...inner, ...of.wanted].map(v => values.get(v) ?? v);
    const found = node.vjp(b, seeds, wrt);
    const all = wrt.map((v, i) => (found[i] ?? zerosLike(b.of(v))).typed(v.type));
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
  refuseRandom(node, results.body, () => true);
  return results;
}

/** Throws if a backward pass reads random numbers: recomputing the forward body would draw others. */
function refuseRandom(node: ControlNode, backward: Graph, drawsAnew: (drawn: Node) => boolean): void {
  const drawn = randomNodes(backward, node.g).find(drawsAnew);
  if (drawn) node.unsupported(`random numbers in its body, which ${drawn.label} would draw anew for it`);
}

/** A loop over the iterations of a Loop from the last to the first, with slices of the inputs. */
function loopBack(
  g: Builder,
  { iteration, condition, count }: NonNullable<Iterations['loop']>,
  carried: readonly State[],
  inputs: readonly { x: Expr; lengths?: Expr }[],
  step: (
    b: Builder,
    values: Map<Value, Value>,
    now: readonly Expr[],
    slices: readonly Expr[],
  ) => readonly Expr[],
) {
  // The condition was true at the start of every iteration that ran.
  const truth = g.scalar(1, 'bool').value;
  return loop(g, count, carried, (b, i, now) => {
    const at = b.of(count.value).sub(1).sub(i);
    const slices = inputs.map(({ x, lengths }) => {
      if (lengths) return part(b.of(x.value), b.of(lengths.value), at);
      return isSequence(x.type) ? b.of(x.value).op('SequenceAt', [at]) : b.of(x.value).gather(at);
    });
    return step(
      b,
      new Map([
        [condition, truth],
        [iteration, at.value],
      ]),
      now,
      slices,
    );
  });
}

/** Extends a Loop so that a carried value can be reconstructed, unless the backward pass does not read it. */
function keep(node: ControlNode, body: Graph, state: Carried): Kept {
  const { input } = state;
  const inserts = insertions(body, state);
  if (inserts && !isReadBeside(body, input, inserts)) return isSequence(input.type) ? {} : { appends: 0 };
  if (inserts?.every(n => !n.inputs[2])) return { appends: inserts.filter(n => n.inputs[1]).length };
  if (isSequence(input.type)) return { stack: keepElements(node, body, input) };
  if (input.shape?.every(d => d !== null)) return { stack: { x: stackStates(node, body, [input])[0]! } };
  const grow = (b: Builder, kept: Expr) => kept.op('SequenceInsert', [b.of(input)]);
  return { stack: { x: carrySequence(node, body, input.type!, grow) } };
}

/** The nodes that compute the next value from a carried sequence, if all they do is insert elements. */
function insertions(body: Graph, { input, output }: Carried): Node[] | undefined {
  const chain: Node[] = [];
  for (let at = output; at !== input; at = chain.at(-1)!.inputs[0]!) {
    const node = body.nodes.find(n => n.outputs.includes(at));
    if (node?.opType !== 'Identity' && node?.opType !== 'SequenceInsert') return undefined;
    chain.push(node);
  }
  return chain;
}

function isReadBeside(body: Graph, input: Value, chain: readonly Node[]): boolean {
  const forms = new Set([input, ...chain.flatMap(n => n.outputs)]);
  return body.nodes.some(n => !chain.includes(n) && reads(n).some(v => forms.has(v)));
}

/** The final values of a loop's outputs; omitted outputs are added. */
function lastStates(node: ControlNode, outputs: readonly Value[]): Expr[] {
  return outputs.map((v, i) => node.output(i, v.type));
}

function wantedCaptures(node: ControlNode): Value[] {
  return node.captures.filter((v, i) => isDifferentiable(v.type) && node.needs(node.inputs.length + i));
}

/** Extends a loop so that it also outputs the values of some of its body's inputs, stacked over the iterations. */
function stackStates({ node, g }: ControlNode, body: Graph, inputs: readonly Value[]): Expr[] {
  const more = ['scan_output_axes', 'scan_output_directions'].flatMap(name => {
    const attr = node.attrs.get(name);
    return attr?.type === 'ints' ? [[name, attr.value] as const] : [];
  });
  for (const [name, value] of more) {
    const longer: Attr = { type: 'ints', value: [...value, ...inputs.map(() => 0)] };
    node.setAttr(name, longer);
  }
  return inputs.map(input => {
    const inner = g.newValue(`${input.name}_begin`, input.type);
    body.append(new Node('Identity', [input], [inner]));
    body.addOutputs(inner);
    const stack = g.newValue(`${input.name}_stack`, stackType(input.type));
    node.setOutput(node.outputs.length, stack);
    return g.of(stack);
  });
}

/** Adds a loop-carried value to a Loop: an initially empty sequence that `grow` extends in each iteration. */
function carrySequence(
  { node, g }: ControlNode,
  body: Graph,
  elem: ValueType,
  grow: (b: Builder, kept: Expr) => Expr,
): Expr {
  const carried = body.inputs.length - 2;
  const type: ValueType = { kind: 'sequence', elem };
  const [none, kept] = ['none', 'kept'].map(hint => g.newValue(hint, type)) as [Value, Value];
  const attrs = toAttrs({ dtype: elem.kind === 'tensor' ? dtypeCode(elem.dtype) : undefined });
  const start = new Node('SequenceEmpty', [], [none], attrs);
  g.graph.insertBefore(node, start);
  const b = new Builder(body, g.scope, g);
  body.outputs = body.outputs.toSpliced(1 + carried, 0, grow(b, b.input('kept', type)).typed(type).value);
  node.inputs = [...node.inputs, none];
  node.outputs = node.outputs.toSpliced(carried, 0, kept);
  return g.of(kept);
}

/** Makes a Loop output the elements that a sequence has at the start of each iteration, in order. */
function keepElements(node: ControlNode, body: Graph, sequence: Value): { x: Expr; lengths: Expr } {
  const count = new Builder(body, node.g.scope, node.g).of(sequence).op('SequenceLength');
  const [lengths] = stackStates(node, body, [count.value]);
  const x = carrySequence(node, body, elementOf(count.g.of(sequence)), (b, kept) => {
    const read = (c: Builder, i: Expr) => c.of(sequence).op('SequenceAt', [i]);
    return appendAll(kept, b.of(count.value), read);
  });
  return { x, lengths: lengths! };
}

/** The sequence of one iteration, taken from the elements of all iterations. */
function part(elements: Expr, lengths: Expr, at: Expr): Expr {
  const { g } = elements;
  const begin = lengths.slice(g.ints([0]), at.unsqueeze([0]), [0]).sum([0]);
  const [none] = g.emit('SequenceEmpty', [], { dtype: dtypeCode(elementOf(elements).dtype) });
  const read = (b: Builder, i: Expr) => b.of(elements.value).op('SequenceAt', [b.of(begin.value).add(i)]);
  return appendAll(none!, lengths.gather(at), read, elements.type);
}

/** A sequence extended by `count` elements, each returned by `read`. */
function appendAll(
  start: Expr,
  count: Expr,
  read: (b: Builder, i: Expr) => Expr,
  type: ValueType | undefined = start.type,
): Expr {
  const step = (b: Builder, i: Expr, [made]: readonly Expr[]) => [
    made!.op('SequenceInsert', [read(b, i)]).typed(type),
  ];
  return loop(start.g, count, [{ start, type }], step).states[0]!;
}

/** The cotangents of the copies of a body's values, summed if two copies are the same value. */
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
