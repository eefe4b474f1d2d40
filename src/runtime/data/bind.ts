import { isFloat } from '../../graph/dtype.js';
import { AgdError } from '../../graph/errors.js';
import { showShape } from '../../graph/ir.js';
import { Tensor } from '../../graph/tensor.js';
import { flagValue } from '../../passes/options/text.js';
import { quotedColumn } from '../../passes/recipe/columns.js';
import type { ColumnRecipe } from '../../passes/recipe/recipe.js';
import { nonFiniteRows } from '../train/finite.js';
import { withBatchAxes } from './batch-axis.js';
import { firstMisfit, isInteger, isNumeric, moveAxis } from './convert.js';
import { type Column, Dataset } from './dataset.js';
import type { Symbols } from './fit.js';
import { type Fit, fitInput, type InputSpec, LAST_TOKEN, matchNames } from './match.js';
import type { ArrayType, Samples } from './samples.js';
import { checkCounted, checkRange, type Flags, isOneHot } from './targets.js';

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
  /**
   * Inputs whose arrays have no axis of samples and are fed whole at every step, as the edges of a graph. Scalars
   * always are. Where one of them numbers the rows of other inputs, all are.
   */
  whole?: readonly string[];
  /** Inputs that take labels: never scaled unless by name. The first says which axis of the others has the samples. */
  labels?: readonly string[];
  /** Where the arrays are from, for messages. */
  source?: string;
  /** Of arrays from files: what a recipe makes each input of, for the options that messages name. */
  columns?: ReadonlyMap<string, ColumnRecipe>;
};

/**
 * Finds an array for every input and says how it is fed: by `map`, else by equal names, else where one array
 * alone fits one input alone (noted). Integers become float, float64 float32, and labels int64, as the input
 * wants it; a sample's shape is adapted where only axes of length 1 differ.
 * Throws `missing-data`, `bad-shape`, `bad-dtype`, `bad-option`, and `bad-data` for targets that the loss does not take.
 */
export function bindData(
  data: ReadonlyMap<string, Tensor> | Samples,
  inputs: readonly InputSpec[],
  options: BindOptions = {},
): Dataset {
  const samples = 'take' in data ? data : undefined;
  const arrays: ReadonlyMap<string, Tensor | ArrayType> = 'take' in data ? described(data) : data;
  const { source = 'the data', labels = [], map = {}, whole = [] } = options;
  const notes: string[] = [];
  const details: string[] = [];
  checkOptions(arrays, inputs, options, source);
  const inner = inputs.find(input => input.numbersRows && whole.includes(input.name));
  const apart = inner && inputs.find(({ name, shape }) => shape?.length !== 0 && !whole.includes(name));
  if (apart)
    notes.push(
      `Input '${inner.name}' numbers rows of other inputs: all arrays are fed whole, as one sample, at every step.`,
    );
  const specs = withBatchAxes(
    inputs.map(input => ({ ...input, alias: aliasOf(input.name, inputs, labels) })),
    labels[0],
    inner ? inputs.map(input => input.name) : whole,
  );
  const names = matchNames(arrays, specs, map, source, details);
  const sampled = specs.filter(({ batchAxis }) => batchAxis === 0);
  const [counted] = [...sampled.filter(({ name }) => name === labels[0]), ...sampled];
  const count = counted && arrays.get(names.get(counted.name)!)!.dims[0];

  let symbols: Symbols = new Map();
  const flags: Flags = (input, transform) => columnsFlag(input, transform, specs, names, options);
  const columns = specs.map((input): Column => {
    const key = names.get(input.name)!;
    const made = options.columns?.get(input.name);
    const arrayName = made?.kind === 'tensor' ? made.column : key;
    const given = arrays.get(key)!;
    const fit = checkShape(input, arrayName, given, symbols, count, options.source, flags);
    symbols = fit.symbols;
    const { name, dtype, batchAxis } = input;
    if (samples && fit.axis !== 0) throw notWhole(name, source);
    const array = fit.axis ? moveAxis(given as Tensor, fit.axis, 0) : given;
    checkType(input, arrayName, array);
    const scale = scaleOf(input, arrayName, array, options, notes);
    const check = (rows: Tensor) => {
      checkValues(input, arrayName, rows);
      checkRange(input, rows, arrayName, scale, flags);
    };
    const column = {
      input: name,
      array,
      arrayName: array instanceof Tensor ? arrayName : key,
      dtype,
      dims: fit.dims,
      scale,
      batchAxis,
      isFromFile: options.columns !== undefined,
    };
    if (!(array instanceof Tensor)) return { ...column, check };
    check(array);
    checkCounted(input, array, arrayName);
    const bad = nonFiniteRows(array);
    const [first] = bad;
    if (first !== undefined)
      notes.push(
        `Array '${arrayName}' of ${source} is NaN or infinite in row ${first + 1}${bad.size > 1 ? ` and ${bad.size - 1} more` : ''} (counted from 1): --skip-missing ${arrayName} leaves such rows out, --on-nonfinite skip their batches.`,
      );
    if (options.labels?.includes(input.name) && isFloat(input.dtype) && !input.range && isOneHot(array))
      notes.push(
        `Array '${arrayName}' holds one-hot classes, which the loss takes for numbers; --loss cross-entropy learns classes, from their numbers.`,
      );
    if (batchAxis) {
      const layout = fit.axis ? 'lie there in' : 'are the rows of';
      notes.push(
        `Input '${name}' has its samples on axis ${batchAxis} of ${showShape(input.shape)}; they ${layout} array '${arrayName}' ${showShape(given.dims)}.`,
      );
    }
    return column;
  });
  if (typeof options.scale === 'number' && options.scale !== 1 && columns.every(c => c.scale === 1))
    throw new AgdError(
      'bad-option',
      `A scale of ${options.scale} was given, but no integer array feeds a float input; name the input, as in --scale ${inputs[0]?.name}=${options.scale}.`,
    );
  const least = Math.max(...inputs.map(input => input.least ?? 1));
  return new Dataset(columns, {
    fixedBatch: fixedBatch(specs, columns, notes),
    notes,
    details,
    least,
    samples,
  });
}

/** The arrays of samples that are not in memory. */
function described({ length, arrays }: Samples): Map<string, ArrayType> {
  return new Map([...arrays].map(([name, { dtype, dims }]) => [name, { dtype, dims: [length, ...dims] }]));
}

function notWhole(name: string, source: string): AgdError {
  return new AgdError(
    'bad-option',
    `Input '${name}' is fed whole or has its samples on another axis than the first, which takes arrays that fit in memory; ${source} is read in parts.`,
  );
}

/** The name that the target was to have, where a value of the model has it and so the input has another. */
export function aliasOf(
  name: string,
  inputs: readonly { name: string }[],
  labels: readonly string[],
): string | undefined {
  const asked = name.replace(/_\d+$/, '');
  return labels.includes(name) && !inputs.some(input => input.name === asked) ? asked : undefined;
}

function checkShape(
  input: InputSpec,
  arrayName: string,
  array: ArrayType,
  symbols: Symbols,
  count: number | undefined,
  source: string | undefined,
  flags: Flags,
): Fit {
  const fit = fitInput(input, array, symbols, count);
  if (fit) return fit;
  const { batchAxis = 0, shape } = input;
  const inner = (shape ?? []).filter((_, i) => i !== batchAxis);
  const known = inner.filter(d => typeof d === 'string' && symbols.has(d));
  const where = known.map(d => `, ${d} = ${symbols.get(d as string)}`).join('');
  const what = `Input '${input.name}' takes ${showShape(shape)}${where}, but array '${arrayName}'${source === undefined ? '' : ` of ${source}`} is ${showShape(array.dims)}`;
  const cause = causeOf(input, array, flags);
  throw new AgdError('bad-shape', `${what}; ${cause ?? adviceOnShape(input, array, count)}`);
}

/** With the options by which the arrays of other names are found, as columns are not matched by their shapes. */
function columnsFlag(
  input: string,
  transform: string,
  specs: readonly InputSpec[],
  names: ReadonlyMap<string, string>,
  { columns, labels = [], map = {} }: BindOptions,
): string | undefined {
  const known = columns?.get(input);
  if (!columns || (known ? known.steps.length > 1 || known.kind !== 'tensor' : columns.size))
    return undefined;
  const array = known?.column ?? names.get(input)!;
  const others = specs.filter(
    ({ name, alias }) =>
      name !== input && !Object.hasOwn(map, name) && ![name, alias].includes(names.get(name)),
  );
  const flags = others.map(({ name }) => {
    const other = names.get(name)!;
    return labels.includes(name)
      ? `--label ${flagValue(other)}`
      : `--columns ${flagValue(`${quotedColumn(name)}=${quotedColumn(other)}`)}`;
  });
  return [`--columns '${quotedColumn(input)}=${quotedColumn(array)}:${transform}'`, ...flags].join(' ');
}

/** What is usually the matter with an array of such a shape, and the option that mends it. */
function causeOf(
  { name, dtype, shape, batchAxis = 0 }: InputSpec,
  array: ArrayType,
  flags: Flags,
): string | undefined {
  const { dims } = array;
  if (batchAxis !== 0 || !shape) return undefined;
  if (isInteger(dtype) && dims.length === shape.length + 1 && array instanceof Tensor && isOneHot(array))
    return `its rows are one-hot, and the loss takes the number of the class: ${flags(name, 'argmax') ?? 'give the position of the one'}, or use a loss of separate labels.`;
  const fits = (order: readonly number[]) =>
    fitInput(
      { name, dtype, shape, batchAxis },
      { dtype: array.dtype, dims: order.map(axis => dims[axis]!) },
      new Map(),
    );
  const rest = dims.map((_, axis) => axis).slice(1);
  const mend = (order: readonly number[]) =>
    `${flags(name, `transpose(${order})`) ?? `put its axes in the order ${order.join(', ')}`}.`;
  const channelsFirst = [0, rest.at(-1)!, ...rest.slice(0, -1)];
  const channelsLast = [0, ...rest.slice(1), rest[0]!];
  if (rest.length > 1 && fits(channelsFirst))
    return `its last axis is the input's first one, as in images with channels last: ${mend(channelsFirst)}`;
  if (rest.length > 1 && fits(channelsLast))
    return `its axis 1 is the input's last one, as in images with channels first: ${mend(channelsLast)}`;
  const samplesLast = [dims.length - 1, ...dims.map((_, axis) => axis).slice(0, -1)];
  if (rest.length && fits(samplesLast))
    return `its samples lie along the last axis, not the first: ${mend(samplesLast)}`;
  return undefined;
}

function adviceOnShape(
  { name, shape, batchAxis = 0, ofLastToken }: InputSpec,
  array: ArrayType,
  count?: number,
): string {
  if (ofLastToken) return LAST_TOKEN;
  const adapted = 'only axes of length 1 are added or dropped.';
  if (shape?.length === 0) return 'a scalar is one number for all samples of a batch.';
  if (batchAxis === null) return `it is fed whole, and ${adapted}`;
  const samples = count === undefined ? 'samples' : `the ${count} samples`;
  if (batchAxis > 0)
    return `${samples} lie along its axis ${batchAxis}, and along that or the first one of the array.`;
  const whole = fitInput({ name, shape, dtype: 'float32', batchAxis: null }, array, new Map());
  const advice = whole ? ` An array without samples is fed whole with --whole ${name}.` : '';
  return `samples lie along the first axis, and ${adapted}${advice}`;
}

const typesOf = (input: InputSpec, arrayName: string, array: ArrayType) =>
  `Input '${input.name}' takes ${input.dtype}, but array '${arrayName}' is ${array.dtype}`;

function checkType(input: InputSpec, arrayName: string, array: ArrayType): void {
  if (isNumeric(array.dtype) && isNumeric(input.dtype)) return;
  throw new AgdError('bad-dtype', `${typesOf(input, arrayName, array)}, which is not converted.`);
}

function checkValues(input: InputSpec, arrayName: string, array: Tensor): void {
  const misfit = firstMisfit(array, input.dtype);
  if (misfit === undefined) return;
  const what = typesOf(input, arrayName, array);
  const cause = !input.range
    ? ''
    : Number.isNaN(Number(misfit))
      ? ' The loss takes class numbers: leave out samples without a label.'
      : ' The loss takes class numbers; --loss mse, l1 and huber learn other numbers.';
  throw new AgdError('bad-dtype', `${what} and holds ${misfit}, which ${input.dtype} cannot.${cause}`);
}

function scaleOf(
  input: InputSpec,
  arrayName: string,
  array: ArrayType,
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
  const extentOf = ({ shape, batchAxis = 0 }: InputSpec) => (batchAxis === null ? null : shape?.[batchAxis]);
  const fixed = inputs.filter(input => typeof extentOf(input) === 'number');
  const [first] = fixed;
  const other = fixed.find(input => extentOf(input) !== extentOf(first!));
  if (first && other)
    throw new AgdError(
      'bad-shape',
      `The batch is ${extentOf(first)} in input '${first.name}' but ${extentOf(other)} in '${other.name}'; an input without an axis of samples is fed whole with --whole, as --whole ${other.name}.`,
    );
  const size = first && extentOf(first);
  if (typeof size !== 'number') return undefined;
  const rest = columns.find(c => c.batchAxis !== null)!.array.dims[0]! % size;
  const left = rest > 0 ? `, so that ${rest} samples are left out of each pass of training` : '';
  notes.push(`Input '${first?.name}' fixes the batch size at ${size}${left}.`);
  return size;
}

function checkOptions(
  arrays: ReadonlyMap<string, ArrayType>,
  inputs: readonly InputSpec[],
  { map = {}, scale = {}, whole = [] }: BindOptions,
  source: string,
): void {
  const known = new Map(inputs.map(input => [input.name, input]));
  const takes = `the data feeds ${[...known.keys()].map(name => `'${name}'`).join(', ')}`;
  const stranger = whole.find(input => !known.has(input));
  if (stranger !== undefined)
    throw new AgdError('bad-option', `--whole ${stranger}: no input '${stranger}'; ${takes}.`);
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
