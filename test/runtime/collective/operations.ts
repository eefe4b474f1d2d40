/** What every collective has to do: shared by the ranks of one process and those that MPI starts. */
import { anyRank, broadcastBytes, type Collective } from '../../../src/runtime/collective/collective.js';

/** Each operation's result on this rank, of arrays that follow from the ranks. */
export async function operate(c: Collective) {
  const { rank } = c;
  const sum = Float32Array.of(rank + 1, 0.5, -rank);
  await c.allReduce(sum);
  const greatest = Int32Array.of(rank, -rank);
  await c.allReduce(greatest, 'max');
  const gathered = await c.allGather(Float64Array.from({ length: rank }, (_, i) => 10 * rank + i));
  const turned = await c.allToAll(
    Array.from({ length: c.size }, (_, to) => new Uint8Array(to).fill(10 * rank + to)),
  );
  const counts = Array.from({ length: c.size }, (_, i) => i);
  const total = counts.reduce((n, count) => n + count, 0);
  const part = await c.reduceScatter(
    Float32Array.from({ length: total }, (_, i) => i),
    counts,
  );
  const data = Float32Array.of(rank, 7);
  await c.broadcast(data, c.size - 1);
  const bytes = await broadcastBytes(c, rank === 0 ? Uint8Array.of(3, 1, 4) : undefined);
  await c.barrier();
  return {
    sum: [...sum],
    greatest: [...greatest],
    gathered: gathered.map(one => [...one]),
    turned: turned.map(one => [...one]),
    part: [...part],
    data: [...data],
    bytes: [...bytes],
    any: [await anyRank(c, rank === 1), await anyRank(c, false)],
  };
}

/** What they have to be. */
export function expected(rank: number, size: number) {
  const ranks = Array.from({ length: size }, (_, i) => i);
  const start = (rank * (rank - 1)) / 2;
  return {
    sum: [(size * (size + 1)) / 2, size / 2, 0 - (size * (size - 1)) / 2],
    greatest: [size - 1, 0],
    gathered: ranks.map(r => Array.from({ length: r }, (_, i) => 10 * r + i)),
    turned: ranks.map(r => Array<number>(rank).fill(10 * r + rank)),
    part: Array.from({ length: rank }, (_, i) => size * (start + i)),
    data: [size - 1, 7],
    bytes: [3, 1, 4],
    any: [size > 1, false],
  };
}
