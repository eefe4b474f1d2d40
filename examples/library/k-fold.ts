/** K-fold cross-validation: a model for each part of the data, trained on the others and validated on it. */
import { fit, loadArrays, loadModel, Tensor } from 'agd-onnx';

const [path = 'model.onnx', data = 'train.npz', folds = '4'] = process.argv.slice(2);

const arrays = await loadArrays(data);
const model = await loadModel(path);
const [first] = arrays.values();
const count = first!.dims[0]!;
const k = Number(folds);

/** The rows of all arrays for which this is true. */
function rows(wanted: (row: number) => boolean): Map<string, Tensor> {
  const chosen = Array.from({ length: count }, (_, row) => row).filter(wanted);
  return new Map(
    [...arrays].map(([name, { dtype, dims, bytes }]) => {
      const size = bytes.length / count;
      const taken = Buffer.concat(chosen.map(row => bytes.subarray(row * size, (row + 1) * size)));
      return [name, new Tensor(dtype, [chosen.length, ...dims.slice(1)], taken)];
    }),
  );
}

const losses: number[] = [];
for (let fold = 0; fold < k; fold++) {
  const { best } = await fit(
    model,
    rows(row => row % k !== fold),
    {
      loss: 'cross-entropy',
      validation: rows(row => row % k === fold),
      epochs: 5,
      batchSize: 16,
      lr: 0.01,
    },
  );
  losses.push(best!.value);
  console.log(`fold ${fold + 1}: validation loss ${best!.value.toFixed(4)} in epoch ${best!.epoch}`);
}
const mean = losses.reduce((a, b) => a + b, 0) / k;
const spread = Math.sqrt(losses.reduce((sum, x) => sum + (x - mean) ** 2, 0) / Math.max(1, k - 1));
console.log(`mean ${mean.toFixed(4)}, standard deviation ${spread.toFixed(4)}`);
