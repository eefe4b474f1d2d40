/** Times agd-onnx on one exported workload and prints JSON: `train-one.mjs MODEL.onnx THREADS SECONDS`. */
import { readFileSync } from 'node:fs';
import { inject, loadModel, Tensor, Trainer } from '../dist/node/index.js';

const [path, threads, seconds] = process.argv.slice(2);
const { loss, inputs } = JSON.parse(readFileSync(path.replace(/onnx$/, 'json'), 'utf8'));
const { model } = await inject(await loadModel(path), { loss: { kind: loss } });
const trainer = await Trainer.create(model, { threads: Number(threads) });

let state = 1;
const random = () => {
  state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
  return state / 2 ** 32;
};

/** The inputs of `steps` steps, filled with random numbers or classes. */
function batches(steps) {
  const tensors = Object.entries(inputs).map(([name, [dims, dtype, below]]) => {
    const size = steps * dims.reduce((n, d) => n * d, 1);
    const shape = [steps, ...dims];
    if (dtype === 'int64') {
      const data = BigInt64Array.from({ length: size }, () => BigInt(Math.floor(random() * below)));
      return [name, Tensor.from('int64', shape, data)];
    }
    const make = name === 'target' ? () => Math.floor(random() * below) : () => 2 * random() - 1;
    return [name, Tensor.from('float32', shape, Float32Array.from({ length: size }, make))];
  });
  return Object.fromEntries(tensors);
}

const timed = async data => {
  const begin = performance.now();
  await trainer.steps(data);
  return performance.now() - begin;
};

const first = await timed(batches(1));
// As many steps a run as the trainer's own loop would choose.
const steps = Math.max(1, Math.min(64, Math.floor(100 / Math.min(first, await timed(batches(1))))));
const data = batches(steps);
await timed(data);
const times = [];
const end = performance.now() + 1000 * Number(seconds);
while (performance.now() < end || times.length < 3) times.push((await timed(data)) / steps);
times.sort((a, b) => a - b);
const ms = times[Math.floor(times.length / 2)];
console.log(
  JSON.stringify({
    ms,
    steps: times.length * steps,
    perRun: steps,
    megabytes: process.resourceUsage().maxRSS / 1024,
  }),
);
await trainer.release();
