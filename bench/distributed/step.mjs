/**
 * The time of a LeNet step with 64 samples and one thread on each rank, as JSON on rank 0. In turn with each of these steps, rank 0
 * trains one for itself with as many samples, without messages: `efficiency` is the time of that over the time of the other, pair by
 * pair, so that what else runs on the machine disturbs both. SECONDS is 10 if not given:
 *
 *     npm run build
 *     mpirun -n 2 node bench/distributed/step.mjs [SECONDS]
 */
import { fileURLToPath } from 'node:url';
import { inject, loadModel, openCollective, Tensor, Trainer } from '../../dist/node/index.js';

const BATCH = 64;
const seconds = Number(process.argv[2] ?? 10);

const collective = await openCollective();
const path = fileURLToPath(new URL('../../models/lenet.onnx', import.meta.url));
const options = { loss: { kind: 'cross-entropy' }, lossDivisor: true };
const { model } = await inject(await loadModel(path), options);
const trainer = await Trainer.create(model, { collective, threads: 1 });
const [image] = trainer.inputs;
const { target } = trainer.description.loss;
const batch = {
  [image.name]: Tensor.filled('float32', [BATCH, 1, 28, 28], 0.5),
  [target]: Tensor.filled('int64', [BATCH], 3),
};
const alone = collective.rank === 0 ? await Trainer.create(model, { threads: 1 }) : undefined;
const timed = async one => {
  const start = performance.now();
  await one.step(batch);
  return (performance.now() - start) / 1000;
};
const times = [];
const begin = performance.now();
const go = Int32Array.of(1);
while (go[0]) {
  const single = alone && (await timed(alone));
  await collective.barrier();
  times.push({ single, joint: await timed(trainer) });
  // Rank 0 decides for all.
  go[0] = performance.now() - begin < seconds * 1000 ? 1 : 0;
  await collective.broadcast(go);
}
if (collective.rank === 0) {
  // The first steps are slower than those that follow.
  const warm = times.slice(Math.min(5, times.length - 1));
  const ordered = warm.map(({ single, joint }) => single / joint).sort((a, b) => a - b);
  const share = part => Number(ordered[Math.floor(part * (ordered.length - 1))].toFixed(3));
  const efficiency = { median: share(0.5), least: share(0), quartiles: [share(0.25), share(0.75)] };
  const least = name => Math.min(...warm.map(time => time[name]));
  const { size: ranks, engine } = collective;
  const result = { ranks, engine, samples: BATCH * ranks, steps: warm.length };
  process.stdout.write(
    `${JSON.stringify({ ...result, seconds: least('joint'), alone: least('single'), efficiency })}\n`,
  );
}
await alone?.release();
await trainer.release();
await collective.close();
