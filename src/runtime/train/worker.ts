/** Runs training in a process of its own: the runtime blocks the event loop while it runs, and a fault in it ends its process. */
import { fork, type IOType, type StdioOptions } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { AgdError, type ErrorCode } from '../../graph/errors.js';
import { crashError } from '../crash.js';
import { withLargePages } from '../large-pages.js';
import type { TrainEvent } from './events.js';
import { withinMemory } from './memory-plan.js';
import { NOTHING_SAVED } from './run-state.js';
import type { TrainJob } from './train-job.js';

/** What the process is sent. */
export type Order = { job: TrainJob } | 'stop';

/** What it answers; `bug` is an error that is not the user's. */
export type Answer =
  | { event: TrainEvent }
  | { error: { code: ErrorCode; message: string } }
  | { bug: unknown }
  | 'done';

/**
 * Runs a training job in a process of its own, with `memory` after trials in others. `signal` stops it after the steps under way; the promise then
 * resolves when the state is written. Where the run has not begun there is nothing to keep, and the process is ended. `kill`
 * ends it in any case, with nothing saved. Rejects as `runTrainJob` does, with `runtime` where the process crashes,
 * and with what `emit` throws, which stops the job as `signal` does.
 */
export async function trainInWorker(
  job: TrainJob,
  emit: (event: TrainEvent) => void,
  signal?: AbortSignal,
  kill?: AbortSignal,
): Promise<void> {
  const { memory } = job;
  // Ranks choose together, when they have met.
  if (memory === undefined || job.distributed) return inProcess(job, emit, signal, kill);
  const tell = (text: string) => emit({ type: 'note', time: Date.now(), text, level: 'warning' });
  const measure = (one: TrainJob) =>
    measured({ ...one, ...NOTHING_SAVED, dryRun: true, findLr: undefined }, signal, kill);
  const planned = await withinMemory({ ...job, memory }, measure, tell);
  return inProcess(planned, emit, signal, kill);
}

/** The memory of a dry run, in a process of its own. */
export async function measured(job: TrainJob, signal?: AbortSignal, kill?: AbortSignal) {
  let [peak, hasStatistics] = [Number.POSITIVE_INFINITY, false];
  const watch = (event: TrainEvent) => {
    if (event.type === 'injected') hasStatistics = event.description.statistics.length > 0;
    if (event.type === 'plan') peak = event.memory.peak;
  };
  try {
    await inProcess(job, watch, signal, kill);
  } catch (error) {
    // What the device has no room for is too much, whatever the process takes.
    if (!(error instanceof AgdError) || error.code !== 'out-of-memory') throw error;
    peak = Number.POSITIVE_INFINITY;
  }
  // A run that is stopped needs no plan.
  return { peak: signal?.aborted || kill?.aborted ? 0 : peak, hasStatistics };
}

const KILLED_RANK =
  'The process was killed (SIGKILL): by itself if a line above says that the launcher cannot be reached, else by the system, as when memory runs out.';

/** The streams of a rank: MPICH's launcher talks to it through a descriptor whose number is in the environment. */
function withLauncher(descriptor: string | undefined): StdioOptions {
  const streams: (IOType | 'ipc' | number)[] = ['ignore', 'inherit', 'inherit'];
  const fd = Number(descriptor ?? Number.NaN);
  if (!(fd > 2)) return [...streams, 'ipc'];
  while (streams.length < fd) streams.push('ignore');
  return [...streams, fd, 'ipc'];
}

async function inProcess(
  job: TrainJob,
  emit: (event: TrainEvent) => void,
  signal?: AbortSignal,
  kill?: AbortSignal,
): Promise<void> {
  const child = fork(fileURLToPath(new URL('train-process.js', import.meta.url)), {
    // See `freeMemory`.
    execArgv: [...process.execArgv, '--expose-gc'],
    env: withLargePages(),
    serialization: 'advanced',
    stdio: job.distributed ? withLauncher(process.env.PMI_FD) : ['ignore', 'inherit', 'inherit', 'ipc'],
  });
  let [begun, done, ended] = [false, false, false];
  let failure: { cause: unknown } | undefined;
  const send = (order: Order) => {
    if (child.connected) child.send(order, () => {});
  };
  const end = () => {
    ended = true;
    child.kill('SIGKILL');
  };
  const stop = () => (begun ? send('stop') : end());
  const answer = (message: Answer) => {
    if (message === 'done') done = true;
    else if ('error' in message)
      failure ??= { cause: new AgdError(message.error.code, message.error.message) };
    else if ('bug' in message) failure ??= { cause: message.bug };
    else if (!failure) {
      begun ||= message.event.type === 'start';
      try {
        emit(message.event);
      } catch (cause) {
        failure = { cause };
        stop();
      }
    }
  };
  signal?.addEventListener('abort', stop);
  kill?.addEventListener('abort', end);
  try {
    if (signal?.aborted || kill?.aborted) end();
    else send({ job });
    await new Promise<void>((resolve, reject) => {
      child.on('message', (message: Answer) => {
        answer(message);
        if (!failure || !job.distributed) return;
        // The launcher ends all ranks as soon as one of their processes does: this one has to tell why before that.
        reject(failure.cause);
        child.unref();
        setImmediate(() => child.disconnect());
      });
      child.on('error', reject);
      let open = 2;
      const close = () => {
        if (--open > 0) return;
        if (failure) reject(failure.cause);
        else if (done || ended) resolve();
        else if (job.distributed && child.signalCode === 'SIGKILL')
          reject(new AgdError('collective', KILLED_RANK));
        else reject(crashError(child.exitCode, child.signalCode));
      };
      // The last messages may arrive after the process has ended.
      child.on('exit', close);
      child.on('disconnect', close);
    });
  } finally {
    signal?.removeEventListener('abort', stop);
    kill?.removeEventListener('abort', end);
  }
}
