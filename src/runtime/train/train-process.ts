/** The process that `trainInWorker` starts. */
import { AgdError } from '../../graph/errors.js';
import { flushDenormals } from '../session.js';
import { runTrainJob, type TrainJob } from './train-job.js';
import type { Answer, Order } from './worker.js';

const signal = { aborted: false };

process.on('message', (order: Order) => {
  if (order === 'stop') signal.aborted = true;
  else void main(order.job);
});

// A terminal sends signals to all processes that it runs: what becomes of the run is decided by the one that started this.
for (const name of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(name, () => {});
process.on('disconnect', () => process.kill(process.pid, 'SIGKILL'));

async function main(job: TrainJob): Promise<void> {
  flushDenormals();
  const post = (answer: Answer) => process.send!(answer, undefined, undefined, () => {});
  let failed = false;
  try {
    await runTrainJob(job, event => post({ event }), signal);
  } catch (error) {
    failed = true;
    post(
      error instanceof AgdError ? { error: { code: error.code, message: error.message } } : { bug: error },
    );
  }
  // A rank that failed is ended by the process that started it.
  if (failed && job.distributed) return;
  process.send!('done' satisfies Answer, undefined, undefined, () => process.exit());
}
