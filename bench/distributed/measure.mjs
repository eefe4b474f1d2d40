/**
 * Measures all-reduces of the ranks that mpirun started, and prints them as JSON on rank 0:
 *
 *     npm run build && mpirun -n 2 node bench/distributed/measure.mjs
 */
import { openCollective } from '../../dist/node/index.js';

const SIZES = [32, 4e3, 4e4, 25e4, 1e6, 5e6, 25e6];
const SECONDS = 2;

const collective = await openCollective();
const measured = [];
for (const bytes of SIZES) {
  const data = new Float32Array(bytes / 4);
  // Rank 0 decides for all how often; the least time is the one that others disturbed least.
  let [least, begin] = [Number.POSITIVE_INFINITY, performance.now()];
  const go = Int32Array.of(1);
  while (go[0]) {
    await collective.barrier();
    const start = performance.now();
    await collective.allReduce(data);
    least = Math.min(least, (performance.now() - start) / 1000);
    go[0] = performance.now() - begin < SECONDS * 1000 ? 1 : 0;
    await collective.broadcast(go);
  }
  measured.push({ bytes, ranks: collective.size, seconds: least });
}
if (collective.rank === 0) process.stdout.write(`${JSON.stringify(measured)}\n`);
await collective.close();
