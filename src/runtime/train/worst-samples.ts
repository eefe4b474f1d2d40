/** The validation samples that a model does worst on, to look at. */
import { toBase64 } from '../../graph/bytes.js';
import type { Model } from '../../graph/ir.js';
import type { Tensor } from '../../graph/tensor.js';
import { readDescription } from '../../passes/file/step-metadata.js';
import { readRecipe } from '../../passes/recipe/read-recipe.js';
import { classNames, type Recipe } from '../../passes/recipe/recipe.js';
import type { Dataset } from '../data/dataset.js';
import { imageInputs } from '../data/images/recipe.js';
import { takesImages } from '../data/images/spec.js';
import { openRows } from '../data/open.js';
import { offsets, partOf } from '../data/order.js';
import { hasWindows } from '../data/recipe/apply-recipe.js';
import { evaluate } from '../evaluate/evaluate-model.js';
import { predict } from '../evaluate/predict.js';
import type { Prediction } from '../evaluate/predictions.js';
import type { SessionOptions } from '../session.js';
import type { JudgedSample } from './events.js';

export type WorstOptions = SessionOptions & {
  batchSize?: number;
  /** How many. */
  count: number;
  /** The files of the validation data, for texts. */
  paths?: string | readonly string[];
};

/**
 * The samples with the largest loss, the largest first, of an injected model: with class, prediction, and the image or text
 * where it is one. None of a model whose loss does not tell samples apart. Throws as `evaluate` does.
 */
export async function worstSamples(
  model: Model,
  data: Dataset,
  { count, paths, ...options }: WorstOptions,
): Promise<JudgedSample[]> {
  // A graph is one sample, of many rows.
  if (data.columns.every(({ batchAxis }) => batchAxis === null)) return [];
  const worst: { row: number; loss: number }[] = [];
  let row = 0;
  const onLosses = (losses: readonly number[]) => {
    for (const loss of losses) worst.push({ row: row++, loss });
    worst.sort((a, b) => b.loss - a.loss || a.row - b.row);
    worst.length = Math.min(worst.length, count);
  };
  await evaluate(model, data, { ...options, metrics: [], onLosses });
  if (!worst.length) return [];
  const rows = Uint32Array.from(worst, sample => sample.row).sort();
  const part = data.subset(rows);
  const { inputs } = await part.take(Uint32Array.from(rows.keys()));
  const recipe = await readRecipe(model);
  const { loss: spec } = readDescription(model);
  const classes = recipe && classNames(recipe);
  const nameOf = (value: number) => classes?.[value] ?? shown(value);
  const target = inputs[spec.target ?? ''];
  const prediction = await predict(model, part, options);
  const stored = Uint32Array.from(rows, at => data.rows?.[at] ?? at);
  const texts = recipe && paths !== undefined ? await textsOf(paths, recipe, stored) : undefined;
  const images = imagesOf(inputs, spec.target, recipe);
  return worst.map(sample => {
    const at = rows.indexOf(sample.row);
    const predicted = predictionOf(prediction, at);
    const image = images?.(at);
    const text = texts?.[at];
    return {
      row: stored[at]!,
      loss: sample.loss,
      ...(target?.size === rows.length ? { target: nameOf(target.numbers()[at]!) } : {}),
      ...(predicted === undefined ? {} : { prediction: nameOf(predicted) }),
      ...(image ? { image } : {}),
      ...(text === undefined ? {} : { text }),
    };
  });
}

const shown = (value: number) => String(Number(value.toPrecision(4)));

/** The class or the value, where there is one. */
function predictionOf({ classes, outputs, output, task, samples }: Prediction, at: number) {
  const found = task ? classes! : outputs[output]!;
  return found.size === samples ? found.numbers()[at] : undefined;
}

/** Longer texts are cut. */
const MOST_CHARACTERS = 500;
const TEXT_STEPS = ['tokens', 'characters', 'bytes'];

/** The text of these rows, from the columns that the recipe takes texts from. */
async function textsOf(
  paths: string | readonly string[],
  recipe: Recipe,
  rows: Uint32Array,
): Promise<string[] | undefined> {
  const columns = recipe.inputs.flatMap(input => input.columns);
  const names = columns.filter(c => TEXT_STEPS.includes(c.steps.at(-1)!.step)).map(c => c.column);
  // Windows are no rows.
  if (!names.length || hasWindows(recipe)) return undefined;
  const source = await openRows(paths, recipe);
  try {
    const starts = offsets(source.blocks);
    const texts: string[] = [];
    for (const row of rows) {
      const block = partOf(starts, row);
      const { values } = await source.read(block, names);
      const parts = [...new Set(names)].map(name => {
        const value = (values.get(name) as ArrayLike<unknown>)[row - starts[block]!];
        return typeof value === 'string' ? value : '';
      });
      texts.push(parts.join('\n').slice(0, MOST_CHARACTERS));
    }
    return texts;
  } finally {
    await source.close();
  }
}

/** The longer side of an image in a report, in pixels. */
const MOST_PIXELS = 96;

/** The image of each sample, of an input that takes images: as it was decoded, or from its least to its largest number. */
function imagesOf(inputs: Readonly<Record<string, Tensor>>, target: string | undefined, recipe?: Recipe) {
  const specs = recipe && imageInputs(recipe);
  const decoded = [...(specs ?? [])].find(([name, { spec }]) => name !== target && 'mean' in spec);
  const name =
    decoded?.[0] ??
    Object.keys(inputs).find(other => other !== target && takesImages({ shape: inputs[other]!.dims }));
  const tensor = name === undefined ? undefined : inputs[name];
  if (tensor?.dims.length !== 4) return undefined;
  const [, a, b, c] = tensor.dims as [number, number, number, number];
  const isLast = c <= 4 && a > 4;
  const [height, width, depth] = isLast ? [a, b, c] : [b, c, a];
  const spec = decoded?.[1].spec;
  const normalization = spec && 'mean' in spec && spec.dtype !== 'uint8' ? spec : undefined;
  const channels = depth >= 3 ? (3 as const) : (1 as const);
  const step = Math.max(1, Math.ceil(Math.max(height, width) / MOST_PIXELS));
  const [high, wide] = [Math.floor(height / step), Math.floor(width / step)];
  const size = height * width * depth;
  const values = tensor.numbers();
  return (at: number): JudgedSample['image'] => {
    const own = values.slice(at * size, (at + 1) * size);
    const [least, most] = own.reduce(([low, top], x) => [Math.min(low, x), Math.max(top, x)], [
      Infinity,
      -Infinity,
    ] as [number, number]);
    const level = (x: number, channel: number) => {
      if (normalization) return 255 * (x * normalization.std[channel]! + normalization.mean[channel]!);
      if (spec || (tensor.dtype === 'uint8' && most > 1)) return x;
      return most > least ? (255 * (x - least)) / (most - least) : 0;
    };
    const pixels = new Uint8Array(high * wide * channels);
    for (let y = 0; y < high; y++)
      for (let x = 0; x < wide; x++)
        for (let channel = 0; channel < channels; channel++) {
          let sum = 0;
          for (let i = 0; i < step * step; i++) {
            const [row, column] = [y * step + Math.floor(i / step), x * step + (i % step)];
            const place = row * width + column;
            sum += own[isLast ? place * depth + channel : channel * height * width + place]!;
          }
          const value = Math.round(level(sum / step ** 2, channel));
          pixels[(y * wide + x) * channels + channel] = Math.max(0, Math.min(255, value));
        }
    return { width: wide, height: high, channels, pixels: toBase64(pixels) };
  };
}
