/** The collective operations of a distributed run. */

/** Numbers that can be reduced and gathered. */
export type Numbers = Float32Array | Float64Array | Int32Array | Uint8Array;

export type ReduceOp = 'sum' | 'max';

/**
 * What the processes of a distributed run exchange with each other. All ranks call the same operations in the same order, with
 * arrays of the same type, and of the same length unless stated otherwise. Every rank gets the same bits. An operation throws
 * `collective` if it fails, after which no other one works.
 */
export interface Collective {
  /** The number of this process, from 0. */
  readonly rank: number;
  /** The number of processes. */
  readonly size: number;
  /** What carries the messages, with its version. */
  readonly engine: string;
  /** The machine that this process runs on. */
  readonly host: string;
  /** Replaces the array by the elementwise sum, or maximum, over the ranks. */
  allReduce(data: Exclude<Numbers, Uint8Array>, op?: ReduceOp): Promise<void>;
  /** The arrays of all ranks, in their order; their lengths may differ. */
  allGather<T extends Numbers>(data: T): Promise<T[]>;
  /** The arrays that the ranks have for this one: `parts` are those for the ranks, of which each is of any length. */
  allToAll(parts: readonly Uint8Array[]): Promise<Uint8Array[]>;
  /** This rank's part of the elementwise sum over the ranks; `counts` are the lengths of the parts. */
  reduceScatter<T extends Float32Array | Float64Array>(data: T, counts: readonly number[]): Promise<T>;
  /** Replaces the array by that of rank `root`, 0 if not given. */
  broadcast(data: Numbers, root?: number): Promise<void>;
  /** Resolves when all ranks have called it. */
  barrier(): Promise<void>;
  /** Ends the run on all ranks at once: for errors of one rank, on which the others would wait forever. */
  abort(reason: string): void;
  /** Leaves the run; all ranks call it. A process that is still blocked in it after `timeout` seconds is killed. */
  close(timeout?: number): Promise<void>;
}

/** Rank 0's bytes on all ranks; the others give nothing. */
export async function broadcastBytes(
  collective: Collective,
  bytes: Uint8Array = new Uint8Array(),
): Promise<Uint8Array> {
  const length = Float64Array.of(bytes.length);
  await collective.broadcast(length);
  const all = collective.rank === 0 ? bytes : new Uint8Array(length[0]!);
  await collective.broadcast(all);
  return all;
}

/** Milliseconds between two messages of rank 0 to ranks that wait for it. */
const REMINDER = 200;

/**
 * Runs `work` on rank 0 while the others wait, for whom the result is undefined. They get a message at short intervals: a single
 * operation that takes as long as the work would count as hung. The work must not use the collective. All ranks call it; what the
 * work throws is thrown on rank 0.
 */
export async function onFirstRank<T>(collective: Collective, work: () => Promise<T>): Promise<T | undefined> {
  const result = collective.rank === 0 ? work() : undefined;
  const isDone = Int32Array.of(0);
  while (!isDone[0]) {
    if (result) isDone[0] = await Promise.race([result.then(() => 1), pause(REMINDER)]);
    await collective.broadcast(isDone);
  }
  return result;
}

const pause = (milliseconds: number) =>
  new Promise<number>(resolve => {
    setTimeout(resolve, milliseconds, 0);
  });

/** Whether it is so on any rank. */
export async function anyRank(collective: Collective, isSo: boolean): Promise<boolean> {
  const flag = Int32Array.of(isSo ? 1 : 0);
  await collective.allReduce(flag, 'max');
  return flag[0] === 1;
}

/** The elements of `count` that belong to a rank: consecutive parts, whose sizes differ by one at most. */
export function partOfRank(
  count: number,
  { rank, size }: Pick<Collective, 'rank' | 'size'>,
): [number, number] {
  return [Math.floor((count * rank) / size), Math.floor((count * (rank + 1)) / size)];
}
