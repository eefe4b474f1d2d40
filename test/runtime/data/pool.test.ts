import { EventEmitter } from 'node:events';
import { beforeEach, expect, it, vi } from 'vitest';
import { Pool } from '../../../src/runtime/data/pool.js';

/** A thread that replies when it is told to. */
class FakeWorker extends EventEmitter {
  static all: FakeWorker[] = [];
  readonly tasks: number[] = [];
  constructor() {
    super();
    FakeWorker.all.push(this);
  }
  ref() {}
  unref() {}
  postMessage({ id }: { id: number }) {
    this.tasks.push(id);
  }
  async terminate() {
    this.emit('exit', 1);
  }
}

vi.mock('node:worker_threads', () => ({
  get Worker() {
    return FakeWorker;
  },
}));
beforeEach(() => {
  FakeWorker.all = [];
});

it('starts no thread once it is closed, and rejects what is not done', async () => {
  const pool = new Pool({ encoding: { recipe: { inputs: [] } } as never, name: 'data' }, 1);
  const tasks = [0, 1, 2, 3].map(block => pool.run({ block, firstRow: 1 }));
  const outcomes = Promise.allSettled(tasks);
  const [worker] = FakeWorker.all;
  expect(worker!.tasks).toEqual([0, 1]);
  const closing = pool.close();
  worker!.emit('message', { id: 0, arrays: [] });
  await closing;
  expect((await outcomes).map(({ status }) => status)).toEqual(Array(4).fill('rejected'));
  await expect(pool.run({ block: 4, firstRow: 1 })).rejects.toThrow('The data was closed');
  expect(FakeWorker.all).toHaveLength(1);
});

it('starts no thread for a reply that comes while the threads end', async () => {
  const pool = new Pool({ encoding: { recipe: { inputs: [] } } as never, name: 'data' }, 1);
  const outcomes = Promise.allSettled([0, 1, 2].map(block => pool.run({ block, firstRow: 1 })));
  const [worker] = FakeWorker.all;
  worker!.terminate = async () => {
    worker!.emit('message', { id: 0, arrays: [] });
    worker!.emit('exit', 1);
  };
  await pool.close();
  expect((await outcomes).map(({ status }) => status)).toEqual(['fulfilled', 'rejected', 'rejected']);
  expect(FakeWorker.all).toHaveLength(1);
});
