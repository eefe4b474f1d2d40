/** A loss of one's own: cross-entropy, and a penalty on scores above 3, written as a function of expressions. */
import { fit, type LossFunction, loadArrays } from 'agd-onnx';

const [model = 'model.onnx', data = 'train.npz'] = process.argv.slice(2);

const loss: LossFunction = ({ outputs, targets }) => {
  const { logits } = outputs;
  const label = targets.int64('target', ['batch']);
  const crossEntropy = logits.logSoftmax().gatherElements(label.unsqueeze(1), 1).neg().mean();
  const excess = logits.abs().sub(3).relu();
  return crossEntropy.add(excess.mul(excess).mean().mul(0.1));
};

const { history } = await fit(model, await loadArrays(data), { loss, epochs: 3, batchSize: 16, seed: 1 });
const { losses } = history;
console.log(`loss ${losses[0]!.toFixed(4)}, after ${losses.length} steps ${losses.at(-1)!.toFixed(4)}`);
