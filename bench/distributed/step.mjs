/**
 * The time of a LeNet step with 64 samples and one thread on each rank, as JSON on rank 0. Its ratio to that of one rank is the
 * efficiency:
 *
 *     npm run build
 *     for n in 1 2; do mpirun -n $n node bench/distributed/step.mjs; done
 */
import { fileURLToPath } from 'node:url';
import { inject, loadModel, openCollective, Tensor, Trainer } from '../../dist/src/index.js';

const [BATCH, SECONDS] = [64, 10];

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
let [least, steps] = [Number.POSITIVE_INFINITY, 0];
const begin = performance.now();
const go = Int32Array.of(1);
while (go[0]) {
  const start = performance.now();
  await trainer.step(batch);
  least = Math.min(least, (performance.now() - start) / 1000);
  steps++;
  // Rank 0 decides for all.
  go[0] = performance.now() - begin < SECONDS * 1000 ? 1 : 0;
  await collective.broadcast(go);
}
if (collective.rank === 0)
  process.stdout.write(
    `${JSON.stringify({ ranks: collective.size, samples: BATCH * collective.size, steps, seconds: least })}\n`,
  );
await trainer.release();
await collective.close();
