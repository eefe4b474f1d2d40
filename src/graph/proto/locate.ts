/** Finds the bytes of the tensors in a model file. */
import type { DType } from '../dtype.js';
import { byteLength } from '../dtype.js';
import { functionKey, type Place, placeOf } from '../places.js';
import type { ExternalData } from '../tensor.js';
import { hasField, type WireField, wireField, wireFields } from '../wire.js';
import { checkSize } from './codec.js';
import { readDomain } from './read.js';
import { MESSAGES, parse } from './schema.js';
import { elementField, FIELD, isPlain, readDims, readDtype, readExternal } from './tensor.js';

export type Range = { offset: number; length: number };

/**
 * A stored tensor. `ranges`, in order, are those of its little-endian elements in the model file; empty for an external
 * tensor, whose location is in `external`, and undefined if the elements are stored as variable-length numbers.
 */
export type StoredTensor = {
  /** The value of the main graph that the tensor belongs to, if there is one. */
  name: string | undefined;
  dtype: DType;
  dims: number[];
  ranges: Range[] | undefined;
  external: ExternalData | undefined;
  /** The content of the TensorProto; undefined for numbers that are an attribute. */
  message: Range | undefined;
};

/**
 * The tensors of a model file by their places: initializers, sparse ones too, attributes, and the numbers of Constant
 * nodes. External data is expected in `folder`. Tensors whose messages are of fewer than `least` bytes are left out. Throws
 * `not-onnx`, and as reading a model does.
 */
export function locateTensors(bytes: Uint8Array, folder = '.', least = 0): Map<Place, StoredTensor> {
  checkSize(bytes.length);
  const found = new Locator(bytes, folder, least);
  found.model();
  return found.tensors;
}

const idOf = (message: string, field: string) => MESSAGES[message]![field]![1];
const MODEL = { graph: idOf('ModelProto', 'graph'), functions: idOf('ModelProto', 'functions') };
const GRAPH = {
  node: idOf('GraphProto', 'node'),
  initializer: idOf('GraphProto', 'initializer'),
  sparse: idOf('GraphProto', 'sparseInitializer'),
};
const NODE = {
  output: idOf('NodeProto', 'output'),
  opType: idOf('NodeProto', 'opType'),
  domain: idOf('NodeProto', 'domain'),
  attribute: idOf('NodeProto', 'attribute'),
};
const ATTRIBUTE = {
  name: idOf('AttributeProto', 'name'),
  f: idOf('AttributeProto', 'f'),
  t: idOf('AttributeProto', 't'),
  g: idOf('AttributeProto', 'g'),
  floats: idOf('AttributeProto', 'floats'),
  tensors: idOf('AttributeProto', 'tensors'),
  graphs: idOf('AttributeProto', 'graphs'),
  sparse: idOf('AttributeProto', 'sparseTensor'),
};
const FUNCTION = {
  name: idOf('FunctionProto', 'name'),
  domain: idOf('FunctionProto', 'domain'),
  overload: idOf('FunctionProto', 'overload'),
  node: idOf('FunctionProto', 'node'),
  attribute: idOf('FunctionProto', 'attributeProto'),
};
const TENSOR = { name: idOf('TensorProto', 'name'), rawData: idOf('TensorProto', 'rawData') };
const SPARSE_VALUES = idOf('SparseTensorProto', 'values');

const utf8 = new TextDecoder();

class Locator {
  readonly tensors = new Map<Place, StoredTensor>();

  constructor(
    private readonly bytes: Uint8Array,
    private readonly folder: string,
    private readonly least: number,
  ) {}

  model(): void {
    for (const field of this.#fields())
      if (field.id === MODEL.graph) this.#graph(field, ['']);
      else if (field.id === MODEL.functions) this.#function(field);
  }

  #fields(within?: WireField): WireField[] {
    return wireFields(this.bytes, within?.from, within?.end);
  }

  #text(fields: readonly WireField[], id: number): string {
    const field = fields.findLast(f => f.id === id);
    return field ? utf8.decode(this.bytes.subarray(field.from, field.end)) : '';
  }

  #function(message: WireField): void {
    const fields = this.#fields(message);
    const [name, domain, overload] = [FUNCTION.name, FUNCTION.domain, FUNCTION.overload].map(id =>
      this.#text(fields, id),
    );
    const scope = [functionKey({ domain: readDomain(domain), name: name!, overload: overload! })];
    for (const field of fields)
      if (field.id === FUNCTION.node) this.#node(field, scope);
      else if (field.id === FUNCTION.attribute) this.#attribute(field, [...scope, ''], false);
  }

  #graph(message: WireField, scope: readonly string[]): void {
    // Without a list: a graph has thousands of fields.
    for (let at = message.from, field: WireField; at < message.end; at = field.end) {
      field = wireField(this.bytes, at, message.end);
      if (field.end - field.from < this.least) continue;
      if (field.id === GRAPH.node) this.#node(field, scope);
      else if (field.id === GRAPH.initializer) {
        const fields = this.#fields(field);
        const name = this.#text(fields, TENSOR.name);
        this.#tensor(field, [...scope, name], name, fields);
      } else if (field.id === GRAPH.sparse) this.#sparse(field, scope);
    }
  }

  #sparse(message: WireField, path: readonly string[], isAttribute = false): void {
    const values = this.#fields(message).findLast(f => f.id === SPARSE_VALUES);
    if (!values) return;
    const name = isAttribute ? [] : [this.#text(this.#fields(values), TENSOR.name)];
    this.#tensor(values, [...path, ...name, 'values']);
  }

  #node(message: WireField, scope: readonly string[]): void {
    if (!hasField(this.bytes, message, NODE.attribute)) return;
    const fields = this.#fields(message);
    const attributes = fields.filter(f => f.id === NODE.attribute);
    const outputs = fields.filter(f => f.id === NODE.output).map(f => this.#text([f], NODE.output));
    const output = outputs.find(name => name) ?? '';
    const isConstant =
      this.#text(fields, NODE.opType) === 'Constant' && !readDomain(this.#text(fields, NODE.domain));
    for (const field of attributes) this.#attribute(field, [...scope, output], isConstant);
  }

  #attribute(message: WireField, owner: readonly string[], isConstant: boolean): void {
    const fields = this.#fields(message);
    const path = [...owner, this.#text(fields, ATTRIBUTE.name)];
    const name = isConstant ? owner.at(-1) : undefined;
    let [tensors, graphs] = [0, 0];
    for (const field of fields) {
      if (field.id === ATTRIBUTE.t) this.#tensor(field, path, name);
      else if (field.id === ATTRIBUTE.g) this.#graph(field, path);
      else if (field.id === ATTRIBUTE.tensors) this.#tensor(field, [...path, `${tensors++}`]);
      else if (field.id === ATTRIBUTE.graphs) this.#graph(field, [...path, `${graphs++}`]);
      else if (field.id === ATTRIBUTE.sparse) this.#sparse(field, path, true);
    }
    if (isConstant && /^value_floats?$/.test(path.at(-1)!)) this.#numbers(fields, path);
  }

  /** The floating-point numbers of an attribute. */
  #numbers(fields: readonly WireField[], path: readonly string[]): void {
    const isList = path.at(-1) === 'value_floats';
    const own = fields.filter(f => f.id === (isList ? ATTRIBUTE.floats : ATTRIBUTE.f));
    const ranges = own.map(({ from, end }) => ({ offset: from, length: end - from }));
    const size = ranges.reduce((n, { length }) => n + length, 0) / 4;
    this.#add(path, path.at(-2), {
      dtype: 'float32',
      dims: isList ? [size] : [],
      ranges,
      external: undefined,
      message: undefined,
    });
  }

  #tensor(message: WireField, path: readonly string[], name?: string, fields = this.#fields(message)): void {
    const { from, end } = message;
    const proto = parse('TensorProto', this.bytes.subarray(from, end));
    const dtype = readDtype(proto);
    const dims = readDims(proto);
    const length = byteLength(
      dtype,
      dims.reduce((n, d) => n * d, 1),
    );
    const external = proto.dataLocation ? readExternal(proto, length, this.folder) : undefined;
    const ranges = external ? [] : this.#elements(fields, dtype);
    this.#add(path, name, { dtype, dims, ranges, external, message: { offset: from, length: end - from } });
  }

  #elements(fields: readonly WireField[], dtype: DType): Range[] | undefined {
    const raw = fields.filter(f => f.id === TENSOR.rawData && f.end > f.from).slice(-1);
    const own = raw.length ? raw : fields.filter(f => f.id === FIELD[elementField(dtype)]);
    if (!raw.length && !isPlain(dtype) && own.length) return undefined;
    return own.map(({ from, end }) => ({ offset: from, length: end - from }));
  }

  #add(path: readonly string[], name: string | undefined, stored: Omit<StoredTensor, 'name'>): void {
    const place = placeOf(path);
    if (!this.tensors.has(place)) this.tensors.set(place, { name: nameInMain(path, name), ...stored });
  }
}

/** Subgraphs' paths are longer than those of the main graph's initializers and Constants. */
function nameInMain(path: readonly string[], name: string | undefined): string | undefined {
  return path[0] === '' && path.length <= 3 ? name : undefined;
}
