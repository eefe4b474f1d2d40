/** Runs that write the next state into arrays that are there; see `Session.runInto`. */
import { byteLength, type DType } from '../../graph/dtype.js';
import { Graph, Model, Node, Value } from '../../graph/ir.js';
import { Tensor } from '../../graph/tensor.js';
import { readDescription, readStep } from '../../passes/file/step-metadata.js';
import { withUnreadOutput } from '../../passes/run/unread-output.js';
import { type Feeds, Session } from '../session.js';

/** Whether runs on the CPU can write losses and this state into arrays: if their extents are known, and the runtime does it. */
export async function canWriteInto(model: Model, state: Feeds): Promise<boolean> {
  const { name } = readStep(model).loss;
  const loss = model.graph.outputs.find(v => v.name === name)!;
  const isKnown = loss.dtype === 'float32' && loss.shape?.length === 0;
  return isKnown && Object.values(state).every(Session.takes) && (await runtimeWritesInto());
}

let tried: Promise<boolean> | undefined;

/** Tried once, with a model of one node: another version of the binding may refuse what this one does. */
function runtimeWritesInto(): Promise<boolean> {
  tried ??= tryOut().catch(() => false);
  return tried;
}

async function tryOut(): Promise<boolean> {
  const [x, y] = ['x', 'y'].map(name => new Value(name, { kind: 'tensor', dtype: 'int64', shape: [] }));
  const graph = new Graph('trial');
  graph.inputs = [x!];
  graph.append(new Node('Identity', [x!], [y!]));
  graph.outputs = [y!];
  const trial = new Model(graph);
  trial.opsetImports = new Map([['', 13]]);
  const { model, unread } = withUnreadOutput(trial);
  const session = await Session.create(model);
  try {
    await session.runInto({ x: Tensor.filled('int64', [], 1) }, { y: emptied('int64', []) }, unread, 'y');
    return true;
  } finally {
    await session.release();
  }
}

/** A tensor for a run to fill. */
export function emptied(dtype: DType, dims: readonly number[]): Tensor {
  const size = dims.reduce((n, d) => n * d, 1);
  return new Tensor(dtype, dims, new Uint8Array(byteLength(dtype, size)));
}

/** The tensor in bytes that the runtime can write: what is not at a multiple of its size is copied. */
export function aligned({ dtype, dims, bytes }: Tensor): Tensor {
  return new Tensor(dtype, dims, bytes.byteOffset % 8 === 0 ? bytes : new Uint8Array(bytes));
}

/** States from this size on are replaced in place, each tensor from that one on. */
const LARGE = { state: 2 ** 26, tensor: 2 ** 18 };

/** Whether steps write the next state over the one before, so that it takes memory once. */
export type InPlaceOptions = {
  /**
   * Whether steps write the next state over the one before where they can, so that it is in memory once. A step whose loss is
   * not finite changes nothing, but one whose update is not finite then leaves no state. Default: if the state has 64 MB or more.
   */
  inPlace?: boolean;
};

/** The states of a run's model that its steps are to replace; arranges its nodes for that. */
export async function replacedStates(
  model: Model,
  state: Feeds,
  { inPlace }: InPlaceOptions,
): Promise<Set<string>> {
  const size = Object.values(state).reduce((n, tensor) => n + tensor.byteLength, 0);
  const { skipped, scaling } = readDescription(model);
  // A step that is skipped needs the state before it.
  if (skipped || scaling || !(inPlace ?? size >= LARGE.state)) return new Set();
  const { updateInPlace } = await import('../../passes/run/update-in-place.js');
  return updateInPlace(model, inPlace ? 1 : LARGE.tensor);
}

/** Losses of a run that are known to be written: no run computes this NaN. */
export function unwritten(count: number): Tensor {
  return new Tensor('float32', [count], new Uint8Array(4 * count).fill(0xff));
}

/** The losses of the first steps, up to one that was not written. */
export function writtenLosses({ bytes, dims }: Tensor): number[] {
  const bits = new Uint32Array(bytes.buffer, bytes.byteOffset, dims[0]);
  const end = bits.indexOf(0xffffffff);
  return [...new Float32Array(bytes.buffer, bytes.byteOffset, end < 0 ? dims[0] : end)];
}
