/** The process that `typesApart` asks. */
import { AgdError } from '../graph/errors.js';
import { decodeModel } from '../graph/proto/codec.js';
import type { Answer } from './types-apart.js';

/** Loaded before it is needed; where that fails, the answer says so. */
const session = import('./session.js');
session.catch(() => {});

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
