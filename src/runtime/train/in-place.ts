/** Runs that write the next state into arrays that are there; see `Session.runInto`. */
import { byteLength, type DType } from '../../graph/dtype.js';
import { Graph, Model, Node, Value } from '../../graph/ir.js';
import { Tensor } from '../../graph/tensor.js';
import { readStep } from '../../passes/file/step-metadata.js';
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
