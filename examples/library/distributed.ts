/** The training loop of custom-loop.ts on several processes: mpirun -n 4 node distributed.js model.onnx train.npz */
import { bindData, inject, loadArrays, loadModel, openCollective, Trainer } from 'agd-onnx';

const [model = 'model.onnx', data = 'train.npz'] = process.argv.slice(2);

const collective = await openCollective();
const options = { loss: { kind: 'cross-entropy' }, lossDivisor: true } as const;
const { model: injected } = await inject(await loadModel(model), options);
const trainer = await Trainer.create(injected, { collective });
const { target } = trainer.description.loss;
const arrays = await loadArrays(data);
const samples = bindData(arrays, trainer.inputs, { labels: target ? [target] : [] }).sharded(collective);

for (let epoch = 0; epoch < 3; epoch++) {
  for await (const { inputs } of samples.batches({ batchSize: 16, shuffle: 1, epoch }))
    await trainer.step(inputs, { lr: 0.01 / 2 ** epoch });
  // Ranks evaluate batches in turn; each gets the result of all.
  const { loss } = await trainer.evaluate(samples.batches({ batchSize: 64, pad: true }), { collective });
  if (collective.rank === 0) console.log(`epoch ${epoch + 1}: loss ${loss.toFixed(6)}`);
}
await trainer.release();
await collective.close();
