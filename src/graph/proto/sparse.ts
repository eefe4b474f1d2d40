/** Reads sparse tensors, which the IR keeps as decoded. */
import { AgdError } from '../errors.js';
import type { Graph, Node } from '../ir.js';
import type { Tensor } from '../tensor.js';
import { amend } from './message.js';
import type { GraphExtra } from './read.js';
import type { AttributeProto, SparseTensorProto, TensorProto } from './schema.js';
import { noFiles, readDims, readTensor } from './tensor.js';

/** A tensor of extents `dims` with these `values` and zeros elsewhere; `indices` are [count] flat ones, or [count, rank]. */
export type SparseTensor = { name: string; values: Tensor; indices: Tensor; dims: number[] };

/** One per message, so that the identity of its tensors is stable. */
const made = new WeakMap<SparseTensorProto, SparseTensor>();

function read(proto: SparseTensorProto): SparseTensor {
  let sparse = made.get(proto);
  if (sparse) return sparse;
  const surroundings = { folder: '.', read: noFiles };
  const tensor = (t: unknown) => readTensor((t ?? {}) as TensorProto, surroundings);
  const [values, indices] = [tensor(proto.values), tensor(proto.indices)];
  sparse = {
    name: proto.values?.name ?? '',
    values,
    indices,
    dims: readDims({ name: proto.values?.name, dims: proto.dims }),
  };
  const { dims } = sparse.indices;
  const count = sparse.values.size;
  const fits =
    sparse.values.dims.length === 1 &&
    (`${dims}` === `${count}` || `${dims}` === `${[count, sparse.dims.length]}`);
  if (sparse.indices.dtype !== 'int64' || !fits)
    throw new AgdError(
      'invalid-model',
      `Sparse tensor '${sparse.name}' has indices of another number than values.`,
    );
  made.set(proto, sparse);
  return sparse;
}

export function sparseInitializers(graph: Graph): SparseTensor[] {
  return ((graph.extra as GraphExtra | undefined)?.rest?.sparseInitializer ?? []).map(read);
}

/** Removes the graph's sparse initializers. */
export function dropSparseInitializers(graph: Graph): void {
  const extra = graph.extra as GraphExtra | undefined;
  if (!extra?.rest?.sparseInitializer) return;
  graph.extra = { ...extra, rest: amend(extra.rest, { sparseInitializer: undefined }) } satisfies GraphExtra;
}

/** The sparse tensor of a Constant node. */
export function sparseConstant({ opType, domain, attrs }: Node): SparseTensor | undefined {
  if (opType !== 'Constant' || domain !== '') return undefined;
  const attr = attrs.get('sparse_value');
  const proto = (attr?.extra as AttributeProto | undefined)?.sparseTensor as SparseTensorProto | undefined;
  return proto && read(proto);
}
