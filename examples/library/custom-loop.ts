/** A training loop of one's own: the trainer does a step at a time, and everything else is up to the program. */
import { bindData, inject, loadArrays, loadModel, Trainer } from 'agd-onnx';

const [model = 'model.onnx', data = 'train.npz'] = process.argv.slice(2);

const { model: injected } = await inject(await loadModel(model), { loss: { kind: 'cross-entropy' } });
const trainer = await Trainer.create(injected);
const { target } = trainer.description.loss;
const samples = bindData(await loadArrays(data), trainer.inputs, { labels: target ? [target] : [] });

for (let epoch = 0; epoch < 3; epoch++) {
  let [sum, steps] = [0, 0];
  for await (const { inputs } of samples.batches({ batchSize: 16, shuffle: 1, epoch })) {
    // The rate falls by half in each epoch.
    const { loss } = await trainer.step(inputs, { lr: 0.01 / 2 ** epoch });
    sum += loss;
    steps++;
  }
  const { loss, accuracy } = await trainer.evaluate(samples.batches({ batchSize: 64 }));
  console.log(
    `epoch ${epoch + 1}: loss ${(sum / steps).toFixed(4)}, then ${loss.toFixed(4)}, accuracy ${accuracy}`,
  );
}
await trainer.release();
