import { isFloat } from '../../graph/dtype.js';
import { AgdError } from '../../graph/errors.js';
import type { Tensor } from '../../graph/tensor.js';
import { firstMisfit, isInteger, isNumeric } from './convert.js';
import { type Column, Dataset } from './dataset.js';
import type { Symbols } from './fit.js';
import { fitInput, type InputSpec, matchNames, showShape } from './match.js';
import { checkCounted, checkRange, isOneHot } from './targets.js';

export type { InputSpec };

export type BindOptions = {
  /** Array name by input name, for inputs that are not named as their arrays. */
  map?: Readonly<Record<string, string>>;
  /**
   * Factor of the elements. A number: for integer arrays that feed float inputs, labels excepted. By input
   * name: for that float input, whatever feeds it. Without: 1/255 for 8-bit images, that is, for uint8
   * arrays whose samples have two or more axes and feed a float input that takes no labels; else 1.
   */
  scale?: number | Readonly<Record<string, number>>;
  /** Inputs that take labels: never scaled unless by name. */
  labels?: readonly string[];
  /** Where the arrays are from, for messages. */
  source?: string;
};

/**
 * Finds an array for every input and says how it is fed: by `map`, else by equal names, else where one array
 * alone fits one input alone (noted). Integers become float, float64 float32, and labels int64, as the input
 * wants it; a sample's shape is adapted where only axes of length 1 differ.
 * Throws `missing-data`, `bad-shape`, `bad-dtype`, `bad-option`, and `bad-data` for targets that the loss does not take.
 */
export function bindData(
  arrays: ReadonlyMap<string, Tensor>,
  inputs: readonly InputSpec[],
  options: BindOptions = {},
): Dataset {
  const { source = 'the data' } = options;
  const notes: string[] = [];
  checkOptions(arrays, inputs, options, source);
  const names = matchNames(arrays, inputs, options.map ?? {}, source, notes);

  let symbols: Symbols = new Map();
  const columns = inputs.map(input => {
    const arrayName = names.get(input.name)!;
    const array = arrays.get(arrayName)!;
    const shape = checkShape(input, arrayName, array, symbols);
    symbols = shape.symbols;
    checkType(input, arrayName, array);
    const scale = scaleOf(input, arrayName, array, options, notes);
    checkRange(input, array, arrayName, scale);
    checkCounted(input, array, arrayName);
    if (options.labels?.includes(input.name) && isFloat(input.dtype) && !input.range && isOneHot(array))
      notes.push(
        `Array '${arrayName}' holds one-hot classes, which the loss takes for numbers; --loss cross-entropy learns classes, from their numbers.`,
      );
    return { input: input.name, array, arrayName, dtype: input.dtype, dims: shape.dims, scale };
  });
  if (typeof options.scale === 'number' && options.scale !== 1 && columns.every(c => c.scale === 1))
    throw new AgdError(
      'bad-option',
      `A scale of ${options.scale} was given, but no integer array feeds a float input; name the input, as in --scale ${inputs[0]?.name}=${options.scale}.`,
    );
  const least = Math.max(...inputs.map(input => input.least ?? 1));
  return new Dataset(columns, fixedBatch(inputs, columns, notes), notes, least);
}

function checkShape(
  input: InputSpec,
  arrayName: string,
  array: Tensor,
  symbols: Symbols,
): NonNullable<ReturnType<typeof fitInput>> {
  const shape = fitInput(input, array, symbols);
  if (shape) return shape;
  const known = (input.shape ?? []).slice(1).filter(d => typeof d === 'string' && symbols.has(d));
  const where = known.map(d => `, ${d} = ${symbols.get(d as string)}`).join('');
  throw new AgdError(
    'bad-shape',
    `Input '${input.name}' takes ${showShape(input.shape)}${where}, but array '${arrayName}' is ${showShape(array.dims)}; ` +
      'samples lie along the first axis, and only axes of length 1 are added or dropped.',
  );
}

function checkType(input: InputSpec, arrayName: string, array: Tensor): void {
  const what = `Input '${input.name}' takes ${input.dtype}, but array '${arrayName}' is ${array.dtype}`;
  if (!isNumeric(array.dtype) || !isNumeric(input.dtype))
    throw new AgdError('bad-dtype', `${what}, which is not converted.`);
  const misfit = firstMisfit(array, input.dtype);
  if (misfit !== undefined)
    throw new AgdError('bad-dtype', `${what} and holds ${misfit}, which ${input.dtype} cannot.`);
}

function scaleOf(
  input: InputSpec,
  arrayName: string,
  array: Tensor,
  { scale, labels = [] }: BindOptions,
  notes: string[],
): number {
  if (typeof scale === 'object' && Object.hasOwn(scale, input.name)) return scale[input.name]!;
  if (!isFloat(input.dtype) || !isInteger(array.dtype) || labels.includes(input.name)) return 1;
  if (typeof scale === 'number') return scale;
  if (array.dtype !== 'uint8' || array.dims.length < 3) return 1;
  notes.push(
    `Array '${arrayName}' is taken for 8-bit images and multiplied by 1/255; --scale 1 leaves it as it is.`,
  );
  return 1 / 255;
}

/** The batch size that the model's inputs prescribe, if any. */
function fixedBatch(
  inputs: readonly InputSpec[],
  columns: readonly Column[],
  notes: string[],
): number | undefined {
  const fixed = inputs.filter(({ shape }) => typeof shape?.[0] === 'number');
  const [first] = fixed;
  const other = fixed.find(({ shape }) => shape?.[0] !== first?.shape?.[0]);
  if (first && other)
    throw new AgdError(
      'bad-shape',
      `The batch, the first axis, is ${first.shape?.[0]} in input '${first.name}' but ${other.shape?.[0]} in '${other.name}'.`,
    );
  const size = first?.shape?.[0];
  if (typeof size !== 'number') return undefined;
  const rest = columns[0]!.array.dims[0]! % size;
  const left = rest > 0 ? `, so that ${rest} samples are left out of each pass of training` : '';
  notes.push(`Input '${first?.name}' fixes the batch size at ${size}${left}.`);
  return size;
}

function checkOptions(
  arrays: ReadonlyMap<string, Tensor>,
  inputs: readonly InputSpec[],
  { map = {}, scale = {} }: BindOptions,
  source: string,
): void {
  const known = new Map(inputs.map(input => [input.name, input]));
  const takes = `the data feeds ${[...known.keys()].map(name => `'${name}'`).join(', ')}`;
  for (const [input, array] of Object.entries(map)) {
    if (!known.has(input))
      throw new AgdError('bad-option', `--map ${input}=${array}: no input '${input}'; ${takes}.`);
    if (!arrays.has(array))
      throw new AgdError(
        'missing-data',
        `--map ${input}=${array}: ${source} has no array '${array}', only ${[...arrays.keys()].map(name => `'${name}'`).join(', ')}.`,
      );
  }
  for (const [input, factor] of typeof scale === 'number' ? [] : Object.entries(scale)) {
    const dtype = known.get(input)?.dtype;
    if (!dtype)
      throw new AgdError('bad-option', `--scale ${input}=${factor}: no input '${input}'; ${takes}.`);
    if (!isFloat(dtype))
      throw new AgdError(
        'bad-option',
        `--scale ${input}=${factor}: input '${input}' is ${dtype}, not float.`,
      );
  }
}
