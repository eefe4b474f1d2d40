/** Finds the states whose next value a run may write over the current one. */
import { reads } from '../../graph/dependents.js';
import { type DType, isFloat } from '../../graph/dtype.js';
import type { Graph, Model, Node, Value } from '../../graph/ir.js';
import { Names } from '../../graph/names.js';
import { Tensor } from '../../graph/tensor.js';
import { topologicalOrder } from '../../graph/topological-order.js';
import { Builder } from '../../ops/core/builder.js';
import { Attributes } from '../../ops/core/rule.js';
import { readDescription } from '../file/step-metadata.js';

/** Each reads an element of its operands before it writes the one in that place, and no other. */
const ELEMENTWISE = new Set(['Add', 'Sub', 'Mul', 'Div', 'Max', 'Min']);
/** Their results may share memory with what they are given. */
const VIEWS = new Set(['Identity', 'Reshape', 'Squeeze', 'Unsqueeze', 'Flatten']);
/** The runtime may let those that read their results read what they were given. */
const MOVES = new Set([...VIEWS, ...['Transpose', 'Cast', 'Slice', 'Split', 'Expand', 'DequantizeLinear']]);
/** The runtime may replace several of them, and a product before them, by one node. */
const FUSED = new Set([...ELEMENTWISE, ...MOVES, ...['Neg', 'Abs', 'Sqrt', 'Pow', 'Sign', 'Clip', 'Where']]);
/** With a number, the runtime may make them part of what reads their results, or leave them out. */
const SCALES = new Set(['Add', 'Sub', 'Mul', 'Div']);
/** They read no elements: the runtime may compute them before their input is there. */
const EXTENTS = new Set(['Shape', 'Size']);

/**
 * Arranges steps so that a run may write the next value of a state into the array of the value before, and returns the names
 * of the states of at least `least` bytes for which that is right: whatever reads the old value comes before the node that
 * writes the new one, or is that node and takes elements one by one. Where data do not say so already, a scalar
 * that the writing node depends on is multiplied by a 1 that comes from what else reads the state. Every other state needs
 * two arrays.
 *
 * The first writing node waits for the loss, too: a run with a loss that is not finite fails (at a Gather) before it has
 * changed anything of these states.
 *
 * `model` is that of `scanSteps`; its nodes are changed. Of several steps in one run, the Scan's last one alone writes a
 * state's array, and only its first one reads it.
 */
export function updateInPlace(model: Model, least: number): Set<string> {
  const found = new Set<string>();
  const [scan, ...others] = model.graph.nodes;
  const body = scan?.opType === 'Scan' ? scan.subgraphs()[0] : undefined;
  if (!body || others.length) return found;
  const { loss } = readDescription(model);
  const lossOfStep = body.outputs[scan!.outputs.findIndex(v => v?.name === loss.name)]!;
  const names = Names.of(model);
  const scope = { names, opsets: model.opsetImports };
  const arranged = new Order(body, scope, lossOfStep);
  for (const { state, value } of model.trainingInfo.flatMap(info => info.updates)) {
    const at = scan!.inputs.findIndex(v => v?.name === state);
    const [before, next] = [body.inputs[at]!, body.outputs[at]!];
    const isHere =
      scan!.outputs[at]?.name === value && scan!.inputs.filter(v => v?.name === state).length === 1;
    if (isHere && bytesOf(before) >= least && arranged.puts(before, next)) found.add(state);
  }
  arranged.finish();
  return found;
}

/** Those of a floating-point tensor of known extents; else 0. */
function bytesOf({ dtype, shape }: Value): number {
  const isKnown = dtype === 'float32' || dtype === 'float64';
  if (!isKnown || !shape?.every(d => typeof d === 'number')) return 0;
  return (shape as number[]).reduce((n, d) => n * d, dtype === 'float32' ? 4 : 8);
}

type Scope = { names: Names; opsets: ReadonlyMap<string, number> };

/** The order of the nodes of a graph, in which states are replaced. */
class Order {
  readonly #g: Builder;
  readonly #reads = new Map<Node, readonly Value[]>();
  readonly #readers = new Map<Value, Set<Node>>();
  /** Nodes that were added to wait for others, and do. */
  readonly #waits = new Set<Node>();
  /** Values that are 1, by their type and what they wait for. */
  readonly #ones = new Map<string, Value>();
  readonly #ids = new Map<Value, number>();
  readonly #bodies = new Map<Graph, Order>();
  #checked: Value | undefined;

  constructor(
    private readonly graph: Graph,
    private readonly scope: Scope,
    /** What is to be finite before anything is replaced. */
    private readonly loss?: Value,
  ) {
    this.#g = new Builder(graph, scope);
    for (const node of graph.nodes) this.#learn(node);
  }

  #learn(node: Node): void {
    const values = reads(node);
    this.#reads.set(node, values);
    for (const value of values) this.#readers.set(value, (this.#readers.get(value) ?? new Set()).add(node));
  }

  /** Whether `next` may be written into the memory of `state`, once the nodes are in the order that this sees to. */
  puts(state: Value, next: Value): boolean {
    const writer = this.#writerOf(next);
    if (!writer || this.graph.outputs.includes(state)) return false;
    const [views, all, read] = [isView, isMoved, isMovedOrScaled].map(isPassed =>
      this.#passed(state, isPassed),
    );
    const readers = new Set([...read!].flatMap(v => [...(this.#readers.get(v) ?? [])]));
    for (const node of readers) if (EXTENTS.has(node.opType) || node === writer) readers.delete(node);
    if ([...readers].some(mayKeep)) return false;
    const isSafe =
      writer.opType === 'Scan'
        ? this.#isSlicewise(writer, next, views!, all!)
        : this.#isElementwise(writer, views!, all!);
    if (!isSafe) return false;
    const before = this.#before(writer);
    const late: Value[] = [];
    for (const node of readers) {
      const written = node.outputs.find(v => v);
      if (before.has(node)) continue;
      if (!written) return false;
      late.push(written);
    }
    const check = this.loss && this.#check(this.loss);
    if (check && !before.has(check.producer!)) late.push(check);
    return !late.length || this.#wait(writer, late);
  }

  /** The node that computes a value, in this graph, before views of it. */
  #writerOf(value: Value): Node | undefined {
    const node = value.producer?.graph === this.graph ? value.producer : undefined;
    return node && VIEWS.has(node.opType) && !node.domain ? this.#writerOf(node.inputs[0]!) : node;
  }

  /** A value, and what nodes of this kind make of it. */
  #passed(state: Value, isKind: (node: Node, value: Value) => boolean): Set<Value> {
    const found = new Set([state]);
    for (const value of found)
      for (const node of this.#readers.get(value) ?? [])
        if (isKind(node, value)) for (const output of node.outputs) if (output) found.add(output);
    return found;
  }

  #isElementwise(writer: Node, views: ReadonlySet<Value>, all: ReadonlySet<Value>): boolean {
    if (!ELEMENTWISE.has(writer.opType) || writer.domain || writer.inputs.length !== 2) return false;
    const extents = `${writer.outputs[0]!.shape}`;
    if (writer.inputs.some(v => v && all.has(v) && !(views.has(v) && `${v.shape}` === extents))) return false;
    // A product of the state could become one node with what writes it.
    const near = new Set([writer]);
    for (const node of near)
      for (const value of node.inputs) {
        const source = value?.producer;
        if (source?.graph !== this.graph) continue;
        if (FUSED.has(source.opType)) near.add(source);
        else if (this.#reads.get(source)!.some(v => all.has(v))) return false;
      }
    return true;
  }

  /** Whether a Scan reads the state slice by slice, and writes each slice in the same iteration, and in order. */
  #isSlicewise(scan: Node, next: Value, views: ReadonlySet<Value>, all: ReadonlySet<Value>): boolean {
    const [body] = scan.subgraphs();
    if (!body || body.captures().some(v => all.has(v))) return false;
    const places = scan.inputs.flatMap((v, i) => (v && all.has(v) ? [i] : []));
    if (!places.length) return true;
    const attributes = new Attributes(scan);
    const isPlain = [
      'scan_input_axes',
      'scan_output_axes',
      'scan_input_directions',
      'scan_output_directions',
    ].every(name => !attributes.ints(name)?.some(n => n !== 0));
    const [place] = places;
    let written: Value = next;
    while (written.producer !== scan) written = written.producer!.inputs[0]!;
    const output = scan.outputs.indexOf(written);
    if (!isPlain || places.length > 1) return false;
    const read = scan.inputs[place!]!;
    if (!views.has(read) || `${read.shape}` !== `${written.shape}`) return false;
    const order = this.#bodies.get(body) ?? new Order(body, this.scope);
    this.#bodies.set(body, order);
    const [slice, result] = [body.inputs[place!]!, body.outputs[output]!];
    // Those of a value that is carried from slice to slice are others.
    const extents = read.shape?.slice(1);
    return [slice, result].every(v => `${v.shape}` === `${extents}`) && order.puts(slice, result);
  }

  /** What a node waits for; with `extents`, also where it needs no elements. */
  #before(node: Node, { extents = false } = {}): Set<Node> {
    const found = new Set([node]);
    for (const one of found) {
      if (EXTENTS.has(one.opType) && !extents && !this.#waits.has(one)) continue;
      for (const value of this.#reads.get(one) ?? [])
        if (value.producer?.graph === this.graph) found.add(value.producer);
    }
    found.delete(node);
    return found;
  }

  /** Makes a node wait for values. */
  #wait(writer: Node, late: readonly Value[]): boolean {
    const sources = new Set<Node>();
    for (const { producer } of late) {
      sources.add(producer!);
      for (const node of this.#before(producer!, { extents: true })) sources.add(node);
    }
    // The values would wait for themselves.
    if (sources.has(writer)) return false;
    const inner = writer.subgraphs()[0];
    if (inner) {
      const scalar = inner.captures().find(v => isScalar(v) && inner.nodes.some(n => n.inputs.includes(v)));
      if (!scalar) return false;
      const waiting = this.#times(scalar, late);
      for (const node of inner.nodes) replaceInput(node, scalar, waiting);
      // Readers are those of the nodes inside.
      this.#learn(writer);
      return true;
    }
    for (const node of new Set([writer, ...this.#before(writer)])) {
      const scalar = node.inputs.find(v => v && isScalar(v));
      if (!scalar || !ELEMENTWISE.has(node.opType) || node.domain || sources.has(node)) continue;
      replaceInput(node, scalar, this.#times(scalar, late));
      this.#learn(node);
      return true;
    }
    return false;
  }

  /** A scalar, once these values are there. */
  #times(scalar: Value, late: readonly Value[]): Value {
    const dtype = scalar.dtype!;
    const key = `${dtype} ${late.map(v => this.#id(v)).sort()}`;
    const g = this.#g;
    return this.#adding(() => {
      const one = this.#ones.get(key) ?? this.#one(dtype, late);
      this.#ones.set(key, one);
      return g.of(scalar).mul(g.of(one)).typed(scalar.type).value;
    });
  }

  #id(value: Value): number {
    const id = this.#ids.get(value) ?? this.#ids.size;
    this.#ids.set(value, id);
    return id;
  }

  /** 1, whatever the values are: no size is below 0. */
  #one(dtype: DType, late: readonly Value[]): Value {
    const g = this.#g;
    const [first, ...others] = late.map(v => (v === this.#checked ? g.of(v) : g.emit('Size', [g.of(v)])[0]!));
    const sum = others.reduce((a, b) => a.add(b), first!);
    return sum.greaterOrEqual(0).cast(dtype).value;
  }

  /** 0 where the loss is finite; else, the run fails. */
  #check(loss: Value): Value {
    this.#checked ??= this.#adding(() => {
      const g = this.#g;
      const holds = g.of(loss).abs().less(Number.POSITIVE_INFINITY);
      const zeros = g.tensor(Tensor.ints([0]));
      return zeros.gather(holds.not().cast('int64')).value;
    });
    return this.#checked;
  }

  #adding(add: () => Value): Value {
    const before = this.graph.nodes.length;
    const value = add();
    for (const node of this.graph.nodes.slice(before)) {
      this.#learn(node);
      if (node.opType === 'Size') this.#waits.add(node);
    }
    return value;
  }

  finish(): void {
    for (const order of this.#bodies.values()) order.finish();
    this.graph.nodes = topologicalOrder(this.graph.nodes);
  }
}

/** Whether the results of a node may share memory with a value that it reads. */
const isView = (node: Node, value: Value) => VIEWS.has(node.opType) && node.inputs[0] === value;
/** Whether the runtime may let those that read its results read this value. */
const isMoved = (node: Node, value: Value) => MOVES.has(node.opType) && node.inputs[0] === value;
const isMovedOrScaled = (node: Node, value: Value) =>
  isMoved(node, value) || (SCALES.has(node.opType) && node.inputs.some(v => v !== value && isSingle(v)));
const isSingle = (value: Value | null) => !!value?.shape?.every(d => d === 1);

/** Whether what a node returns may share memory with what it reads although it is no view, as sequences may. */
const mayKeep = (node: Node) =>
  node.outputs.some(v => v?.type && v.type.kind !== 'tensor') ||
  /^(Loop|Sequence|Optional)/.test(node.opType);

const isScalar = ({ dtype, shape }: Value) =>
  dtype !== undefined && isFloat(dtype) && dtype !== 'bfloat16' && !!shape?.every(d => d === 1);

function replaceInput(node: Node, from: Value, to: Value): void {
  node.inputs = node.inputs.map(v => (v === from ? to : v));
}
