/** What follows, after a layer, from its number of outputs: constants of shapes, and the types that the file declares. */
import { cloneGraph } from '../../graph/clone.js';
import { dependents } from '../../graph/dependents.js';
import { type Dim, type Graph, Model, type Node, Value, type ValueType } from '../../graph/ir.js';
import type { Names } from '../../graph/names.js';
import { Tensor } from '../../graph/tensor.js';
import { inferShapes, type ShapeOracle } from '../normalize/infer-shapes.js';

/** Which input of a node is a shape, or sizes by axis. */
const SHAPES: ReadonlyMap<string, number> = new Map([
  ['Reshape', 1],
  ['Expand', 1],
  ['Resize', 3],
]);

/**
 * Writes the new number of outputs into the constant shapes that `nodes`, in order after the layer, take. `axis` is the one
 * of the outputs; negative ones count from the end.
 */
export function updateShapeConstants(
  graph: Graph,
  names: Names,
  nodes: readonly Node[],
  axis: number,
  before: number,
  after: number,
): void {
  let at = axis;
  for (const node of nodes) {
    const perm = node.opType === 'Transpose' ? node.attrs.get('perm') : undefined;
    if (perm?.type === 'ints') at = perm.value.map(Number).indexOf(at < 0 ? at + perm.value.length : at);
    const index = SHAPES.get(node.opType);
    const shape = index === undefined ? undefined : node.inputs[index];
    if (!shape || index === undefined) continue;
    const parts = partsOf(graph, shape);
    const place = placeOf(parts, at, before);
    if (!place) continue;
    const { reader, input, value, tensor, offset } = { ...parts[place.at]! };
    const numbers = tensor!.numbers();
    numbers[offset] = after;
    const made =
      tensor!.dtype === 'int32'
        ? Tensor.from('int32', tensor!.dims, Int32Array.from(numbers))
        : Tensor.from('int64', tensor!.dims, BigInt64Array.from(numbers, BigInt));
    const fresh = new Value(names.fresh(`${value!.name}_adapted`), {
      kind: 'tensor',
      dtype: made.dtype,
      shape: made.dims,
    });
    graph.initializers.set(fresh, made);
    (reader ?? node).setInput(input ?? index, fresh);
  }
}

/** One number of a shape: of which constant it is an element, and which node of a Concat reads that. */
type Part = { known?: number; value?: Value; tensor?: Tensor; offset: number; reader?: Node; input?: number };

/** The numbers of a shape, a constant or a Concat of such and of others; undefined where their count is not known. */
function partsOf(graph: Graph, shape: Value, reader?: Node, input?: number): Part[] {
  const tensor = graph.initializers.get(shape) ?? constantTensor(shape.producer);
  if (tensor)
    return tensor.numbers().map((known, offset) => ({ known, value: shape, tensor, offset, reader, input }));
  const { producer } = shape;
  if (producer?.opType === 'Concat')
    return producer.inputs.flatMap((v, i) => (v ? partsOf(graph, v, producer, i) : []));
  return [{ offset: 0 }];
}

function constantTensor(node: Node | undefined): Tensor | undefined {
  const value = node?.opType === 'Constant' ? node.attrs.get('value') : undefined;
  if (value?.type === 'tensor') return value.value;
  const ints = node?.opType === 'Constant' ? node.attrs.get('value_ints') : undefined;
  return ints?.type === 'ints' ? Tensor.ints(ints.value) : undefined;
}

function placeOf(parts: readonly Part[], axis: number, before: number): { at: number } | undefined {
  const own = axis < 0 ? axis + parts.length : axis;
  if (parts[own]?.known === before) return { at: own };
  const at = parts.findLastIndex(p => p.known === before);
  return at < 0 ? undefined : { at };
}

/** Types the values that depend on `changed` anew, as the runtime sees them; symbolic extents keep their names. */
export async function updateTypes(
  model: Model,
  changed: readonly Value[],
  oracle: ShapeOracle,
): Promise<void> {
  const { graph } = model;
  const written = new Set(dependents(graph.nodes, changed).flatMap(n => n.outputs.filter(v => v !== null)));
  const before = new Map([...written].map(v => [v, v.type]));
  for (const v of written) v.type = undefined;
  const types = await inferred(model, oracle).catch(error => {
    if (error.code !== 'no-kernel') throw error;
    // 16-bit types have few kernels on a CPU; what follows from the nodes' inputs is known without any.
    return inferred(model, async () => new Map());
  });
  for (const v of written) v.type = merged(types.get(v)?.type, before.get(v));
}

/** Copies of the values, with their types. */
async function inferred(model: Model, oracle: ShapeOracle): Promise<Map<Value, Value>> {
  const copies = new Map<Value, Value>();
  const copy = new Model(cloneGraph(model.graph, { values: copies }));
  const { irVersion, opsetImports, functions } = model;
  await inferShapes(Object.assign(copy, { irVersion, opsetImports, functions }), oracle);
  return copies;
}

/** The type as inferred, with the names of extents of the old one where no number is known. */
function merged(now: ValueType | undefined, before: ValueType | undefined): ValueType | undefined {
  if (now?.kind !== 'tensor' || before?.kind !== 'tensor' || !now.shape) return now;
  const old = before.shape?.length === now.shape.length ? before.shape : undefined;
  const named = (d: Dim, i: number) => (typeof d === 'number' || typeof old?.[i] !== 'string' ? d : old[i]!);
  return { ...now, shape: now.shape.map(named) };
}
