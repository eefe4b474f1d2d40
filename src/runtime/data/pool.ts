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
export type Setup = { encoding: EncodingSpec; source?: SourceSpec; rows?: Uint32Array; name: string };

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

const MOST_THREADS = 4;

/** One core is the session's, where one runs. */
export const threadCount = (hasSession = true) =>
  Math.max(1, Math.min(MOST_THREADS, availableParallelism() - (hasSession ? 1 : 0)));

const CLOSED = 'The data was closed while it was being read.';

type Waiting = { resolve(arrays: Map<string, Tensor>): void; reject(error: Error): void };

/** Tasks that a thread has at a time: while it computes, the next file is read. More would only take memory. */
const AT_ONCE = 2;

/** Tasks are done in the order in which they are given; their results come in any order. */
export class Pool {
  readonly #threads: { worker: Worker; waiting: Map<number, Waiting> }[] = [];
  readonly #queue: ({ id: number; task: Task } & Waiting)[] = [];
  #next = 0;
  #isClosed = false;

  constructor(
    private readonly setup: Setup,
    readonly size = threadCount(),
  ) {}

  run(task: Task): Promise<Map<string, Tensor>> {
    const id = this.#next++;
    return new Promise((resolve, reject) => {
      if (this.#isClosed) throw new Error(CLOSED);
      this.#queue.push({ id, task, resolve, reject });
      this.#assign();
    });
  }

  /** Gives tasks to threads that have few. */
  #assign(): void {
    while (this.#queue.length) {
      const least = this.#threads.reduce((n, { waiting }) => Math.min(n, waiting.size), AT_ONCE);
      const free =
        least > 0 && this.#threads.length < this.size
          ? this.#start()
          : this.#threads.find(({ waiting }) => waiting.size === least);
      if (!free || free.waiting.size >= AT_ONCE) return;
      const { id, task, resolve, reject } = this.#queue.shift()!;
      free.worker.ref();
      free.waiting.set(id, { resolve, reject });
      free.worker.postMessage({ id, task });
    }
  }

  #start() {
    const worker = new Worker(SCRIPT, { workerData: this.setup });
    const thread = { worker, waiting: new Map<number, Waiting>() };
    const fail = (error: Error) => {
      for (const { reject } of [...thread.waiting.values(), ...this.#queue.splice(0)]) reject(error);
      thread.waiting.clear();
      const at = this.#threads.indexOf(thread);
      if (at >= 0) this.#threads.splice(at, 1);
    };
    worker.on('message', (reply: Reply) => {
      const { id } = reply;
      const waiting = thread.waiting.get(id);
      // A reply that was under way when the pool was closed.
      if (!waiting) return;
      thread.waiting.delete(id);
      if ('error' in reply) {
        const { code, message } = reply.error;
        waiting.reject(code ? new AgdError(code, message) : new Error(message));
      } else waiting.resolve(unpack(reply.arrays));
      this.#assign();
      // A thread without work does not keep the program running.
      if (!thread.waiting.size) worker.unref();
    });
    worker.on('error', fail);
    worker.on('exit', () => fail(new Error('A thread that reads data has ended.')));
    this.#threads.push(thread);
    return thread;
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    for (const { reject } of this.#queue.splice(0)) reject(new Error(CLOSED));
    await Promise.all(this.#threads.splice(0).map(({ worker }) => worker.terminate()));
  }
}

const unpack = (arrays: readonly Packed[]) =>
  new Map(arrays.map(({ name, dtype, dims, bytes }) => [name, new Tensor(dtype, dims, bytes)]));
