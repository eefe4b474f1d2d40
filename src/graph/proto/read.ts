/**
 * ModelProto -> Model. Names become references. Fields that the IR does not represent stay in their owner's `extra`.
 */
import { AgdError } from '../errors.js';
import {
  type Attr,
  allGraphs,
  type Binding,
  FunctionDef,
  Graph,
  Model,
  Node,
  type TrainingInfo,
  Value,
} from '../ir.js';
import { topologicalOrder } from '../topological-order.js';
import { amend, readEntries, readInt, rest } from './message.js';
import {
  ATTRIBUTE_TYPE,
  type AttributeProto,
  type Entry,
  type FunctionProto,
  type GraphProto,
  type ModelProto,
  type NodeProto,
  type OperatorSetIdProto,
  type TrainingInfoProto,
  type ValueInfoProto,
} from './schema.js';
import { noFiles, readTensor, type Surroundings } from './tensor.js';
import { declare, isDeclared, settleType } from './type.js';

/**
 * The fields of a model, graph ... that the IR does not represent. `listed` are a graph's value_info entries: the name
 * if the graph has that value (a name, because a graph and its copies share this), and otherwise the entry.
 */
export type ModelExtra = { rest: ModelProto | undefined; opsets: OperatorSetIdProto[]; metadata: Entry[] };
export type GraphExtra = {
  rest: GraphProto | undefined;
  listed: (string | ValueInfoProto)[];
};
export type FunctionExtra = { rest: FunctionProto | undefined; opsets: OperatorSetIdProto[] };
export type TrainingExtra = {
  rest: TrainingInfoProto | undefined;
  updates: Entry[];
  initializations: Entry[];
};

const ATTRIBUTE_NAME = new Map(Object.entries(ATTRIBUTE_TYPE).map(([name, code]) => [code as number, name]));

export function readModel(proto: ModelProto, surroundings: Surroundings): Model {
  const model = new Model(new Reader(surroundings).graph(proto.graph ?? {}));
  model.irVersion = Number(readInt(proto.irVersion));
  model.opsetImports = readOpsets(proto.opsetImport);
  model.functions = (proto.functions ?? []).map(f => readFunction(f, surroundings));
  model.metadata = readEntries(proto.metadataProps);
  model.trainingInfo = (proto.trainingInfo ?? []).map(readTrainingInfo);
  model.producerName = proto.producerName ?? '';
  model.producerVersion = proto.producerVersion ?? '';
  model.extra = {
    rest: rest(proto, MODEL_FIELDS),
    opsets: proto.opsetImport ?? [],
    metadata: proto.metadataProps ?? [],
  } satisfies ModelExtra;
  return model;
}

const MODEL_FIELDS: (keyof ModelProto)[] = [
  'graph',
  'irVersion',
  'opsetImport',
  'functions',
  'metadataProps',
  'trainingInfo',
  'producerName',
  'producerVersion',
];

/**
 * Replaces the domain 'ai.onnx' by '', and removes a second entry for the default operator set: the runtime accepts
 * 'ai.onnx' at the top level, but not in a subgraph, in which training steps run.
 */
export function spellDefaultDomain(model: Model): void {
  model.extra = { ...(model.extra as ModelExtra | undefined), opsets: [] };
  for (const fn of model.functions) fn.extra = { ...(fn.extra as FunctionExtra | undefined), opsets: [] };
  for (const { nodes } of [model.graph, ...model.functions.map(fn => fn.body)].flatMap(g => [
    ...allGraphs(g),
  ]))
    for (const node of nodes) {
      const kept = node.extra as NodeProto | undefined;
      if (kept?.domain && node.domain === '') node.extra = amend(kept, { domain: undefined });
    }
}

/** Versions of operator sets by domain, '' for ai.onnx. */
export function readOpsets(imports: readonly OperatorSetIdProto[] | undefined): Map<string, number> {
  return new Map(imports?.map(entry => [readDomain(entry.domain), readVersion(entry)]));
}

export function readVersion({ version }: OperatorSetIdProto): number {
  return Number(readInt(version));
}

export function readDomain(domain: string | null | undefined): string {
  return domain === 'ai.onnx' ? '' : (domain ?? '');
}

function readTrainingInfo(proto: TrainingInfoProto): TrainingInfo {
  const updates = proto.updateBinding ?? [];
  const initializations = proto.initializationBinding ?? [];
  return {
    updates: updates.map(readBinding),
    initializations: initializations.map(readBinding),
    extra: {
      rest: rest(proto, ['updateBinding', 'initializationBinding']),
      updates,
      initializations,
    } satisfies TrainingExtra,
  };
}

function readBinding({ key, value }: Entry): Binding {
  return { state: key ?? '', value: value ?? '' };
}

function readFunction(proto: FunctionProto, surroundings: Surroundings): FunctionDef {
  const fn = new FunctionDef(readDomain(proto.domain), proto.name ?? '', proto.overload ?? '');
  const reader = new Reader(surroundings);
  const named = (name: string) => ({ name });
  const { node, valueInfo } = proto;
  const [input, output] = [proto.input?.map(named), proto.output?.map(named)];
  fn.body = reader.graph({ name: fn.name, node, valueInfo, input, output });
  fn.attributeNames = [...(proto.attribute ?? [])];
  for (const attr of proto.attributeProto ?? []) fn.attributeDefaults.set(attr.name ?? '', reader.attr(attr));
  fn.opsetImports = readOpsets(proto.opsetImport);
  fn.extra = { rest: rest(proto, FUNCTION_FIELDS), opsets: proto.opsetImport ?? [] } satisfies FunctionExtra;
  return fn;
}

const FUNCTION_FIELDS: (keyof FunctionProto)[] = [
  'domain',
  'name',
  'overload',
  'input',
  'output',
  'node',
  'valueInfo',
  'attribute',
  'attributeProto',
  'opsetImport',
];

/** Reads a standalone graph, whose tensors are all in the message. */
export function readGraph(proto: GraphProto): Graph {
  return new Reader({ folder: '.', read: noFiles }).graph(proto);
}

/** Reads one graph. Its subgraphs are read by Readers with this one as `outer`, which resolve names of outer values. */
class Reader {
  readonly #own = new Map<string, Value>();

  constructor(
    private readonly surroundings: Surroundings,
    private readonly outer?: Reader,
  ) {}

  graph(proto: GraphProto): Graph {
    const graph = new Graph(proto.name ?? '');
    graph.inputs = (proto.input ?? []).map(info => this.#input(info));
    this.#readInitializers(proto, graph);
    const nodes = (proto.node ?? []).map(node => this.#outline(node));
    const sparse = new Set(proto.sparseInitializer?.map(({ values }) => values?.name ?? ''));
    const listed = (proto.valueInfo ?? []).map(info =>
      sparse.has(info.name ?? '') ? info : this.#list(info),
    );
    nodes.forEach((node, i) => {
      this.#fill(node, proto.node![i]!);
    });
    graph.nodes = topologicalOrder(nodes);
    graph.outputs = (proto.output ?? []).map(info => this.#output(info, graph));
    graph.extra = { rest: rest(proto, GRAPH_FIELDS), listed } satisfies GraphExtra;
    return graph;
  }

  #input(info: ValueInfoProto): Value {
    const value = this.#define(info.name, 'a graph input');
    declare(value, 'input', info);
    return value;
  }

  /** Fills `graph.initializers`. Sparse ones, which have no Tensor, become values only. */
  #readInitializers(proto: GraphProto, graph: Graph): void {
    const named = (name: string | null | undefined) =>
      this.#own.get(name ?? '') ?? this.#define(name, 'an initializer');
    for (const tensorProto of proto.initializer ?? []) {
      const value = named(tensorProto.name);
      if (graph.initializers.has(value)) throw duplicate(value.name, 'an initializer');
      const tensor = readTensor(tensorProto, this.surroundings);
      settleType(value, { kind: 'tensor', dtype: tensor.dtype, shape: tensor.dims });
      graph.initializers.set(value, tensor);
    }
    for (const { values } of proto.sparseInitializer ?? []) named(values?.name);
  }

  /** The node with its outputs. Inputs are set once every value of the graph is known. */
  #outline(proto: NodeProto): Node {
    const node = new Node(proto.opType ?? '');
    node.name = proto.name ?? '';
    node.domain = readDomain(proto.domain);
    node.overload = proto.overload ?? '';
    node.outputs = (proto.output ?? []).map(name => (name ? this.#define(name, node) : null));
    node.extra = rest(proto, NODE_FIELDS);
    return node;
  }

  #fill(node: Node, proto: NodeProto): void {
    node.inputs = (proto.input ?? []).map(name => (name ? this.#resolve(name, node) : null));
    if (!proto.attribute) return;
    const attrs = new Map<string, Attr>();
    for (const attr of proto.attribute) {
      const name = attr.name ?? '';
      if (attrs.has(name)) throw new AgdError('invalid-model', `${node.label} has '${name}' twice.`);
      attrs.set(name, this.attr(attr));
    }
    node.attrs = attrs;
  }

  #list(info: ValueInfoProto): string | ValueInfoProto {
    const value = this.#own.get(info.name ?? '');
    if (!value || isDeclared(value, 'inner')) return info;
    declare(value, 'inner', info);
    return value.name;
  }

  #output(info: ValueInfoProto, graph: Graph): Value {
    const value = this.#resolve(info.name ?? '', `Output of graph '${graph.name}'`);
    declare(value, 'output', info);
    return value;
  }

  #define(name: string | null | undefined, by: string | Node): Value {
    if (!name) throw new AgdError('invalid-model', `The model has ${labelOf(by)} without a name.`);
    const value = new Value(name);
    const before = this.#own.size;
    if (this.#own.set(name, value).size === before) throw duplicate(name, labelOf(by));
    return value;
  }

  #resolve(name: string, by: string | Node): Value {
    for (let scope: Reader | undefined = this; scope; scope = scope.outer) {
      const value = scope.#own.get(name);
      if (value) return value;
    }
    throw new AgdError(
      'invalid-model',
      `${labelOf(by)} reads '${name}', which no input, initializer or node defines.`,
    );
  }

  /** An attribute's value; `extra` is the attribute as decoded. */
  attr(proto: AttributeProto): Attr {
    const extra = proto;
    if (proto.refAttrName)
      return { type: 'ref', value: proto.refAttrName, of: ATTRIBUTE_NAME.get(proto.type ?? 0) ?? '', extra };
    const tensor = (t: AttributeProto['t']) => readTensor(t ?? {}, this.surroundings);
    const graph = (g: AttributeProto['g']) => new Reader(this.surroundings, this).graph(g ?? {});
    switch (proto.type) {
      case ATTRIBUTE_TYPE.float:
        return { type: 'float', value: proto.f ?? 0, extra };
      case ATTRIBUTE_TYPE.int:
        return { type: 'int', value: readInt(proto.i), extra };
      case ATTRIBUTE_TYPE.string:
        return { type: 'string', value: readText(proto.s), extra };
      case ATTRIBUTE_TYPE.tensor:
        return { type: 'tensor', value: tensor(proto.t), extra };
      case ATTRIBUTE_TYPE.graph:
        return { type: 'graph', value: graph(proto.g), extra };
      case ATTRIBUTE_TYPE.floats:
        return { type: 'floats', value: [...(proto.floats ?? [])], extra };
      case ATTRIBUTE_TYPE.ints:
        return { type: 'ints', value: (proto.ints ?? []).map(readInt), extra };
      case ATTRIBUTE_TYPE.strings:
        return { type: 'strings', value: (proto.strings ?? []).map(readText), extra };
      case ATTRIBUTE_TYPE.tensors:
        return { type: 'tensors', value: (proto.tensors ?? []).map(tensor), extra };
      case ATTRIBUTE_TYPE.graphs:
        return { type: 'graphs', value: (proto.graphs ?? []).map(graph), extra };
      default:
        return { type: 'other', extra };
    }
  }
}

const GRAPH_FIELDS: (keyof GraphProto)[] = ['name', 'input', 'output', 'initializer', 'node', 'valueInfo'];
const NODE_FIELDS: (keyof NodeProto)[] = [
  'opType',
  'name',
  'domain',
  'overload',
  'input',
  'output',
  'attribute',
];

const labelOf = (by: string | Node) => (typeof by === 'string' ? by : by.label);

function duplicate(name: string, by: string): AgdError {
  return new AgdError('invalid-model', `Value '${name}' is defined twice, the second time by ${by}.`);
}

const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

function readText(bytes: Uint8Array | null | undefined): string | Uint8Array {
  try {
    return utf8.decode(bytes ?? new Uint8Array());
  } catch {
    return bytes!;
  }
}
