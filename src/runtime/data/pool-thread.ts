/** The thread that `Pool` starts. */
import { parentPort, workerData } from 'node:worker_threads';
import { AgdError } from '../../graph/errors.js';
import type { Tensor } from '../../graph/tensor.js';
import { makeEncoding } from './encoding.js';
import type { Packed, Reply, Setup, Task } from './pool.js';
import { reopenSource } from './sources/open.js';

const { encoding: spec, source: opened, rows: kept, name } = workerData as Setup;
const port = parentPort!;
const encoding = makeEncoding(spec);
const source = opened && reopenSource(opened, kept);
// Where it fails, the task that needs it is told.
source?.catch(() => {});

port.on('message', async ({ id, task }: { id: number; task: Task }) => {
  try {
    const arrays = [...(await run(task))].map(pack);
    port.postMessage(
      { id, arrays } satisfies Reply,
      arrays.map(({ bytes }) => bytes.buffer as ArrayBuffer),
    );
  } catch (error) {
    const { message } = error as Error;
    const failure = error instanceof AgdError ? { code: error.code, message } : { message };
    port.postMessage({ id, error: failure } satisfies Reply);
  }
});

async function run(task: Task): Promise<Map<string, Tensor>> {
  if ('block' in task) {
    const block = await (await source!).read(task.block, encoding.fields);
    return encoding.encode(block, { source: name, firstRow: task.firstRow });
  }
  const { records, rows, pass } = task;
  return encoding.encode({ rows: rows.length, values: records }, { source: name, firstRow: 1, rows, pass });
}

/** With bytes of its own, which can be handed over. */
function pack([name, { dtype, dims, bytes }]: [string, Tensor]): Packed {
  const isOwn = bytes.byteOffset === 0 && bytes.length === bytes.buffer.byteLength;
  return { name, dtype, dims, bytes: isOwn ? bytes : bytes.slice() };
}
