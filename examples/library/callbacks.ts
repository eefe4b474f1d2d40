/** Callbacks: a line for each epoch, a limit on the time of a run, and a stop as soon as the model is good enough. */
import { type Callbacks, fit, saveModel } from 'agd-onnx';

const [model = 'model.onnx', data = 'train.npz', output = 'model.trained.onnx'] = process.argv.slice(2);

const lines: Callbacks = {
  onStart: ({ samples, stepsPerEpoch }) => console.log(`${samples} samples, ${stepsPerEpoch} steps an epoch`),
  onEpoch: ({ epoch, trainLoss, validation, best }) =>
    console.log(
      `epoch ${epoch}: ${trainLoss.toFixed(4)}, validation ${validation!.loss.toFixed(4)}${best ? ' *' : ''}`,
    ),
  onEnd: ({ reason, steps }) => console.log(`ended by ${reason} after ${steps} steps`),
};

/** Stops a run that takes longer than this. */
function timeLimit(seconds: number): Callbacks {
  let end = Number.POSITIVE_INFINITY;
  return {
    onStart() {
      end = Date.now() + 1000 * seconds;
    },
    onEpoch: () => (Date.now() > end ? 'stop' : undefined),
  };
}

const goodEnough: Callbacks = {
  onEpoch: ({ validation }) => (validation!.metrics.accuracy! >= 0.9 ? 'stop' : undefined),
};

const result = await fit(model, data, {
  loss: 'cross-entropy',
  valSplit: 0.25,
  epochs: 40,
  lr: 0.03,
  callbacks: [lines, timeLimit(60), goodEnough],
});
await saveModel(result.model, output);
console.log(`${output} has the weights of epoch ${result.best!.epoch}`);
