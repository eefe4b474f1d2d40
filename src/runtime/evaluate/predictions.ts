/** From the outputs of batches to predictions. */
import { AgdError } from '../../graph/errors.js';
import { Tensor } from '../../graph/tensor.js';
import type { Batch } from '../data/dataset.js';
import type { TaskSpec } from '../metrics/metric.js';
import { Scored } from '../metrics/scored-batch.js';
import type { Feeds } from '../session.js';

/** What a model makes of samples; the first axis is theirs. */
export type Prediction = {
  /** Number of samples. */
  samples: number;
  /** What the model computes, by name, as it is. */
  outputs: Record<string, Tensor>;
  /** The output that is predicted. */
  output: string;
  /** What it is about, where it is not numbers: one of several classes, or labels that may each be yes. */
  task?: 'classes' | 'labels';
  /** Of classes and labels: probabilities, in the shape of the output. */
  probabilities?: Tensor;
  /** Of classes: the number of the most probable one (int64), -1 where a score is NaN. Of labels: 1 for those above 0.5. */
  classes?: Tensor;
  /** Their names, of a model whose recipe has them. */
  classNames?: readonly string[];
};

/** What is computed of each batch, and how it is read. */
export type PredictionPlan = {
  names: readonly string[];
  /** Of the first output; undefined for numbers. */
  spec?: TaskSpec;
  classes?: readonly string[];
};

/** Runs batches and reads what comes out. `isWhole`: all rows of an output are predictions, however many. */
export async function* predictions(
  batches: Iterable<Batch> | AsyncIterable<Batch>,
  {
    names,
    spec,
    classes,
    run,
    isWhole = false,
  }: PredictionPlan & { run: (feeds: Feeds) => Promise<Feeds>; isWhole?: boolean },
): AsyncGenerator<Prediction> {
  for await (const { inputs, size, padding = 0 } of batches) {
    const results = await run(inputs);
    const rows = isWhole ? results[names[0]!]!.dims[0]! : size;
    const outputs = Object.fromEntries(
      names.map(name => [name, rowsOf(name, results[name]!, rows, padding)]),
    );
    const found = spec && new Scored(spec, outputs[names[0]!]!, rows);
    yield {
      samples: rows,
      outputs,
      output: names[0]!,
      ...(spec && spec.task !== 'values' ? { task: spec.task } : {}),
      ...(found ? { probabilities: found.probabilityTensor, classes: found.predictedTensor } : {}),
      ...(classes && found ? { classNames: classes } : {}),
    };
  }
}

/** The rows of an output that belong to samples. */
function rowsOf(name: string, output: Tensor, rows: number, padding: number): Tensor {
  const { dtype, dims, strings } = output;
  if (dims[0] !== rows + padding)
    throw new AgdError(
      'bad-shape',
      `Output '${name}' [${dims}] does not have a row for each of the ${rows} samples of a batch: choose another one with --output.`,
    );
  const shape = [rows, ...dims.slice(1)];
  if (strings) return stringTensor(shape, strings.slice(0, (strings.length / dims[0]) * rows));
  const { bytes } = output;
  return new Tensor(dtype, shape, bytes.subarray(0, (bytes.length / dims[0]) * rows));
}

export function stringTensor(dims: readonly number[], strings: Uint8Array[]): Tensor {
  const tensor = new Tensor('string', dims, new Uint8Array(0));
  tensor.strings = strings;
  return tensor;
}
