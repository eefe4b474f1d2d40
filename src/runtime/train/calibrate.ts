import { AgdError } from '../../graph/errors.js';
import type { Model } from '../../graph/ir.js';
import type { ShapeOracle } from '../../passes/normalize/infer-shapes.js';
import type { Ranges } from '../../passes/options/quantization.js';
import type { InjectOptions } from '../../passes/options.js';
import { valuesToCalibrate } from '../../passes/quantize/quantize-model.js';
import { readRecipe } from '../../passes/recipe/read-recipe.js';
import { predictionModel } from '../../passes/run/evaluation-model.js';
import { type Dataset, DEFAULT_BATCH_SIZE } from '../data/dataset.js';
import { fileOrder } from '../data/order.js';
import { Session } from '../session.js';
import { batchToFree, inputsToDerive, modelData, type Source, shapesOf } from './model-data.js';

/** How many batches initial ranges are of. */
const BATCHES = 8;

/**
 * The least and the largest of each value that `qat` rounds, over the first batches of the data, in inference mode;
 * undefined without `qat`. `training` gives the samples to train on where a part of the data is kept for validation.
 * Values of other types than float32 have no range. Throws `missing-data` where the data lack an input, and
 * `non-finite` for values without a range.
 */
export async function calibrate(
  source: Source,
  shapes: ShapeOracle,
  training?: () => Promise<Dataset>,
): Promise<Ranges | undefined> {
  const { qat, freeBatch, deriveInputs, pack } = source.options;
  if (!qat) return undefined;
  const { model, values } = valuesToCalibrate(source.model, qat, source.options.loss);
  if (!values.length) return new Map();
  const data = await (source.data.isSplit && training ? training() : modelData(source));
  if (!data)
    throw new AgdError(
      'missing-data',
      '--qat calibrates ranges with the data, which lack an input of the model.',
    );
  const ranges = new Map<string, [number, number]>();
  const fed = new Set(model.graph.inputs.map(v => v.name));
  const computed = values.filter(name => !fed.has(name));
  const session = await Session.create(
    await predictionModel(model, computed, shapes, { freeBatch, deriveInputs, pack }),
  );
  try {
    // As many samples of a model exported for single ones.
    const asked = source.job.batchSize ?? DEFAULT_BATCH_SIZE;
    const size = data.fixedBatch ?? asked;
    const end = Math.min(data.length, BATCHES * Math.max(size, asked));
    const whole = data.fixedBatch ? end - (end % size) : end;
    for (let at = 0; at < whole; at += size) {
      const { inputs } = await data.take(fileOrder(at, Math.min(at + size, whole)));
      const results = await session.run(
        Object.fromEntries(session.inputs.map(name => [name, inputs[name]!])),
      );
      const given = Object.entries(inputs).filter(([name]) => values.includes(name));
      // A cache that is computed from the tokens is empty.
      for (const [name, { dtype, data: numbers }] of [...given, ...Object.entries(results)])
        if (dtype === 'float32' && numbers.length)
          ranges.set(name, widened(ranges.get(name), numbers as Float32Array));
    }
  } finally {
    await session.release();
  }
  const [name] = [...ranges].find(([, range]) => !range.every(Number.isFinite)) ?? [];
  if (name !== undefined)
    throw new AgdError(
      'non-finite',
      `--qat: '${name}' is not finite for the first samples, so it has no range.`,
    );
  return ranges;
}

/**
 * Options of an injection with the ranges that files of data give, prepared as for training: by the model's recipe,
 * with the inputs that the data lack computed from the tokens, and in batches; `notes` say what the options gained. Throws as
 * `calibrate` does.
 */
export async function withRanges(
  model: Model,
  options: InjectOptions,
  paths: string | readonly string[],
): Promise<{ options: InjectOptions; notes: string[] }> {
  const { openData } = await import('../data/open.js');
  const data = await openData(paths, {});
  try {
    data.use(await readRecipe(model));
    const derived = await inputsToDerive({ job: {}, data, model, options });
    const source = { job: {}, data, model, options: { ...options, ...derived.options } };
    const { freeBatch = options.freeBatch, note } = await batchToFree(source);
    const prepared = { ...source, options: { ...source.options, freeBatch } };
    const ranges = await calibrate(prepared, await shapesOf(prepared));
    const notes = [derived.note, note].flatMap(text => text ?? []);
    return { options: { ...prepared.options, ranges }, notes };
  } finally {
    await data.close();
  }
}

/** NaN stays, once there is one. */
function widened(range: [number, number] | undefined, numbers: Float32Array): [number, number] {
  let [low, high] = range ?? [Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY];
  for (const x of numbers) {
    low = Math.min(low, x);
    high = Math.max(high, x);
  }
  return [low, high];
}
