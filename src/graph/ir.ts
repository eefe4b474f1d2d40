/**
 * The graph in memory: plain data, linked by reference. Names matter only at the file's edge.
 *
 * Everything a file holds that this model of it has no field for (doc strings, metadata, value_info,
 * fields of newer schemas ...) stays in the opaque `extra` of its owner, which only `proto.ts` reads.
 */
import type { DType } from './dtype.js';
import type { Tensor } from './tensor.js';

/** A known extent, a symbolic one (two equal names are equal extents), or an unknown one. */
export type Dim = number | string | null;
export type Shape = readonly Dim[];

/** `shape` is undefined where even the rank is unknown. */
export type TensorType = { kind: 'tensor'; dtype: DType; shape?: Shape };
/** `empty`: known to have no elements, so that those it gets decide what type they are of. */
export type SequenceType = { kind: 'sequence'; elem: ValueType; empty?: true };
export type ValueType =
  | TensorType
  | SequenceType
  | { kind: 'optional'; elem: ValueType }
  | { kind: 'other'; extra: unknown };

/** One tensor (or sequence ...) of the graph: a graph input, an initializer, or what a node writes. */
export class Value {
  /** As decoded, so that an untouched input or output is written back as it was. */
  extra: unknown;

  constructor(
    public name: string,
    public type?: ValueType,
  ) {}

  get dtype(): DType | undefined {
    return this.type?.kind === 'tensor' ? this.type.dtype : undefined;
  }

  get shape(): Shape | undefined {
    return this.type?.kind === 'tensor' ? this.type.shape : undefined;
  }
}

/** 64-bit integers are numbers where they fit 2^53, and bigint beyond. */
export type Int = number | bigint;

/**
 * An attribute's value; to change it, put another Attr in its place. Strings are UTF-8 decoded where they
 * are valid UTF-8, else bytes. `ref` names an attribute of the enclosing function, whose type is `of`.
 * `other` is kept as decoded (sparse tensors, type protos).
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

/** Most nodes have no subgraphs, and are asked often. */
const NO_GRAPHS: readonly Graph[] = [];

/** One operator call. `domain` is '' for ai.onnx. Omitted optional inputs and outputs are null. */
export class Node {
  name = '';
  domain = '';
  overload = '';
  extra: unknown;

  constructor(
    public opType: string,
    public inputs: (Value | null)[] = [],
    public outputs: (Value | null)[] = [],
    public attrs: Map<string, Attr> = new Map(),
  ) {}

  /** How messages speak of it. */
  get label(): string {
    const op = this.domain ? `${this.domain}.${this.opType}` : this.opType;
    const id = this.name || this.outputs.find(o => o)?.name;
    return id ? `'${op}' (node '${id}')` : `'${op}'`;
  }

  /** Subgraphs among the attributes: the branches of If, the body of Loop and Scan. */
  subgraphs(): readonly Graph[] {
    if (this.attrs.size === 0) return NO_GRAPHS;
    const graphs: Graph[] = [];
    for (const attr of this.attrs.values()) {
      if (attr.type === 'graph') graphs.push(attr.value);
      else if (attr.type === 'graphs') graphs.push(...attr.value);
    }
    return graphs;
  }
}

/**
 * A graph or a subgraph. Nodes are in topological order. A subgraph's nodes refer to outer values by
 * reference. An initializer that is also in `inputs` is a default that the caller may overrule.
 */
export class Graph {
  inputs: Value[] = [];
  outputs: Value[] = [];
  initializers: Map<Value, Tensor> = new Map();
  nodes: Node[] = [];
  extra: unknown;

  constructor(public name: string) {}

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
}

/** A model-local function: its body is a graph whose attributes may refer to the function's own. */
export class FunctionDef {
  body: Graph;
  /** Names of the attributes a caller gives, and the defaults of those that have one. */
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

/** One way a training step changes state: after a run, `state` takes the value of the output `value`. */
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

/** Every graph of a model, subgraphs after the node that owns them; functions' bodies are not among them. */
export function* allGraphs(graph: Graph): Generator<Graph> {
  yield graph;
  for (const node of graph.nodes) for (const sub of node.subgraphs()) yield* allGraphs(sub);
}
