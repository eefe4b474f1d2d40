/** Model -> ModelProto, the inverse of read.ts. */
import type { Attr, Binding, FunctionDef, Graph, Model, Node, TrainingInfo, Value } from '../ir.js';
import type { Placement } from '../tensor.js';
import { amend, writeEntries, writeInt, writeKeyed } from './message.js';
import {
  type FunctionExtra,
  type GraphExtra,
  type ModelExtra,
  readDomain,
  readVersion,
  type TrainingExtra,
} from './read.js';
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
import { writeTensor } from './tensor.js';
import { type EncodedTypes, writeInfo } from './type.js';

/** All of a model but its graph. */
export function writeModel(model: Model, place: Placement): ModelProto {
  const extra = model.extra as ModelExtra | undefined;
  const kept = extra?.rest;
  return amend(kept, {
    irVersion: writeInt(model.irVersion),
    producerName: model.producerName || kept?.producerName,
    producerVersion: model.producerVersion || kept?.producerVersion,
    opsetImport: writeOpsets(model.opsetImports, extra?.opsets),
    metadataProps: writeEntries(model.metadata, extra?.metadata),
    trainingInfo: model.trainingInfo.map(writeTrainingInfo),
    functions: model.functions.map(fn => writeFunction(fn, place)),
  });
}

function writeOpsets(
  now: ReadonlyMap<string, number>,
  before: OperatorSetIdProto[] = [],
): OperatorSetIdProto[] {
  return writeKeyed(now, before, {
    key: entry => readDomain(entry.domain),
    value: readVersion,
    write: (domain, version, entry) => amend(entry, { domain: domain || entry?.domain || '', version }),
  });
}

function writeTrainingInfo(info: TrainingInfo): TrainingInfoProto {
  const extra = info.extra as TrainingExtra | undefined;
  return amend(extra?.rest, {
    updateBinding: writeBindings(info.updates, extra?.updates),
    initializationBinding: writeBindings(info.initializations, extra?.initializations),
  });
}

function writeBindings(now: readonly Binding[], before: readonly Entry[] = []): Entry[] {
  const found = new Map(before.map(entry => [entry.key ?? '', entry]));
  return now.map(({ state, value }) => {
    const entry = found.get(state);
    return entry && (entry.value ?? '') === value ? entry : { key: state, value };
  });
}

function writeFunction(fn: FunctionDef, place: Placement): FunctionProto {
  const extra = fn.extra as FunctionExtra | undefined;
  const kept = extra?.rest;
  const { node, valueInfo } = writeGraph(fn.body, place);
  return amend(kept, {
    name: fn.name || kept?.name,
    domain: fn.domain || kept?.domain,
    overload: fn.overload || kept?.overload,
    input: fn.body.inputs.map(v => v.name),
    output: fn.body.outputs.map(v => v.name),
    attribute: fn.attributeNames,
    attributeProto: [...fn.attributeDefaults].map(([name, attr]) => writeAttr(name, attr, place)),
    node,
    valueInfo,
    opsetImport: writeOpsets(fn.opsetImports, extra?.opsets),
  });
}

export function writeGraph(graph: Graph, place: Placement): GraphProto {
  return amend(writeFrame(graph), {
    node: graph.nodes.map(node => writeNode(node, place)),
    initializer: [...graph.initializers].map(([value, tensor]) => writeTensor(tensor, place, value.name)),
  });
}

/** All of a graph but its nodes and initializers. */
export function writeFrame(graph: Graph): GraphProto {
  const extra = graph.extra as GraphExtra | undefined;
  const types: EncodedTypes = new Map();
  return amend(extra?.rest, {
    name: graph.name || extra?.rest?.name,
    input: graph.inputs.map(value => writeInfo(value, 'input', types)),
    output: graph.outputs.map(value => writeInfo(value, 'output', types)),
    valueInfo: extra?.listed.length ? listedInfos(extra.listed, graph, types) : undefined,
  });
}

function listedInfos(listed: GraphExtra['listed'], graph: Graph, types: EncodedTypes): ValueInfoProto[] {
  const names = new Set(listed.map(entry => (typeof entry === 'string' ? entry : (entry.name ?? ''))));
  const alive = new Map<string, Value>();
  const add = (value: Value | null) => {
    if (value && names.has(value.name)) alive.set(value.name, value);
  };
  graph.inputs.forEach(add);
  for (const value of graph.initializers.keys()) add(value);
  // Most are written by the first nodes, those of the model that was read.
  const { nodes } = graph;
  for (let i = 0; i < nodes.length && alive.size < names.size; i++) nodes[i]!.outputs.forEach(add);
  return listed.flatMap(entry => listedInfo(entry, alive, types));
}

/**
 * A value_info entry; none if its value was removed, or if it had no value and a new value has its name, whose type it
 * may contradict.
 */
function listedInfo(
  entry: string | ValueInfoProto,
  alive: ReadonlyMap<string, Value>,
  types: EncodedTypes,
): ValueInfoProto[] {
  if (typeof entry !== 'string') return alive.has(entry.name ?? '') ? [] : [entry];
  const value = alive.get(entry);
  return value ? [writeInfo(value, 'inner', types)] : [];
}

const nameOf = (value: Value | null) => value?.name ?? '';

export function writeNode(node: Node, place: Placement): NodeProto {
  const kept = node.extra as NodeProto | undefined;
  return amend(kept, {
    opType: node.opType || kept?.opType,
    name: node.name || kept?.name,
    domain: node.domain || kept?.domain,
    overload: node.overload || kept?.overload,
    input: node.inputs.map(nameOf),
    output: node.outputs.map(nameOf),
    attribute: node.attrs.size
      ? Array.from(node.attrs, ([name, attr]) => writeAttr(name, attr, place))
      : undefined,
  });
}

/** An attribute. Only tensors and graphs can change after decoding; all other values are written back as decoded. */
function writeAttr(name: string, attr: Attr, place: Placement): AttributeProto {
  const before = attr.extra as AttributeProto | undefined;
  const isNested = attr.type.startsWith('tensor') || attr.type.startsWith('graph');
  if (before && !isNested) return (before.name ?? '') === name ? before : amend(before, { name });
  return amend(before, { name, ...writeAttrValue(attr, place) });
}

function writeAttrValue(attr: Attr, place: Placement): AttributeProto {
  switch (attr.type) {
    case 'float':
      return { type: ATTRIBUTE_TYPE.float, f: attr.value };
    case 'int':
      return { type: ATTRIBUTE_TYPE.int, i: writeInt(attr.value) };
    case 'string':
      return { type: ATTRIBUTE_TYPE.string, s: writeText(attr.value) };
    case 'tensor':
      return { type: ATTRIBUTE_TYPE.tensor, t: writeTensor(attr.value, place) };
    case 'graph':
      return { type: ATTRIBUTE_TYPE.graph, g: writeGraph(attr.value, place) };
    case 'floats':
      return { type: ATTRIBUTE_TYPE.floats, floats: attr.value };
    case 'ints':
      return { type: ATTRIBUTE_TYPE.ints, ints: attr.value.map(writeInt) };
    case 'strings':
      return { type: ATTRIBUTE_TYPE.strings, strings: attr.value.map(writeText) };
    case 'tensors':
      return { type: ATTRIBUTE_TYPE.tensors, tensors: attr.value.map(t => writeTensor(t, place)) };
    case 'graphs':
      return { type: ATTRIBUTE_TYPE.graphs, graphs: attr.value.map(g => writeGraph(g, place)) };
    case 'ref':
      return { type: ATTRIBUTE_TYPE[attr.of as keyof typeof ATTRIBUTE_TYPE], refAttrName: attr.value };
    case 'other':
      return attr.extra as AttributeProto;
  }
}

const utf8 = new TextEncoder();

function writeText(text: string | Uint8Array): Uint8Array {
  return typeof text === 'string' ? utf8.encode(text) : text;
}
