import { type DType, isFloat } from '../../graph/dtype.js';
import { AgdError } from '../../graph/errors.js';
import { type Shape, showShape } from '../../graph/ir.js';
import type { TargetRange } from '../../ops/losses/index.js';
import { isInteger, isNumeric } from './convert.js';
import { fitShape, type Symbols } from './fit.js';
import type { ArrayType } from './samples.js';

/**
 * A model input that the data is to feed. No shape, or no range: any. `least` is the fewest samples that a batch to train
 * on may have, 1 where not given.
 */
export type InputSpec = {
  name: string;
  dtype: DType;
  shape?: Shape;
  range?: TargetRange;
  least?: number;
  /** The axis of the samples, the first if not given; null where the array is fed whole at every step. */
  batchAxis?: number | null;
  /** Whether its elements are numbers of rows of another input, as the edges of a graph are of its nodes. */
  numbersRows?: boolean;
  /** Whether it is the target of a model whose head reads the last token only. */
  ofLastToken?: boolean;
  /** Another name that its array may have. */
  alias?: string;
};

/** What is wrong with a target that has a place for each token. */
export const LAST_TOKEN =
  'the head of the model reads the last token only; with --all-positions, it reads all of them.';

/**
 * The name of the array that feeds each input, by the input's name: what `map` says, else the same name, else
 * the one array that fits where it fits no other input (then noted). Throws `missing-data`.
 */
export function matchNames(
  arrays: ReadonlyMap<string, ArrayType>,
  inputs: readonly InputSpec[],
  map: Readonly<Record<string, string>>,
  source: string,
  details: string[],
): Map<string, string> {
  const names = new Map<string, string>();
  for (const { name, alias } of inputs) {
    const own = [name, alias].find(known => known !== undefined && arrays.has(known));
    const arrayName = Object.hasOwn(map, name) ? map[name] : own;
    if (arrayName !== undefined) names.set(name, arrayName);
  }
  const used = new Set(names.values());
  const spare = [...arrays.keys()].filter(name => !used.has(name));
  const missing = inputs.filter(({ name }) => !names.has(name));
  const fitting = (input: InputSpec) => spare.filter(name => fits(input, arrays.get(name)!));
  const unmatched = missing.filter(input => {
    const [only, ...more] = fitting(input);
    const rivals = missing.filter(other => only !== undefined && fitting(other).includes(only));
    if (only === undefined || more.length > 0 || rivals.length > 1) return true;
    names.set(input.name, only);
    details.push(`Array '${only}' feeds input '${input.name}', the only one that it fits.`);
    return false;
  });
  if (unmatched.length > 0) throw missingData(arrays, unmatched, fitting, source);
  return names;
}

/** What is missing, what there is, and the options that would name it. */
function missingData(
  arrays: ReadonlyMap<string, ArrayType>,
  inputs: readonly InputSpec[],
  fitting: (input: InputSpec) => string[],
  source: string,
): AgdError {
  const { name, dtype, shape } = inputs[0]!;
  const found = [...arrays]
    .map(([name, array]) => `'${name}' ${describe(array.dtype, array.dims)}`)
    .join(', ');
  const proposed = new Set<string>();
  const flags = inputs.map(input => {
    const guess = fitting(input).find(name => !proposed.has(name)) ?? 'ARRAY';
    proposed.add(guess);
    return `--map ${input.name}=${guess}`;
  });
  return new AgdError(
    'missing-data',
    `No array for input '${name}' (${describe(dtype, shape)}) in ${source}, which has ${found}; name it: ${flags.join(' ')}.`,
  );
}

/** Whether the array is of a kind that the input may take without being told: no fractions into integers. */
function fits(input: InputSpec, array: ArrayType): boolean {
  const kind = isFloat(input.dtype)
    ? isNumeric(array.dtype)
    : isInteger(input.dtype) && isInteger(array.dtype);
  return kind && fitInput(input, array, new Map()) !== undefined;
}

/** How an array feeds an input: the axis of its samples, null where it is fed whole, and the shape of one, or of it all. */
export type Fit = { axis: number | null; dims: readonly number[]; symbols: Symbols };

/**
 * How an array's samples, `count` where that is known, meet the input's shape; undefined where they do not. They lie
 * along the array's first axis, or along the one that the input has them on.
 */
export function fitInput(
  { shape, batchAxis = 0 }: InputSpec,
  array: ArrayType,
  symbols: Symbols,
  count?: number,
): Fit | undefined {
  if (batchAxis === null) {
    const fit = shape ? fitShape(array.dims, shape, symbols) : { dims: array.dims, symbols };
    return fit && { axis: null, ...fit };
  }
  for (const axis of new Set([0, batchAxis])) {
    const { dims } = array;
    if (axis >= dims.length || (batchAxis > 0 && count !== undefined && dims[axis] !== count)) continue;
    const sample = dims.filter((_, i) => i !== axis);
    if (!shape) return { axis, dims: sample, symbols };
    const wanted = shape.filter((_, i) => i !== batchAxis);
    const fit = fitShape(sample, wanted, symbols);
    if (fit) return { axis, ...fit };
  }
  return undefined;
}

function describe(dtype: DType, shape: Shape | undefined): string {
  return `${dtype} ${showShape(shape)}`;
}
