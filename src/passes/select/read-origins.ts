/**
 * Reads what a file records about the origin of its tensors, which takes precedence over rules based on their use and
 * contents.
 */
import { isFloat } from '../../graph/dtype.js';
import { allGraphs, type Graph, type Model, type Node, type Value } from '../../graph/ir.js';
import { graphMetadata, nodeMetadata, valueMetadata } from '../../graph/proto/metadata.js';

/**
 * - `parameter`: a parameter of the framework, or computed from one;
 * - `constant`: a buffer of the framework, or a constant of the program;
 * - `named`: part of a module's state, a parameter or a buffer. The exporter gives constants of the program other
 *   names.
 *
 * `why` is shown to the user.
 */
export type Origin = { kind: 'parameter' | 'constant' | 'named'; why: string };

/** The initializers of a model and outputs of its Constant nodes whose origin is recorded. */
export type Origins = Map<Value, Origin>;

/**
 * Reads the metadata and names that exporters write. PyTorch's newer exporter records all parameters and buffers of
 * the program, and the sources of each folded constant. Its older exporter writes constants of the program as
 * Constant nodes, and gives names of modules only to their state.
 */
export function readOrigins(model: Model): Origins {
  const { graph } = model;
  const signature = signatureOf(graph);
  const constants = new Set<Value>();
  for (const { nodes } of allGraphs(graph))
    for (const node of nodes)
      if (node.opType === 'Constant' && node.outputs[0]) constants.add(node.outputs[0]);
  const initializers = [...allGraphs(graph)].flatMap(g => [...g.initializers.keys()]);
  const named = (v: Value) => signature.kinds.get(v.name) ?? KINDS[valueMetadata(v).get(KIND) ?? ''];
  const isPyTorch = model.producerName === 'pytorch';
  const isNewer = signature.kinds.size > 0 || initializers.some(v => valueMetadata(v).has(KIND));
  const isOlder =
    isPyTorch && !isNewer && initializers.some(v => isFloat(v.dtype) && v.shape?.length && isOwnName(v.name));
  const here = new Set(
    initializers.flatMap(v => [v.name, ...(isLaidOut(v, signature.kinds) ? sourcesOf(v) : [])]),
  );
  const told = (v: Value): Origin | undefined => {
    const kind = named(v);
    if (kind) return { kind: kind === 'parameter' ? kind : 'constant', why: `the file says: a ${kind}` };
    const folded = valueMetadata(v).get(FOLDED_FROM);
    if (folded !== undefined && signature.kinds.size) return foldedFrom(v, signature.kinds, here);
    // Batch normalization that was folded into a convolution without a bias.
    const layer = /^(.*)_bias$/.exec(v.name)?.[1];
    if (layer !== undefined && signature.kinds.get(layer) === 'parameter')
      return { kind: 'parameter', why: `folded into the layer of ${layer}` };
    const isNumber = constants.has(v) || (isNewer && /^val_\d+$/.test(v.name));
    if (CONSTANT_NODE.test(v.name) || (isPyTorch && (isOlder || isNewer) && isNumber))
      return { kind: 'constant', why: 'the file says: a constant of the program' };
    if (isOlder && isOwnName(v.name)) return { kind: 'named', why: '' };
    return undefined;
  };
  return new Map(
    [...initializers, ...constants].flatMap(v => (origin => (origin ? [[v, origin]] : []))(told(v))),
  );
}

const KIND = 'pkg.torch.export.graph_signature.InputSpec.kind';
const FOLDED_FROM = 'pkg.onnxscript.optimizer.folded_from';
const SIGNATURE = 'pkg.torch.export.ExportedProgram.graph_signature';
const CALL = 'pkg.torch.onnx.fx_node';

type Kind = 'parameter' | 'buffer' | 'constant of the program';
const KINDS: Record<string, Kind> = {
  PARAMETER: 'parameter',
  BUFFER: 'buffer',
  CONSTANT_TENSOR: 'constant of the program',
};

/** PyTorch's older exporter: whether a name is that of a module's state. */
const isOwnName = (name: string) => !/^(onnx::|\/|\d+$)|_output_\d+$/.test(name);
/** A Constant node of PyTorch's older exporter, which another tool may have converted to an initializer. */
const CONSTANT_NODE = /(^|\/)Constant(_\d+)?_output_0$/;

/** `targets`: names in the file, by the names that calls of the exported program use. */
export type Signature = { kinds: ReadonlyMap<string, Kind>; targets: ReadonlyMap<string, string> };

/** All parameters and buffers of the exported program, including those that are no longer in the file. */
export function signatureOf(graph: Graph): Signature {
  const kinds = new Map<string, Kind>();
  const targets = new Map<string, string>();
  for (const line of graphMetadata(graph).get(SIGNATURE)?.split('\n') ?? []) {
    const [, argument, kind, target] = /^(\w+): ([A-Z_]+) target='([^']*)'/.exec(line) ?? [];
    if (!argument || !target || !KINDS[kind!]) continue;
    kinds.set(target, KINDS[kind!]!);
    targets.set(argument, target);
  }
  return { kinds, targets };
}

/** The parameters and buffers read by the call that the exporter converted to a node; undefined if not recorded. */
export function readByCall(node: Node, { targets }: Signature): string[] | undefined {
  const text = nodeMetadata(node).get(CALL);
  if (text === undefined) return undefined;
  return [...text.matchAll(/%(\w+)/g)].flatMap(([, name]) => targets.get(name!) ?? []);
}

/** The names of the values that the exporter computed a constant from. */
export const sourcesOf = (value: Value) => readList(valueMetadata(value).get(FOLDED_FROM) ?? '');

/** A list of names in Python's notation. */
const readList = (text: string) => [...text.matchAll(/'([^']*)'/g)].map(([, name]) => name!);

/** Calls that only change the layout of elements, by name; `val` is the name of intermediate values. */
const LAYOUT = new Set(
  'val t transpose permute view reshape unsqueeze squeeze flatten clone contiguous alias detach to _to_copy cat stack slice select getitem split split_with_sizes chunk'.split(
    ' ',
  ),
);

/** Whether a folded constant is its sources in another layout. */
function isLaidOut(value: Value, kinds: ReadonlyMap<string, Kind>): boolean {
  const steps = [value.name, ...sourcesOf(value).filter(name => !kinds.has(name))];
  return steps.every(name => LAYOUT.has(name.replace(/(_cast|_\d+)+$/, '')));
}

/**
 * A constant that was computed from parameters replaces them. If these are in the file (`here`) and train there, the
 * constant is a copy as of the export and is left unchanged.
 */
function foldedFrom(value: Value, kinds: ReadonlyMap<string, Kind>, here: ReadonlySet<string>): Origin {
  const of = (kind: Kind) => sourcesOf(value).filter(name => kinds.get(name) === kind);
  const [parameters, buffers] = [of('parameter'), of('buffer')];
  if (!parameters.length) {
    const why = buffers.length ? `computed from buffers (${listed(buffers)})` : 'a constant of the program';
    return { kind: 'constant', why: `the file says: ${why}` };
  }
  const why = `folded from ${listed(parameters)}`;
  if (isLaidOut(value, kinds)) return { kind: 'parameter', why };
  const isCopy = parameters.every(name => here.has(name));
  return { kind: isCopy ? 'constant' : 'parameter', why: `${why}: export with optimize=False` };
}

const listed = (names: readonly string[]) => names.slice(0, 3).join(', ') + (names.length > 3 ? ' ...' : '');
