/**
 * Fits the cost model on the JSON that measure.mjs printed, compares, and prints what it says for networks:
 *
 *     node bench/distributed/predict.mjs TWO_RANKS.json FOUR_RANKS.json
 */
import { readFileSync } from 'node:fs';
import { allReduceSeconds, efficiency, fitNetwork } from './model.mjs';

const [first, ...others] = process.argv.slice(2).map(path => JSON.parse(readFileSync(path, 'utf8')));
const milli = seconds => (seconds * 1000).toPrecision(3);
if (first) {
  const network = fitNetwork(first);
  console.log(
    `latency ${(network.latency * 1e6).toFixed(1)} us, bandwidth ${(network.bandwidth / 1e9).toFixed(2)} GB/s`,
  );
  console.log('| ranks | bytes | measured (ms) | predicted (ms) |\n|---|---|---|---|');
  for (const { bytes, ranks, seconds } of [first, ...others].flat())
    console.log(
      `| ${ranks} | ${bytes} | ${milli(seconds)} | ${milli(allReduceSeconds(bytes, ranks, network))} |`,
    );
}

/** Of a step: float32 gradients, and the seconds of a rank that computes 100 GFLOP/s, 6 per parameter use and sample. */
const WORK = {
  'LeNet, 64 samples': { samples: 64, perSample: 2.5e6 / 1e11, update: 2e-4, bytes: 4 * 61706 },
  'ResNet-20, 64 samples': { samples: 64, perSample: 245e6 / 1e11, update: 1e-3, bytes: 4 * 272474 },
  'GPT-2 small, 4 x 1024 tokens': {
    samples: 4,
    perSample: (1024 * 6 * 124e6) / 1e11,
    update: 0.5,
    bytes: 4 * 124e6,
  },
};
/** Of Ethernet through the sockets of the kernel. */
const NETWORKS = {
  '10 Gbit/s': { latency: 3e-5, bandwidth: 1.1e9 },
  '100 Gbit/s': { latency: 1.5e-5, bandwidth: 8e9 },
};
const RANKS = [2, 4, 8, 32, 128, 512];
console.log(`| model | network | ${RANKS.join(' | ')} |\n|---|---|${RANKS.map(() => '---').join('|')}|`);
for (const [name, work] of Object.entries(WORK))
  for (const [speed, network] of Object.entries(NETWORKS))
    console.log(
      `| ${name} | ${speed} | ${RANKS.map(n => `${Math.round(100 * efficiency(work, n, network))} %`).join(' | ')} |`,
    );
