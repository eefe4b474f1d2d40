/** What this machine could do: the best rate of a matrix product in ONNX Runtime, and of copying memory. */
import { Worker } from 'node:worker_threads';
import { Session, Tensor } from '../dist/node/index.js';
import { productOf } from './models.mjs';

const SIZES = [512, 1024, 1536];
const SECONDS = 1;

/** Rows of `{threads, flops, bandwidth}`: operations and bytes (read and written) a second. */
export async function measureLimits(threads) {
  const rows = [];
  for (const n of threads) {
    const rates = [];
    for (const size of SIZES) rates.push(await productRate(size, n));
    rows.push({ threads: n, flops: Math.max(...rates), bandwidth: await copyRate(n) });
  }
  return rows;
}

async function productRate(size, threads) {
  const session = await Session.create(productOf(size), { threads });
  const a = Tensor.filled('float32', [size, size], 0.5);
  const best = await bestOf(() => session.run({ a, b: a }));
  await session.release();
  return (2 * size ** 3) / best;
}

/** Seconds of the fastest of the runs that fit into the time. */
async function bestOf(run) {
  await run();
  let best = Number.POSITIVE_INFINITY;
  const end = performance.now() + 1000 * SECONDS;
  while (performance.now() < end) {
    const begin = performance.now();
    await run();
    best = Math.min(best, (performance.now() - begin) / 1000);
  }
  return best;
}

/** Each thread copies an array of its own, far larger than the caches. */
const COPY = `
  const { parentPort, workerData } = require('node:worker_threads');
  const from = new Float32Array(2 ** 25).fill(1);
  const to = new Float32Array(2 ** 25).fill(2);
  parentPort.once('message', () => {
    const begin = performance.now();
    let bytes = 0;
    while (performance.now() - begin < 1000 * workerData) {
      to.set(from);
      bytes += 2 * from.byteLength;
    }
    parentPort.postMessage(bytes / (performance.now() - begin) * 1000);
  });
  parentPort.postMessage('ready');
`;

async function copyRate(threads) {
  const workers = Array.from(
    { length: threads },
    () => new Worker(COPY, { eval: true, workerData: SECONDS }),
  );
  const answer = worker =>
    new Promise((resolve, reject) => worker.once('message', resolve).once('error', reject));
  await Promise.all(workers.map(answer));
  const rates = workers.map(answer);
  for (const worker of workers) worker.postMessage('go');
  const total = (await Promise.all(rates)).reduce((sum, rate) => sum + rate);
  await Promise.all(workers.map(worker => worker.terminate()));
  return total;
}
