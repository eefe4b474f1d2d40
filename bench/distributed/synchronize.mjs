/**
 * What --sync-batch-norm costs: the ratio of step times of ResNet-20, with and without it, alternating on
 * the same ranks so that other load meets both. 32 samples and one thread on each rank. As JSON on rank 0:
 *
 *     npm run build
 *     mpirun -n 2 node bench/distributed/synchronize.mjs resnet20.onnx
 */
import { inject, loadModel, openCollective, Tensor, Trainer } from '../../dist/node/index.js';

const [BATCH, ROUNDS] = [32, 12];

const collective = await openCollective();
const source = await loadModel(process.argv[2]);
const trainers = [];
for (const syncBatchNorm of [false, true]) {
  const options = { loss: { kind: 'cross-entropy' }, lossDivisor: true, syncBatchNorm };
  const { model } = await inject(source, options);
  trainers.push(await Trainer.create(model, { collective, threads: 1 }));
}
const [image] = trainers[0].inputs;
const batch = {
  [image.name]: Tensor.filled('float32', [BATCH, 3, 32, 32], 0.5),
  [trainers[0].description.loss.target]: Tensor.filled('int64', [BATCH], 3),
};
const seconds = trainers.map(() => []);
for (let round = 0; round <= ROUNDS; round++)
  for (const [i, trainer] of trainers.entries()) {
    await collective.barrier();
    const start = performance.now();
    await trainer.step(batch);
    // The first steps of a session set up its memory.
    if (round) seconds[i].push((performance.now() - start) / 1000);
  }
const median = list => list.sort((a, b) => a - b)[Math.floor(list.length / 2)];
const [plain, synchronized] = seconds.map(median);
const [least, leastSynchronized] = seconds.map(list => Math.min(...list));
if (collective.rank === 0)
  process.stdout.write(
    `${JSON.stringify({ ranks: collective.size, plain, synchronized, ratio: synchronized / plain, ratioOfLeast: leastSynchronized / least })}\n`,
  );
for (const trainer of trainers) await trainer.release();
await collective.close();
