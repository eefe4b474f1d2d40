/** The process that `typesApart` asks. */
import { AgdError } from '../graph/errors.js';
import { Graph, Model, Node, Value } from '../graph/ir.js';
import { decodeModel } from '../graph/proto/codec.js';
import type { Answer } from './types-apart.js';

/** Loaded before it is needed, and started, which its first session does; where that fails, the answer says so. */
const session = import('./session.js').then(async loaded => {
  await loaded.sessionShapes(identity()).catch(() => {});
  return loaded;
});
session.catch(() => {});

function identity(): Model {
  const graph = new Graph('identity');
  const [x, y] = [new Value('x', { kind: 'tensor', dtype: 'float32', shape: [] }), new Value('y')];
  graph.inputs.push(x);
  graph.append(new Node('Identity', [x], [y]));
  graph.addOutputs(y);
  const model = new Model(graph);
  model.opsetImports.set('', 18);
  return model;
}

process.on('message', async (bytes: Uint8Array) => {
  process.send!(await answer(bytes));
});
process.on('disconnect', () => process.kill(process.pid, 'SIGKILL'));

async function answer(bytes: Uint8Array): Promise<Answer> {
  try {
    const { sessionShapes } = await session;
    // What the runtime refuses is told with what the model says of it.
    return { types: await sessionShapes(bytes).catch(() => sessionShapes(decodeModel(bytes))) };
  } catch (error) {
    if (!(error instanceof AgdError)) return { bug: error };
    const { code, message, details } = error;
    return { error: { code, message, ...(details === undefined ? {} : { details }) } };
  }
}
