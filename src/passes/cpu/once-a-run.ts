import { type DType, isFloat } from '../../graph/dtype.js';
import { type Graph, type Model, Node, Value } from '../../graph/ir.js';
import { Names } from '../../graph/names.js';
import { moveTypes } from '../../graph/proto/codec.js';
import { prune } from '../../graph/prune.js';
import { Builder, RANDOM } from '../../ops/core/builder.js';
import type { Expr } from '../../ops/core/expr.js';
import { inferTypes } from '../../ops/core/infer.js';
import { Attributes } from '../../ops/core/rule.js';
import { constantsOf } from '../common/rewrite-nodes.js';
import { reshapeState } from '../run/hoist-reshapes.js';

/** Of larger tensors, some are computed in the memory of others, and all would be there for the whole run. */
const MOST = 2 ** 16;
/** An extent of a batch that is not known. */
const USUAL = 32;

/** The runtime computes an element of these in the same way whether it is alone or one of many. */
const EXACT = new Set(
  (
    'Abs Add And Cast Div Equal Floor Greater GreaterOrEqual Identity Less LessOrEqual Max Min Mod Mul Neg Not Or Pow ' +
    'Sqrt Sub Where'
  ).split(' '),
);
const EXACT_TYPES: ReadonlySet<DType | undefined> = new Set(['float32', 'float64', 'int64', 'int32', 'bool']);

/**
 * Takes out of the Scan over steps what its steps need not do, with the same results: what is the same in all of them (such as
 * extents of a batch, and what follows from them) is computed before it, scalars that follow from the number of the step
 * are computed for all steps as vectors, of which each step gets its element, and states that are worked on as one vector
 * are one from step to step. Each node costs a step at least a microsecond, whatever its size. `model` is that of `scanSteps`;
 * changes its nodes.
 */
export function onceARun(model: Model): void {
  const { graph } = model;
  const scan = graph.nodes.find(node => node.opType === 'Scan' && !node.domain);
  if (!scan) return;
  const [body] = scan.subgraphs() as [Graph];
  const g = new Builder(graph, { names: Names.of(model), opsets: model.opsetImports });
  g.forget(graph.inputs);
  const [before, after]: Node[][] = [[], []];
  g.into(before, () => {
    const fixed = takeFixed(g, scan, body);
    takeCounted(g, scan, body, fixed);
  });
  const constant = constantsOf(model);
  // Those that are joined first are pieces of the others.
  for (const node of [...body.nodes].reverse())
    joinStates(g, scan, body, node, v => constant(v)?.numbers(), before, after);
  for (const value of [...before, ...after].flatMap(node => node.inputs)) {
    const tensor = body.initializers.get(value!);
    if (tensor) graph.initializers.set(value!, tensor);
    body.initializers.delete(value!);
  }
  graph.insertBefore(scan, ...before);
  graph.append(...after);
  prune(body);
}

const statesOf = (scan: Node) => scan.inputs.length - new Attributes(scan).int('num_scan_inputs', 0);

/** Computes what is the same in all steps before the first one. Returns whether a value is. */
function takeFixed(g: Builder, scan: Node, body: Graph): (value: Value) => boolean {
  const open = new Set<Value | null>(body.inputs);
  for (const node of body.nodes) for (const value of node.outputs) if (value) open.add(value);
  const names = new Set(body.inputs.flatMap(v => v.shape?.filter(d => typeof d === 'string') ?? []));
  const extents = extentsOf(g, scan, body);
  const taken: Node[] = [];
  for (const node of body.nodes) {
    const outputs = node.outputs.flatMap(v => v ?? []);
    if (node.domain || outputs.some(v => v.outputOf.includes(body))) continue;
    const known = open.has(node.inputs[0]!) ? extents.get(node)?.map(extent => extent?.()) : undefined;
    if (known?.length && known.every(d => d !== undefined)) {
      outputs[0]!.replaceAllUses(g.vector(known).value);
      continue;
    }
    if (isNarrowing(node)) continue;
    const isFixed = node.inputs.every(v => !open.has(v)) && !node.subgraphs().length;
    if (!isFixed || RANDOM.has(node.opType) || !outputs.every(v => isSmall(v, names))) continue;
    taken.push(node);
    for (const value of outputs) open.delete(value);
  }
  body.remove(taken);
  g.adopt(taken);
  // What reads them in the body has extents that the runtime infers from theirs: it computes in place where it knows that they fit.
  moveTypes(
    body,
    g.graph,
    taken.flatMap(node => node.outputs.flatMap(v => v ?? [])),
  );
  return value => !open.has(value);
}

/**
 * The extents that each Shape returns: numbers, and those of a batch, which are the same in all batches of a run. They follow from the
 * inputs by the operators: names that a file declares may be those of other extents.
 */
function extentsOf(g: Builder, scan: Node, body: Graph): Map<Node, (undefined | (() => number | Expr))[]> {
  const own = body.nodes.flatMap(node => node.outputs.flatMap(v => v ?? []));
  const types = new Map([...body.inputs, ...own].map(v => [v, v.type]));
  for (const value of own) value.type = undefined;
  const given = new Map<string, () => Expr>();
  for (const [i, value] of body.inputs.entries()) {
    if (value.type?.kind !== 'tensor' || !value.shape) continue;
    const shape = value.shape.map((d, axis) => {
      if (typeof d === 'number') return d;
      if (i < statesOf(scan)) return null;
      const name = `${i} ${axis}`;
      given.set(name, () => g.of(scan.inputs[i]!).dims(axis + 1, axis + 2));
      return name;
    });
    value.type = { ...value.type, shape };
  }
  const found = new Map<Node, (undefined | (() => number | Expr))[]>();
  for (const node of body.nodes) {
    if (node.domain || node.subgraphs().length) continue;
    const inferred = inferTypes(
      node,
      node.inputs.map(v => (v ? g.of(v) : undefined)),
    );
    for (const [i, value] of node.outputs.entries()) if (value) value.type = inferred[i];
    if (node.opType !== 'Shape') continue;
    const attributes = new Attributes(node);
    const shape = node.inputs[0]!.shape ?? [];
    const dims = shape.slice(attributes.int('start', 0), attributes.int('end', shape.length));
    found.set(
      node,
      dims.map(d => (typeof d === 'number' ? () => d : given.get(d!))),
    );
  }
  for (const [value, type] of types) value.type = type;
  return found;
}

/** The runtime removes a Cast to a type and back, also where a subgraph reads the result, which it then misses. */
function isNarrowing({ opType, inputs, outputs }: Node): boolean {
  const [from, to] = [inputs[0]?.dtype, outputs[0]?.dtype];
  return opType === 'Cast' && (!from || isFloat(from)) && to !== 'float64';
}

function isSmall({ shape }: Value, names: ReadonlySet<unknown>): boolean {
  const usual = shape?.map(d => (typeof d === 'number' ? d : names.has(d) ? USUAL : Infinity));
  return !!usual && usual.reduce((n, d) => n * d, 1) <= MOST;
}

/** Computes scalars that follow from a state which grows by a number in each step for all steps at once. */
function takeCounted(g: Builder, scan: Node, body: Graph, isFixed: (value: Value) => boolean): void {
  const states = statesOf(scan);
  const batch = scan.inputs[states];
  if (!batch) return;
  const count = () => g.of(batch).dims(0, 1);
  const counted = new Map<Value, Expr>();
  const counters = new Set<number>();
  for (let i = 0; i < states; i++) {
    const [state, next] = [body.inputs[i]!, body.outputs[i]!];
    const by = growthOf(state, next, isFixed);
    if (!by) continue;
    const [start, each] = [g.of(scan.inputs[i]!), g.of(by)];
    counted.set(state, start.add(count().iota().mul(each)));
    const last = start.add(count().squeeze([0]).mul(each));
    g.identity(last.value, scan.outputs[i]!);
    counters.add(i);
  }
  if (!counters.size) return;
  const keep = <T>(_: T, i: number) => !counters.has(i);
  body.outputs = body.outputs.filter(keep);
  const given = scan.inputs.filter(keep);
  const inner = body.inputs.filter(keep);
  scan.outputs = scan.outputs.filter(keep);
  const taken = new Set<Node>();
  for (const node of body.nodes) {
    const [made] = node.outputs;
    if (!isExact(node) || made!.outputOf.length) continue;
    const isKnown = (v: Value | null) => counted.has(v!) || isFixed(v!);
    if (!node.inputs.every(isKnown) || !node.inputs.some(v => counted.has(v!))) continue;
    // Vectors to a power of 2 or 3 are multiplied, single numbers are not.
    if (node.opType === 'Pow' && !counted.has(node.inputs[1]!)) continue;
    const inputs = node.inputs.map(v => counted.get(v!) ?? g.of(v!));
    const type = { kind: 'tensor', dtype: made!.dtype!, shape: [null] } as const;
    const copy = new Node(
      node.opType,
      inputs.map(e => e.value),
      [g.newValue(made!.name, type)],
      node.attrs,
    );
    g.adopt([copy]);
    counted.set(made!, g.of(copy.outputs[0]!));
    taken.add(node);
  }
  body.remove(taken);
  for (const [value, all] of counted) {
    if (!value.isUsed) continue;
    const slice = g.newValue(value.name, value.type);
    value.replaceAllUses(slice);
    given.push(all.value);
    inner.push(slice);
  }
  body.inputs = inner;
  scan.inputs = given;
  scan.setAttr('num_scan_inputs', { type: 'int', value: given.length - (states - counters.size) });
}

/** What is added to a state in each step, if nothing else is done to it. */
function growthOf(state: Value, next: Value, isFixed: (value: Value) => boolean): Value | undefined {
  const node = next.producer;
  if (node?.opType !== 'Add' || node.domain || state.dtype !== 'int64' || !isScalar(state)) return undefined;
  const [a, b] = node.inputs as [Value, Value];
  const by = a === state ? b : b === state ? a : undefined;
  return by && isFixed(by) ? by : undefined;
}

const isScalar = ({ shape }: Value) => shape?.length === 0;

function isExact({ opType, domain, inputs, outputs }: Node): boolean {
  const values = [...inputs, ...outputs];
  const isKnown = EXACT.has(opType) && !domain && outputs.length === 1;
  return isKnown && values.every(v => v && EXACT_TYPES.has(v.dtype) && isScalar(v));
}

/** Keeps states that a node splits a tensor into, and that another one concatenates, as that tensor. */
function joinStates(
  g: Builder,
  scan: Node,
  body: Graph,
  split: Node,
  constant: (value: Value | null | undefined) => number[] | undefined,
  before: Node[],
  after: Node[],
): void {
  if (split.opType !== 'Split' || split.domain || new Attributes(split).int('axis', 0)) return;
  const sizes = constant(split.inputs[1]);
  const whole = split.inputs[0]!;
  const places = split.outputs.map(v => (v && !v.readers.length ? body.outputs.indexOf(v) : -1));
  const states = statesOf(scan);
  if (!sizes || !whole.shape || whole.outputOf.length || whole.producer?.graph !== body) return;
  if (places.some(i => i < 0 || i >= states)) return;
  const members = places.map(i => body.inputs[i]!);
  const isJoin = (node: Node) =>
    node.opType === 'Concat' &&
    !node.domain &&
    !new Attributes(node).int('axis', 0) &&
    node.inputs.length === members.length &&
    node.inputs.every((v, i) => v === members[i]);
  const join = members[0]!.readers.find(node => node.graph === body && isJoin(node));
  if (!join || join === whole.producer) return;
  const [first] = places;
  const gone = new Set(places.slice(1));
  const keep = <T>(_: T, i: number) => !gone.has(i);
  const joined = new Value(join.outputs[0]!.name, whole.type);
  join.outputs[0]!.replaceAllUses(joined);
  body.remove([join, split]);
  body.inputs = body.inputs.with(first!, joined).filter(keep);
  body.outputs = body.outputs.with(first!, whole).filter(keep);
  const lengths = split.inputs[1]!;
  if (members.some(v => v.readers.length)) body.prepend(new Node('Split', [joined, lengths], members));
  const given = places.map(i => g.of(scan.inputs[i]!));
  const all = g.into(before, () => given[0]!.concat(given.slice(1), 0));
  const result = g.newValue(whole.name, whole.type);
  after.unshift(
    new Node(
      'Split',
      [result, lengths],
      places.map(i => scan.outputs[i]!),
    ),
  );
  scan.inputs = scan.inputs.with(first!, all.value).filter(keep);
  scan.outputs = scan.outputs.with(first!, result).filter(keep);
  flatten(g, scan, body, body.inputs.indexOf(joined), constant, before, after);
}

/** Keeps such a state in the shape to which it is reshaped at the start of a step, and from which at its end. */
function flatten(
  g: Builder,
  scan: Node,
  body: Graph,
  i: number,
  constant: (value: Value | null | undefined) => number[] | undefined,
  before: Node[],
  after: Node[],
): void {
  const isReshape = (node: Node | undefined): node is Node =>
    node?.opType === 'Reshape' && !node.domain && constant(node.inputs[1]) !== undefined;
  const enter = body.inputs[i]!.readers.find(isReshape);
  const leave = body.outputs[i]!.producer;
  if (!enter || !isReshape(leave)) return;
  const type = leave.inputs[0]!.type;
  if (type?.kind !== 'tensor' || `${type.shape}` !== `${enter.outputs[0]!.shape}`) return;
  reshapeState(body, i, enter, leave, type);
  const given = g.of(scan.inputs[i]!);
  const flat = g.into(before, () => given.op('Reshape', [g.of(enter.inputs[1]!)], {}, { types: [type] }));
  const result = g.newValue(scan.outputs[i]!.name, type);
  after.unshift(new Node('Reshape', [result, leave.inputs[1]!], [scan.outputs[i]!]));
  scan.setInput(i, flat.value);
  scan.setOutput(i, result);
}
