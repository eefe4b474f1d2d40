/** Threads that make arrays of records: while the session runs, which blocks the thread that trains. */
import { existsSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { fileURLToPath } from 'node:url';
import { Worker } from 'node:worker_threads';
import { AgdError, type ErrorCode } from '../../graph/errors.js';
import { Tensor } from '../../graph/tensor.js';
import type { EncodingSpec } from './encoding.js';
import type { Pass } from './samples.js';
import type { Values } from './source.js';
import type { SourceSpec } from './sources/open.js';

/** What a thread is told when it starts. */
export type Setup = { encoding: EncodingSpec; source?: SourceSpec; name: string };

/** A block of the source that the thread opened, or records themselves, with the numbers of their rows. */
export type Task =
  | { block: number; firstRow: number }
  | { records: ReadonlyMap<string, Values>; rows: Uint32Array; pass?: Pass };

export type Packed = { name: string; dtype: Tensor['dtype']; dims: readonly number[]; bytes: Uint8Array };
export type Reply =
  | { id: number; arrays: Packed[] }
  | { id: number; error: { code?: ErrorCode; message: string } };

const SCRIPT = fileURLToPath(new URL('./pool-thread.js', import.meta.url));

/** Whether threads can be started: not where the library runs from its TypeScript sources. */
export const hasThreads = () => existsSync(SCRIPT);

/** One core is the session's. */
export const threadCount = () => Math.max(1, Math.min(4, availableParallelism() - 1));

type Waiting = { resolve(arrays: Map<string, Tensor>): void; reject(error: Error): void };

/** Tasks go to the thread with the fewest; their results come in any order. */
export class Pool {
  readonly #threads: { worker: Worker; waiting: Map<number, Waiting> }[] = [];
  #next = 0;

  constructor(
    private readonly setup: Setup,
    readonly size = threadCount(),
  ) {}

  run(task: Task): Promise<Map<string, Tensor>> {
    const idle = this.#threads.find(({ waiting }) => waiting.size === 0);
    const thread =
      idle ??
      (this.#threads.length < this.size
        ? this.#start()
        : this.#threads.reduce((a, b) => (b.waiting.size < a.waiting.size ? b : a)));
    const id = this.#next++;
    thread.worker.ref();
    return new Promise((resolve, reject) => {
      thread.waiting.set(id, { resolve, reject });
      thread.worker.postMessage({ id, task });
    });
  }

  #start() {
    const worker = new Worker(SCRIPT, { workerData: this.setup });
    const thread = { worker, waiting: new Map<number, Waiting>() };
    const fail = (error: Error) => {
      for (const { reject } of thread.waiting.values()) reject(error);
      thread.waiting.clear();
      const at = this.#threads.indexOf(thread);
      if (at >= 0) this.#threads.splice(at, 1);
    };
    worker.on('message', (reply: Reply) => {
      const { id } = reply;
      const waiting = thread.waiting.get(id)!;
      thread.waiting.delete(id);
      // A thread without work does not keep the program running.
      if (!thread.waiting.size) worker.unref();
      if ('error' in reply) {
        const { code, message } = reply.error;
        waiting.reject(code ? new AgdError(code, message) : new Error(message));
      } else waiting.resolve(unpack(reply.arrays));
    });
    worker.on('error', fail);
    worker.on('exit', () => fail(new Error('A thread that reads data has ended.')));
    this.#threads.push(thread);
    return thread;
  }

  async close(): Promise<void> {
    await Promise.all(this.#threads.splice(0).map(({ worker }) => worker.terminate()));
  }
}

const unpack = (arrays: readonly Packed[]) =>
  new Map(arrays.map(({ name, dtype, dims, bytes }) => [name, new Tensor(dtype, dims, bytes)]));
