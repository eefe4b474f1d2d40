/** The thread that trains: the runtime blocks the event loop while it runs, and a terminal or window must not. */
import { parentPort, Worker, workerData } from 'node:worker_threads';
import { AgdError, type ErrorCode } from '../graph/errors.js';
import { flushDenormals } from './session.js';
import { runTrainJob, type TrainEvent, type TrainJob } from './train-job.js';

type Message = { event: TrainEvent } | { error: { code: ErrorCode; message: string; details?: string } };
type Input = { job: TrainJob; stop: Int32Array };

/**
 * Runs a training job in a thread of its own. `signal` stops it after the step under way; the promise then
 * resolves when the state is written. Rejects as `runTrainJob` does, and with what `emit` throws, which stops the job in
 * the same way.
 */
export async function trainInWorker(
  job: TrainJob,
  emit: (event: TrainEvent) => void,
  signal?: AbortSignal,
): Promise<void> {
  const stop = new Int32Array(new SharedArrayBuffer(4));
  const ask = () => Atomics.store(stop, 0, 1);
  signal?.addEventListener('abort', ask);
  if (signal?.aborted) ask();
  const worker = new Worker(new URL(import.meta.url), { workerData: { job, stop } satisfies Input });
  try {
    await new Promise<void>((resolve, reject) => {
      let failure: { cause: unknown } | undefined;
      worker.on('message', (message: Message) => {
        if ('error' in message) {
          const { code, message: text, details } = message.error;
          failure ??= { cause: new AgdError(code, text, { details }) };
          return;
        }
        try {
          if (!failure) emit(message.event);
        } catch (cause) {
          failure = { cause };
          ask();
        }
      });
      worker.on('error', reject);
      worker.on('exit', code => {
        if (failure) reject(failure.cause);
        else if (code === 0) resolve();
        else reject(new Error(`The training thread ended with code ${code}.`));
      });
    });
  } finally {
    signal?.removeEventListener('abort', ask);
    await worker.terminate();
  }
}

async function main({ job, stop }: Input, post: (message: Message) => void): Promise<void> {
  const signal = {
    get aborted() {
      return Atomics.load(stop, 0) === 1;
    },
  };
  flushDenormals();
  try {
    await runTrainJob(job, event => post({ event }), signal);
  } catch (error) {
    if (!(error instanceof AgdError)) throw error;
    post({ error: { code: error.code, message: error.message, details: error.details } });
  }
}

const input = workerData as Partial<Input> | null;
if (parentPort && input?.job && input.stop) {
  const port = parentPort;
  await main(input as Input, message => port.postMessage(message));
}
