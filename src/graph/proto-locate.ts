/** Where the bytes of a model file's tensors lie. */
import type { DType } from './dtype.js';
import { byteLength } from './dtype.js';
import { parseModel } from './proto.js';
import type { GraphProto, NodeProto, TensorProto } from './proto-schema.js';
import { elementViews, readDims, readDtype, readExternal } from './proto-tensor.js';
import type { ExternalData } from './tensor.js';

export type Range = { offset: number; length: number };

/**
 * A stored tensor. `ranges`, in order, hold its little-endian elements: in the model file, or none where
 * `external` says where else they are. Undefined where the file has no such bytes, but variable-length numbers.
 */
export type StoredTensor = {
  dtype: DType;
  dims: number[];
  ranges: Range[] | undefined;
  external: ExternalData | undefined;
};

/**
 * The initializers of a model file by name, and the values of its Constant nodes by the name of their output;
 * those of subgraphs too, where no outer one has that name. External data is taken to lie in `folder`.
 */
export function locateTensors(bytes: Uint8Array, folder = '.'): Map<string, StoredTensor> {
  const found = new Map<string, StoredTensor>();
  const add = (name: string | null | undefined, proto: TensorProto) => {
    if (name && !found.has(name)) found.set(name, locate(proto, bytes, folder));
  };
  const visit = (graph: GraphProto): void => {
    for (const tensor of graph.initializer ?? []) add(tensor.name, tensor);
    for (const node of graph.node ?? []) if (constant(node)) add(node.output?.[0], constant(node)!);
    for (const { attribute = [] } of graph.node ?? [])
      for (const { g, graphs = [] } of attribute) for (const sub of g ? [g, ...graphs] : graphs) visit(sub);
  };
  visit(parseModel(bytes).graph!);
  return found;
}

function constant(node: NodeProto): TensorProto | undefined {
  if (node.opType !== 'Constant') return undefined;
  return node.attribute?.find(attr => attr.name === 'value')?.t ?? undefined;
}

function locate(proto: TensorProto, bytes: Uint8Array, folder: string): StoredTensor {
  const dtype = readDtype(proto);
  const dims = readDims(proto);
  const length = byteLength(
    dtype,
    dims.reduce((n, d) => n * d, 1),
  );
  const external = proto.dataLocation ? readExternal(proto, length, folder) : undefined;
  const views = external ? [] : elementViews(proto, dtype);
  // Decoding does not copy: where a view starts is where the file has it.
  const ranges = views?.map(view => ({ offset: view.byteOffset - bytes.byteOffset, length: view.length }));
  return { dtype, dims, ranges, external };
}
