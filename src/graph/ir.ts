/**
 * The graph in memory, linked by reference in both directions. Names matter only when a file is read or written.
 *
 * The graph itself maintains the producer and readers of each value, under these rules:
 *
 * 1. A node is in one graph or in none. It is linked while it is in one: its outputs then have it as their
 *    `producer`, and its inputs have it among their `readers`. A node that is in no graph is invisible to both.
 * 2. Each value has at most one producer; a second node that writes it is refused.
 * 3. The nodes of a subgraph are readers of the outer values that they capture. They are linked while the node that
 *    owns the subgraph is; a subgraph that no node owns yet is linked as a main graph is.
 * 4. Graph outputs are not readers: `outputOf` lists the graphs that return a value.
 * 5. The lists (`inputs` and `outputs` of a node, `nodes` and `outputs` of a graph) and `attrs` are read-only. They
 *    change by assignment of a new list, or by methods (`setInput`, `append`, `remove`, `setAttr` ...), which keep the links.
 * 6. A view (`Graph.view`) refers to nodes of another graph without owning them: changes of its lists affect no links.
 *
 * `checkGraph` verifies all of them.
 *
 * Everything in a file for which the classes below have no field (doc strings, metadata, value_info, fields of newer
 * schemas ...) stays in the opaque `extra` of its owner, which only `proto.ts` reads.
 */
import type { DType } from './dtype.js';
import { type Few, items, withItem, withoutItem } from './few.js';
import type { Tensor } from './tensor.js';

/** A known extent, a symbolic one (two equal names are equal extents), or an unknown one. */
export type Dim = number | string | null;
export type Shape = readonly Dim[];
/** As messages have it; `[...]` if the rank is unknown. */
export const showShape = (shape: Shape | undefined) => `[${shape?.map(d => d ?? '?') ?? '...'}]`;

/** `shape` is undefined if the rank is unknown. */
export type TensorType = { kind: 'tensor'; dtype: DType; shape?: Shape };
/** `empty`: known to have no elements, so that the first ones added decide their type. */
export type SequenceType = { kind: 'sequence'; elem: ValueType; empty?: true };
export type ValueType =
  | TensorType
  | SequenceType
  | { kind: 'optional'; elem: ValueType }
  | { kind: 'other'; extra: unknown };

/** A place where a node reads a value. */
export type Use = { node: Node; index: number };

// Changes of links that only this file may make.
let setProducer: (value: Value, node: Node | undefined) => void;
let addReader: (value: Value, node: Node) => void;
let dropReader: (value: Value, node: Node) => void;
let addReturning: (value: Value, graph: Graph) => void;
let dropReturning: (value: Value, graph: Graph) => void;
let setGraph: (node: Node, graph: Graph | undefined) => void;
let link: (node: Node) => void;
let unlink: (node: Node) => void;
let own: (graph: Graph, owner: Node) => void;
let disown: (graph: Graph, owner: Node) => void;
let isLive: (graph: Graph) => boolean;
let forgetOwners: (graph: Graph) => void;

/** A number that no other value has. */
export let numberOf: (value: Value) => number;
let values = 0;

/** One tensor (or sequence ...) of the graph: a graph input, an initializer, or an output of a node. */
export class Value {
  /** As decoded, so that an unchanged input or output is written back byte for byte. */
  extra: unknown;
  readonly #number = values++;
  #producer: Node | undefined;
  #readers: Few<Node>;
  #returning: Few<Graph>;

  constructor(
    public name: string,
    public type?: ValueType,
  ) {}

  static {
    numberOf = value => value.#number;
    setProducer = (value, node) => {
      value.#producer = node;
    };
    addReader = (value, node) => {
      value.#readers = withItem(value.#readers, node);
    };
    dropReader = (value, node) => {
      value.#readers = withoutItem(value.#readers, node);
    };
    addReturning = (value, graph) => {
      value.#returning = withItem(value.#returning, graph);
    };
    dropReturning = (value, graph) => {
      value.#returning = withoutItem(value.#returning, graph);
    };
  }

  get dtype(): DType | undefined {
    return this.type?.kind === 'tensor' ? this.type.dtype : undefined;
  }

  get shape(): Shape | undefined {
    return this.type?.kind === 'tensor' ? this.type.shape : undefined;
  }

  /** The node that writes it; undefined for graph inputs, initializers, and values that nothing writes. */
  get producer(): Node | undefined {
    return this.#producer;
  }

  /** The nodes that read it, those of subgraphs included, each once, in the order in which they were linked. */
  get readers(): readonly Node[] {
    return items(this.#readers);
  }

  /** The places where nodes read it: one for each input, by reader. */
  get uses(): readonly Use[] {
    const uses: Use[] = [];
    for (const node of this.readers)
      node.inputs.forEach((v, index) => {
        if (v === this) uses.push({ node, index });
      });
    return uses;
  }

  /** The graphs that return it: its own, or subgraphs that return an outer value. */
  get outputOf(): readonly Graph[] {
    return items(this.#returning);
  }

  /** Whether a node reads it or a graph returns it. */
  get isUsed(): boolean {
    return this.#readers !== undefined || this.#returning !== undefined;
  }

  /** Makes all readers of this value read `by` instead, and graphs return it instead unless `outputs` is false. */
  replaceAllUses(by: Value, { outputs = true } = {}): void {
    if (by === this) return;
    const replaced = (v: Value | null) => (v === this ? by : v);
    for (const node of this.readers) node.inputs = node.inputs.map(replaced);
    if (outputs) for (const graph of this.outputOf) graph.outputs = graph.outputs.map(v => replaced(v)!);
  }
}

/** 64-bit integers are numbers up to 2^53 in magnitude, and bigint beyond. */
export type Int = number | bigint;

/**
 * An attribute's value, immutable: to change it, replace the Attr. Strings are decoded if they are valid UTF-8, and
 * bytes otherwise. `ref` names an attribute of the enclosing function, whose type is `of`. `other` is kept as decoded
 * (sparse tensors, type protos).
 */
export type Attr = { readonly extra?: unknown } & (
  | { readonly type: 'float'; readonly value: number }
  | { readonly type: 'int'; readonly value: Int }
  | { readonly type: 'string'; readonly value: string | Uint8Array }
  | { readonly type: 'tensor'; readonly value: Tensor }
  | { readonly type: 'graph'; readonly value: Graph }
  | { readonly type: 'floats'; readonly value: number[] }
  | { readonly type: 'ints'; readonly value: Int[] }
  | { readonly type: 'strings'; readonly value: (string | Uint8Array)[] }
  | { readonly type: 'tensors'; readonly value: Tensor[] }
  | { readonly type: 'graphs'; readonly value: Graph[] }
  | { readonly type: 'ref'; readonly value: string; readonly of: string }
  | { readonly type: 'other' }
);

/** Most nodes have no attributes. */
export const NO_ATTRS: ReadonlyMap<string, Attr> = new Map();

/** Most nodes have no subgraphs, and the list is read often. */
const NO_GRAPHS: readonly Graph[] = [];

/** One operator call. `domain` is '' for ai.onnx. Omitted optional inputs and outputs are null. */
export class Node {
  name = '';
  domain = '';
  overload = '';
  extra: unknown;
  #inputs: readonly (Value | null)[];
  #outputs: readonly (Value | null)[];
  #attrs: ReadonlyMap<string, Attr>;
  /** The graphs in `#attrs`, collected on first use. */
  #subgraphs: readonly Graph[] | undefined;
  #graph: Graph | undefined;

  constructor(
    public opType: string,
    inputs: readonly (Value | null)[] = [],
    outputs: readonly (Value | null)[] = [],
    attrs: ReadonlyMap<string, Attr> = NO_ATTRS,
  ) {
    this.#inputs = frozen(inputs);
    this.#outputs = frozen(outputs);
    this.#attrs = attrs;
  }

  static {
    setGraph = (node, graph) => {
      node.#graph = graph;
    };
    link = node => {
      node.#linkOutputs();
      node.#linkInputs();
      if (node.#attrs.size) for (const sub of node.subgraphs()) own(sub, node);
    };
    unlink = node => {
      node.#unlinkOutputs();
      node.#unlinkInputs();
      if (node.#attrs.size) for (const sub of node.subgraphs()) disown(sub, node);
    };
  }

  /** The graph that contains it. */
  get graph(): Graph | undefined {
    return this.#graph;
  }

  get #isLinked(): boolean {
    return this.#graph !== undefined && isLive(this.#graph);
  }

  get inputs(): readonly (Value | null)[] {
    return this.#inputs;
  }

  set inputs(values: readonly (Value | null)[]) {
    const linked = this.#isLinked;
    if (linked) this.#unlinkInputs();
    this.#inputs = frozen(values);
    if (linked) this.#linkInputs();
  }

  get outputs(): readonly (Value | null)[] {
    return this.#outputs;
  }

  set outputs(values: readonly (Value | null)[]) {
    const linked = this.#isLinked;
    if (linked) this.#unlinkOutputs();
    this.#outputs = frozen(values);
    if (linked) this.#linkOutputs();
  }

  get attrs(): ReadonlyMap<string, Attr> {
    return this.#attrs;
  }

  set attrs(attrs: ReadonlyMap<string, Attr>) {
    const linked = this.#isLinked;
    if (linked) for (const sub of this.subgraphs()) disown(sub, this);
    this.#attrs = attrs;
    this.#subgraphs = undefined;
    if (this.#graph) forgetOwners(this.#graph);
    if (linked) for (const sub of this.subgraphs()) own(sub, this);
  }

  /** Replaces one input. Missing inputs before it become null. */
  setInput(index: number, value: Value | null): void {
    this.inputs = replacedAt(this.#inputs, index, value);
  }

  /** Replaces one output. */
  setOutput(index: number, value: Value | null): void {
    this.outputs = replacedAt(this.#outputs, index, value);
  }

  setAttr(name: string, attr: Attr): void {
    this.attrs = new Map(this.#attrs).set(name, attr);
  }

  deleteAttr(name: string): void {
    if (!this.#attrs.has(name)) return;
    const attrs = new Map(this.#attrs);
    attrs.delete(name);
    this.attrs = attrs;
  }

  /** Its description in messages. */
  get label(): string {
    const op = this.domain ? `${this.domain}.${this.opType}` : this.opType;
    const id = this.name || this.outputs.find(o => o)?.name;
    return id ? `'${op}' (node '${id}')` : `'${op}'`;
  }

  /** Subgraphs among the attributes: the branches of If, the body of Loop and Scan. */
  subgraphs(): readonly Graph[] {
    if (!this.#attrs.size) return NO_GRAPHS;
    this.#subgraphs ??= graphsIn(this.#attrs);
    return this.#subgraphs;
  }

  // By index: until code is optimized, an iterator makes objects for each value.
  #linkInputs(): void {
    const values = this.#inputs;
    for (let i = 0; i < values.length; i++) if (values[i]) addReader(values[i]!, this);
  }

  #unlinkInputs(): void {
    for (const v of this.#inputs) if (v) dropReader(v, this);
  }

  #linkOutputs(): void {
    const values = this.#outputs;
    for (let i = 0; i < values.length; i++) {
      const v = values[i];
      if (!v) continue;
      if (v.producer)
        throw new Error(`${this.label} cannot write '${v.name}': ${v.producer.label} already does.`);
      setProducer(v, this);
    }
  }

  #unlinkOutputs(): void {
    for (const v of this.#outputs) if (v?.producer === this) setProducer(v, undefined);
  }
}

function graphsIn(attrs: ReadonlyMap<string, Attr>): readonly Graph[] {
  let graphs: Graph[] | undefined;
  for (const attr of attrs.values()) {
    if (attr.type === 'graph') graphs = [...(graphs ?? []), attr.value];
    else if (attr.type === 'graphs') graphs = [...(graphs ?? []), ...attr.value];
  }
  return graphs ?? NO_GRAPHS;
}

/** A node under construction has no outputs yet; this path is hot. */
const NO_VALUES: readonly (Value | null)[] = Object.freeze([]);

/** An immutable copy. */
const frozen = (values: readonly (Value | null)[]) =>
  values.length ? Object.freeze([...values]) : NO_VALUES;

function replacedAt(values: readonly (Value | null)[], index: number, value: Value | null): (Value | null)[] {
  const list = [...values];
  while (list.length < index) list.push(null);
  list[index] = value;
  return list;
}

/**
 * A graph or a subgraph. Nodes are in topological order. A subgraph's nodes refer to outer values by reference. An
 * initializer that is also in `inputs` is a default that the caller may override.
 */
export class Graph {
  inputs: Value[] = [];
  initializers: Map<Value, Tensor> = new Map();
  extra: unknown;
  #outputs: Value[] = [];
  #nodes: Node[] = [];
  #owner: Node | undefined;
  /** The nodes with subgraphs, collected on first use. */
  #owners: readonly Node[] | undefined;
  #isView = false;
  /** False for a view and for the subgraph of an unlinked node. */
  #isLive = true;

  constructor(public name: string) {}

  static {
    isLive = graph => graph.#isLive;
    forgetOwners = graph => {
      graph.#owners = undefined;
    };
    own = (graph, owner) => {
      graph.#owner = owner;
      if (!graph.#isView) graph.#setLive(true);
    };
    disown = (graph, owner) => {
      if (graph.#owner !== owner) return;
      graph.#owner = undefined;
      graph.#setLive(false);
    };
  }

  /**
   * A graph that refers to nodes owned by another graph. It can be read like any graph (encoded, copied, typed), and
   * changes to its lists do not affect the owner. Changes to its nodes affect both.
   */
  static view(
    of: Graph,
    change: Partial<Pick<Graph, 'inputs' | 'outputs' | 'initializers'>> & { nodes?: readonly Node[] } = {},
  ): Graph {
    const view = new Graph(of.name);
    view.#isView = true;
    view.#isLive = false;
    view.inputs = change.inputs ?? [...of.inputs];
    view.initializers = change.initializers ?? of.initializers;
    view.extra = of.extra;
    view.#nodes = [...(change.nodes ?? of.#nodes)];
    view.#outputs = [...(change.outputs ?? of.#outputs)];
    return view;
  }

  /** The node that owns this subgraph, while that node is linked; undefined for a main graph. */
  get owner(): Node | undefined {
    return this.#owner;
  }

  get isView(): boolean {
    return this.#isView;
  }

  /** The nodes that have subgraphs, which are few, in order. */
  get owners(): readonly Node[] {
    // The nodes of a view change without its knowledge.
    if (this.#isView) return this.#nodes.filter(hasSubgraphs);
    this.#owners ??= this.#nodes.filter(hasSubgraphs);
    return this.#owners;
  }

  get nodes(): readonly Node[] {
    return this.#nodes;
  }

  /** Nodes that are not in the new list leave the graph; new ones join it. */
  set nodes(nodes: readonly Node[]) {
    const list = [...nodes];
    if (!this.#isView) {
      const kept = this.#nodes.length ? new Set(list) : undefined;
      if (kept && kept.size < list.length) throw twice(this);
      for (const node of this.#nodes) if (!kept!.has(node)) this.#leave(node);
      for (let i = 0; i < list.length; i++) if (!kept || list[i]!.graph !== this) this.#join(list[i]!);
    }
    this.#nodes = list;
    this.#owners = undefined;
  }

  get outputs(): readonly Value[] {
    return this.#outputs;
  }

  set outputs(values: readonly Value[]) {
    if (this.#isLive) for (const v of this.#outputs) dropReturning(v, this);
    this.#outputs = [...values];
    if (this.#isLive) for (const v of this.#outputs) addReturning(v, this);
  }

  addOutputs(...values: readonly Value[]): void {
    for (const v of values) {
      this.#outputs.push(v);
      if (this.#isLive) addReturning(v, this);
    }
  }

  append(...nodes: readonly Node[]): void {
    for (let i = 0; i < nodes.length; i++) {
      if (!this.#isView) this.#join(nodes[i]!);
      this.#nodes.push(nodes[i]!);
    }
  }

  prepend(...nodes: readonly Node[]): void {
    if (!this.#isView) for (const node of nodes) this.#join(node);
    this.#nodes.unshift(...nodes);
  }

  /** Inserts nodes before one of the graph. */
  insertBefore(place: Node, ...nodes: readonly Node[]): void {
    const at = this.#nodes.indexOf(place);
    if (at < 0) throw new Error(`${place.label} is not in graph '${this.name}'.`);
    if (!this.#isView) for (const node of nodes) this.#join(node);
    this.#nodes.splice(at, 0, ...nodes);
  }

  /** Removes nodes. Their outputs lose their producer, but may still have readers: see `Value.replaceAllUses`. */
  remove(nodes: Iterable<Node>): void {
    const gone = new Set(nodes);
    if (gone.size) this.nodes = this.#nodes.filter(node => !gone.has(node));
  }

  /** Outer values that this subgraph's nodes or outputs read, in order of first use, nested ones included. */
  captures(): Value[] {
    const own = new Set<Value>([...this.inputs, ...this.initializers.keys()]);
    for (const node of this.nodes) for (const o of node.outputs) if (o) own.add(o);
    const seen = new Set<Value>();
    const use = (v: Value | null) => {
      if (v && !own.has(v)) seen.add(v);
    };
    for (const node of this.nodes) {
      node.inputs.forEach(use);
      for (const sub of node.subgraphs()) sub.captures().forEach(use);
    }
    this.outputs.forEach(use);
    return [...seen];
  }

  #join(node: Node): void {
    if (hasSubgraphs(node)) this.#owners = undefined;
    if (node.graph === this) throw twice(this);
    if (node.graph)
      throw new Error(
        `${node.label} is in graph '${node.graph.name}' and cannot join '${this.name}': take it out first, or clone it.`,
      );
    setGraph(node, this);
    if (this.#isLive) link(node);
  }

  #leave(node: Node): void {
    if (this.#isLive) unlink(node);
    setGraph(node, undefined);
  }

  #setLive(live: boolean): void {
    if (live === this.#isLive) return;
    this.#isLive = live;
    for (const node of this.#nodes) (live ? link : unlink)(node);
    for (const v of this.#outputs) (live ? addReturning : dropReturning)(v, this);
  }
}

const twice = ({ name }: Graph) => new Error(`Graph '${name}' cannot hold a node twice.`);

/** A model-local function: its body is a graph whose attributes may refer to the function's own. */
export class FunctionDef {
  body: Graph;
  /** Names of the attributes that a caller passes, and the defaults of those that have one. */
  attributeNames: string[] = [];
  attributeDefaults: Map<string, Attr> = new Map();
  opsetImports: Map<string, number> = new Map();
  extra: unknown;

  constructor(
    public domain: string,
    public name: string,
    public overload = '',
  ) {
    this.body = new Graph(name);
  }
}

/** A state update of a training step: after a run, `state` takes the value of the output `value`. */
export type Binding = { state: string; value: string };

/** ONNX's ModelProto.training_info entry. The graphs are kept as decoded. */
export type TrainingInfo = { updates: Binding[]; initializations: Binding[]; extra: unknown };

export class Model {
  irVersion = 8;
  opsetImports: Map<string, number> = new Map();
  functions: FunctionDef[] = [];
  metadata: Map<string, string> = new Map();
  trainingInfo: TrainingInfo[] = [];
  producerName = '';
  producerVersion = '';
  extra: unknown;

  constructor(public graph: Graph) {}

  /** Version of the default operator set. */
  get opset(): number {
    return this.opsetImports.get('') ?? 1;
  }
}

export const hasSubgraphs = (node: Node): boolean => node.subgraphs().length > 0;

/** Every graph of a model except the bodies of functions; subgraphs follow the node that owns them. */
export function* allGraphs(graph: Graph): Generator<Graph> {
  yield graph;
  for (const node of graph.owners) for (const sub of node.subgraphs()) yield* allGraphs(sub);
}
