/** Asks the runtime for types in a process of its own, so that a fault in its native code is told as any other failure. */
import type { ChildProcess } from 'node:child_process';
import { AgdError } from '../graph/errors.js';
import type { ValueType } from '../graph/ir.js';
import { encodeModel, inline } from '../graph/proto/codec.js';
import { checkAttributes } from '../passes/normalize/check-attributes.js';
import type { ShapeOracle } from '../passes/normalize/infer-shapes.js';
import { crashError } from './crash.js';

/** What the process answers to the bytes of a model. */
export type Answer =
  | { types: Map<string, ValueType> }
  | { error: Pick<AgdError, 'code' | 'message' | 'details'> }
  | { bug: unknown };

/** An oracle that asks the process `types-process`. Throws as `sessionShapes` does, and `runtime` where that process crashes. */
export const typesApart =
  (child: ChildProcess): ShapeOracle =>
  async model => {
    checkAttributes(model.graph);
    const answer = await ask(child, encodeModel(model, inline));
    if ('types' in answer) return answer.types;
    if ('bug' in answer) throw answer.bug;
    const { code, message, ...more } = answer.error;
    throw new AgdError(code, message, more);
  };

/** Only while it is asked does this process wait for the other. */
async function ask(child: ChildProcess, bytes: Uint8Array): Promise<Answer> {
  child.ref();
  child.channel?.ref();
  try {
    return await new Promise((resolve, reject) => {
      const ended = () => reject(crashError(child.exitCode, child.signalCode));
      child
        .once('message', resolve as () => void)
        .once('error', reject)
        .once('exit', ended);
      if (child.connected) child.send(bytes, () => {});
      else if (child.exitCode !== null || child.signalCode) ended();
    });
  } finally {
    for (const event of ['message', 'error', 'exit']) child.removeAllListeners(event);
    child.unref();
    child.channel?.unref();
  }
}
