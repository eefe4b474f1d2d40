/** Infers the types and shapes of all values with the runtime, and fills in what it leaves open. */
import { withGraph } from '../../graph/clone.js';
import { isFloat } from '../../graph/dtype.js';
import {
  type Attr,
  type Dim,
  Graph,
  hasSubgraphs,
  Model,
  Node,
  type TensorType,
  Value,
  type ValueType,
} from '../../graph/ir.js';
import { Names } from '../../graph/names.js';
import type { Tensor } from '../../graph/tensor.js';
import { bodyInputTypes, bodyOutputTypes, settleLoop } from '../../ops/core/bodies.js';
import { Builder } from '../../ops/core/builder.js';
import { followsInputs, isCertain } from '../../ops/core/follows.js';
import { inferTypes } from '../../ops/core/infer.js';

/** Returns the types of a model's graph outputs by name; the runtime implements it with a session. */
export type ShapeOracle = {
  (model: Model): Promise<Map<string, ValueType>>;
  /** Set if there is data to run the model on, which gives ranks that nothing else does. */
  observed?: Observed;
};

export type Observed = {
  /** The rank of the data for this input. */
  rank(input: string): number | undefined;
  /**
   * Types of the graph outputs, with ranks observed in a run on the data and on `values` by input name. Empty if
   * these do not cover all inputs of the model.
   */
  run(model: Model, values: ReadonlyMap<string, Tensor>): Promise<Map<string, ValueType>>;
};

/** Operators, beside those that follow their inputs, that pass extents on. */
const PASSING = new Set(['Transpose', 'MatMul']);

/** The domains whose operators `inferTypes` supports. */
const DOMAINS = new Set(['', 'ai.onnx.ml']);

/**
 * Larger initializers are inputs of the model that the oracle gets: shapes do not depend on their values. Integers may be
 * extents or positions, but not so many of them.
 */
const SMALL = 64;
const SMALL_INTEGERS = 2 ** 16;
const decidesShapes = ({ dtype, size }: Tensor) => size <= (isFloat(dtype) ? SMALL : SMALL_INTEGERS);

/**
 * Sets the type of every value that a node of the main graph writes, as the runtime infers it: the values become
 * untyped outputs of a copy of the graph, whose types the oracle returns. Types that it leaves open are filled in
 * from the file's declarations, then from the node's inputs, then from a run on data. Returns whether any type was
 * added.
 */
export async function inferShapes(model: Model, oracle: ShapeOracle): Promise<boolean> {
  const { graph } = model;
  for (const [value, tensor] of graph.initializers)
    value.type ??= { kind: 'tensor', dtype: tensor.dtype, shape: tensor.dims };
  if (oracle.observed) setInputRanks(graph, oracle.observed);
  // A session with fewer outputs is created faster, and the types of these follow from others.
  const returned = new Set<Value | null>(graph.outputs);
  const follows = (node: Node, v: Value | null) => followsInputs(node) && !returned.has(v);
  for (const node of graph.nodes)
    for (const value of node.outputs) if (value && follows(node, value)) value.type = undefined;
  // Adds no nodes, so that it needs no names.
  const g = new Builder(graph, { names: new Names(), opsets: model.opsetImports });
  const { certain, open } = tellCertain(g);
  const asked = open.flatMap(n => n.outputs.filter(v => v !== null && !follows(n, v))) as Value[];
  const declared = new Map(asked.map(v => [v, v.type]));
  // A branch may have no nodes, only an initializer that it returns.
  const types = asked.length ? await oracle(probe(model, open, asked, certain)) : new Map();
  for (const value of asked) value.type = types.get(value.name) ?? value.type;
  await forgetUnknownRanks(model, open, asked, certain, oracle);
  const isFree = graph.inputs.some(v => v.shape?.some(d => typeof d !== 'number'));
  for (const value of asked) value.type = withDeclared(value.type, declared.get(value), isFree);
  await fillInAll(model, g, oracle);
  believeNames(g, certain);
  if (oracle.observed && (await observe(model, oracle.observed))) await fillInAll(model, g, oracle);
  return types.size + certain.size > 0;
}

/** An input without a shape in the file has the rank of its data. */
function setInputRanks({ inputs }: Graph, observed: Observed): void {
  for (const value of inputs) {
    const rank = value.type?.kind === 'tensor' && !value.shape ? observed.rank(value.name) : undefined;
    if (rank !== undefined)
      value.type = { kind: 'tensor', dtype: value.dtype!, shape: Array(rank).fill(null) };
  }
}

/**
 * The declared type, for a value that the runtime knows less about because it has no inference for the operator. If
 * batches are variable, a number as the first extent is just the batch size of the export.
 */
function withDeclared(
  told: ValueType | undefined,
  declared: ValueType | undefined,
  isFree: boolean,
): ValueType | undefined {
  if (!told) return declared;
  if (told.kind !== 'tensor' || told.shape || declared?.kind !== 'tensor' || !declared.shape) return told;
  const shape = declared.shape.map((d, i) => (i === 0 && isFree && typeof d === 'number' ? null : d));
  return { ...told, shape };
}

async function fillInAll(model: Model, g: Builder, oracle: ShapeOracle): Promise<void> {
  for (const node of model.graph.nodes)
    if (hasSubgraphs(node)) {
      for (const sub of node.subgraphs()) await inferBody(model, node, sub, oracle);
      setTypes(node, bodyOutputTypes(node));
    } else fillIn(g, node);
}

/**
 * Gives back their names to extents that the file declares as numbers, and the runtime believes, although an operator passes them
 * on: PyTorch's exporter declares the length of its example for what a recurrent layer with `batch_first` returns. The types of
 * `certain` values were inferred like this already.
 */
function believeNames(g: Builder, certain: ReadonlySet<Value | null>): void {
  const isNamed = (d: Dim) => typeof d === 'string';
  const mended = new Set<Value | null>();
  for (const node of g.graph.nodes) {
    if (!mended.size && certain.has(node.outputs[0]!)) continue;
    const passesOn = followsInputs(node) || PASSING.has(node.opType);
    const tells = (v: Value | null) => mended.has(v) || (passesOn && v?.shape?.some(isNamed));
    if (!DOMAINS.has(node.domain) || !node.inputs.some(tells)) continue;
    const types = inferTypes(
      node,
      node.inputs.map(v => (v ? g.of(v) : undefined)),
    );
    for (const [i, value] of node.outputs.entries()) {
      const [told, own] = [value?.type, types[i]];
      if (told?.kind !== 'tensor' || own?.kind !== 'tensor' || own.shape?.length !== told.shape?.length)
        continue;
      const shape = told.shape?.map((d, k) =>
        typeof d === 'number' && isNamed(own.shape![k]!) ? own.shape![k]! : d,
      );
      if (!shape || shape.every((d, k) => d === told.shape![k])) continue;
      value!.type = { ...told, shape };
      mended.add(value);
    }
  }
}

const isUnranked = ({ type }: Value) => type?.kind === 'tensor' && !type.shape;

/** Takes unknown ranks from a run. Returns whether it found any. */
async function observe(model: Model, observed: Observed): Promise<boolean> {
  const open = model.graph.nodes.flatMap(n => n.outputs.flatMap(v => (v && isUnranked(v) ? v : [])));
  if (!open.length) return false;
  const values = new Map([...model.graph.initializers].map(([value, tensor]) => [value.name, tensor]));
  const types = await observed.run(probe(model, model.graph.nodes, open, new Set()), values);
  for (const value of open) value.type = types.get(value.name) ?? value.type;
  return types.size > 0;
}

/**
 * Types the values that follow from their inputs with certainty; returns them, and the other nodes. Session creation
 * takes time for each node. Graph outputs are always left to the oracle, so that a runtime sees the model.
 */
function tellCertain(g: Builder): { certain: ReadonlySet<Value | null>; open: readonly Node[] } {
  const { inputs, initializers, nodes, outputs } = g.graph;
  const given = new Set<Value | null>([...inputs, ...initializers.keys()]);
  const asked = new Set<Value | null>(outputs);
  const certain = new Set<Value | null>();
  const isKnown = (v: Value | null) => certain.has(v) || given.has(v);
  const open = nodes.filter(node => {
    const output = node.outputs[0];
    if (!output || asked.has(output) || !node.inputs.every(isKnown)) return true;
    if (!isCertain(node)) return true;
    const inputs = node.inputs.map(v => g.of(v!));
    output.type = inferTypes(node, inputs)[0];
    certain.add(output);
    return false;
  });
  return { certain, open };
}

/** The same for a subgraph as a model of its own, in which outer values are inputs. */
async function inferBody(model: Model, node: Node, sub: Graph, oracle: ShapeOracle): Promise<void> {
  const types = bodyInputTypes(node);
  sub.inputs.forEach((value, i) => {
    value.type = types[i] ?? value.type;
  });
  const probed = bodyModel(model, sub);
  do {
    if (probed.graph.inputs.some(v => !v.type)) return;
    await inferShapes(probed, oracle);
  } while (node.opType === 'Loop' && settleLoop(sub));
}

/**
 * A subgraph as a model of its own, whose graph is a view: outer values that it reads are inputs, or initializers where
 * their contents may decide shapes.
 */
export function bodyModel(model: Model, sub: Graph): Model {
  const body = Graph.view(sub, { inputs: [], initializers: new Map() });
  for (const value of sub.captures()) {
    const tensor = model.graph.initializers.get(value);
    if (tensor && decidesShapes(tensor)) body.initializers.set(value, tensor);
    else body.inputs.push(value);
  }
  body.inputs.push(...sub.inputs);
  return withGraph(model, body);
}

/**
 * A runtime may report an unknown rank as that of a scalar; the extent of the value's Shape distinguishes the two, but for an
 * element of a sequence.
 */
async function forgetUnknownRanks(
  model: Model,
  nodes: readonly Node[],
  written: readonly Value[],
  certain: ReadonlySet<Value | null>,
  oracle: ShapeOracle,
): Promise<void> {
  const scalars = written.filter(v => v.shape?.length === 0);
  if (scalars.length === 0) return;
  const names = Names.of(model);
  const shapes = scalars.map(v => new Node('Shape', [v], [new Value(names.fresh(`${v.name}_shape`))]));
  const outputs = shapes.map(n => n.outputs[0]!);
  const types = await oracle(probe(model, [...nodes, ...shapes], outputs, certain));
  scalars.forEach((value, i) => {
    const type = types.get(outputs[i]!.name);
    const isElement = value.producer?.opType === 'SequenceAt';
    if (isElement || (type?.kind === 'tensor' && type.shape?.[0] !== 0))
      value.type = { kind: 'tensor', dtype: value.dtype! };
  });
}

/**
 * Infers unknown extents and ranks from a node's inputs, and the types of sequences, which the runtime does not
 * report.
 */
export function fillIn(g: Builder, node: Node): void {
  if (!DOMAINS.has(node.domain) || !node.outputs.some(v => v && isOpen(v.type))) return;
  const types = inferTypes(
    node,
    node.inputs.map(v => (v ? g.of(v) : undefined)),
  );
  setTypes(node, types);
}

function setTypes(node: Node, types: readonly (ValueType | undefined)[]): void {
  node.outputs.forEach((value, i) => {
    const [told, own] = [value?.type, types[i]];
    if (!value || !isOpen(told) || !own) return;
    // A sequence of maps, which an operator without inference returns.
    if (told && told.kind !== 'tensor' && own.kind === 'tensor') return;
    value.type = told?.kind === 'tensor' && own.kind === 'tensor' ? merged(told, own) : own;
  });
}

function isOpen(type: ValueType | undefined): boolean {
  return type?.kind !== 'tensor' || !type.shape || type.shape.includes(null);
}

function merged(told: TensorType, own: TensorType): TensorType {
  const shape = told.shape?.map((d, i) => d ?? own.shape?.[i] ?? null) ?? own.shape;
  return { ...told, shape };
}

/** Below opset 22 the runtime may infer one window more for a pool with `ceil_mode` than its kernel computes. */
function inferenceOpset(model: Model, nodes: readonly Node[]): number {
  const rounds = (attr?: Attr) => attr?.type === 'int' && Number(attr.value) === 1;
  return nodes.some(node => rounds(node.attrs.get('ceil_mode'))) ? Math.max(model.opset, 22) : model.opset;
}

/**
 * These nodes with `outputs` as graph outputs and values of `known` as inputs, without the contents of large weights.
 */
function probe(
  model: Model,
  nodes: readonly Node[],
  outputs: readonly Value[],
  known: ReadonlySet<Value | null>,
): Model {
  const { graph } = model;
  const copy = Graph.view(graph, { nodes, inputs: [], outputs: [], initializers: new Map() });
  const read = new Set(copy.captures());
  copy.inputs = [...graph.inputs, ...[...read].filter(v => known.has(v))];
  for (const [value, tensor] of graph.initializers) {
    if (!read.has(value)) continue;
    if (!decidesShapes(tensor)) {
      if (!graph.inputs.includes(value)) copy.inputs.push(new Value(value.name, value.type));
    } else copy.initializers.set(value, tensor);
  }
  copy.outputs = outputs.map(v => new Value(v.name));
  const result = new Model(copy);
  result.irVersion = model.irVersion;
  result.opsetImports = new Map([...model.opsetImports, ['', inferenceOpset(model, nodes)]]);
  result.functions = model.functions;
  return result;
}
