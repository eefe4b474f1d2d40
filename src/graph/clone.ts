import { type Attr, FunctionDef, Graph, Model, Node, Value } from './ir.js';
import type { Tensor } from './tensor.js';

/** A copy whose graphs, nodes and values are its own; tensors and undecoded parts are shared. */
export function cloneModel(model: Model): Model {
  const copy = new Model(cloneGraph(model.graph));
  copy.irVersion = model.irVersion;
  copy.opsetImports = new Map(model.opsetImports);
  copy.metadata = new Map(model.metadata);
  copy.trainingInfo = [...model.trainingInfo];
  copy.producerName = model.producerName;
  copy.producerVersion = model.producerVersion;
  copy.extra = model.extra;
  copy.functions = model.functions.map(f => {
    const def = new FunctionDef(f.domain, f.name, f.overload);
    def.body = cloneGraph(f.body);
    def.attributeNames = [...f.attributeNames];
    def.attributeDefaults = new Map(f.attributeDefaults);
    def.opsetImports = new Map(f.opsetImports);
    def.extra = f.extra;
    return def;
  });
  return copy;
}

/** The same model with another graph. Everything else is shared. */
export const withGraph = (model: Model, graph: Graph): Model =>
  Object.assign(new Model(graph), model, { graph });

/**
 * The same model with the tensors of `replace` as initializers of these names. Its graph is a view; all else is shared.
 */
export function withInitializers(model: Model, replace: (name: string) => Tensor | undefined): Model {
  const initializers = new Map([...model.graph.initializers].map(([v, t]) => [v, replace(v.name) ?? t]));
  return withGraph(model, Graph.view(model.graph, { initializers }));
}

/** How a copied value is made; the default keeps names. */
export type CloneOptions = {
  /** Values that already have a counterpart; filled with those made on the way. */
  values?: Map<Value, Value>;
  name?: (name: string) => string;
  attr?: (attr: Attr, name: string) => Attr | undefined;
};

/** A copy of a graph; outer values that it reads are replaced where `values` says so, else shared. */
export function cloneGraph(graph: Graph, options: CloneOptions = {}): Graph {
  const values = options.values ?? new Map<Value, Value>();
  const declare = (v: Value) => {
    let made = values.get(v);
    if (!made) {
      made = new Value(options.name ? options.name(v.name) : v.name, v.type);
      made.extra = v.extra;
      values.set(v, made);
    }
    return made;
  };
  const copy = new Graph(graph.name);
  copy.extra = graph.extra;
  copy.inputs = graph.inputs.map(declare);
  copy.initializers = new Map([...graph.initializers].map(([v, t]) => [declare(v), t]));
  copy.nodes = cloneNodes(graph.nodes, { ...options, values });
  copy.outputs = graph.outputs.map(v => values.get(v) ?? v);
  return copy;
}

/** Copies of nodes in order, with new values for their outputs. */
export function cloneNodes(
  nodes: readonly Node[],
  options: CloneOptions & { values: Map<Value, Value> },
): Node[] {
  const { values, name = (n: string) => n } = options;
  const read = (v: Value | null) => v && (values.get(v) ?? v);
  const write = (v: Value | null) => {
    if (!v) return null;
    const made = new Value(name(v.name), v.type);
    made.extra = v.extra;
    values.set(v, made);
    return made;
  };
  return nodes.map(node => {
    const inputs = node.inputs.map(read);
    const outputs = node.outputs.map(write);
    const copy = new Node(node.opType, inputs, outputs, cloneAttrs(node.attrs, options));
    copy.name = node.name && name(node.name);
    copy.domain = node.domain;
    copy.overload = node.overload;
    copy.extra = node.extra;
    return copy;
  });
}

function cloneAttrs(attrs: ReadonlyMap<string, Attr>, options: CloneOptions): ReadonlyMap<string, Attr> {
  if (!attrs.size) return attrs;
  const copies = new Map<string, Attr>();
  for (const [key, attr] of attrs) {
    const given = options.attr ? options.attr(attr, key) : attr;
    if (given) copies.set(key, cloneAttr(given, options));
  }
  return copies;
}

function cloneAttr(attr: Attr, options: CloneOptions): Attr {
  if (attr.type === 'graph') return { ...attr, value: cloneGraph(attr.value, options) };
  if (attr.type === 'graphs') return { ...attr, value: attr.value.map(g => cloneGraph(g, options)) };
  return attr;
}
