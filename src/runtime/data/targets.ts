import { AgdError } from '../../graph/errors.js';
import type { Tensor } from '../../graph/tensor.js';
import type { TargetRange } from '../../ops/losses/index.js';
import { firstOutside } from './convert.js';
import type { InputSpec } from './match.js';

/** The option that applies a transform to the array of an input; undefined where there is none to add. */
export type Flags = (input: string, transform: string) => string | undefined;

/** Throws `bad-data` where the array holds what the loss is not defined for, with what is likely meant. */
export function checkRange(
  { name, range }: Pick<InputSpec, 'name' | 'range'>,
  array: Tensor,
  arrayName = name,
  scale = 1,
  flags: Flags = () => undefined,
): void {
  const outside = range && firstOutside(array, range, scale);
  if (outside === undefined) return;
  const { least, most } = range!;
  const seen = summarize(array, range!, scale);
  const flag = (transform: string) =>
    isSingle(array) || transform !== 'class' ? flags(name, transform) : undefined;
  const advice =
    'ignored' in range! ? adviceOnClasses(seen, most, flag) : adviceOnProbabilities(seen, name, array, flag);
  throw new AgdError(
    'bad-data',
    `Array '${arrayName}' holds ${outside}, but the loss takes targets ${most < Infinity ? `from ${least} to ${most}` : `from ${least} on`}; ${advice}.`,
  );
}

/** Throws `bad-data` where every target is the one that is ignored: there is nothing to learn from. */
export function checkCounted({ range }: Pick<InputSpec, 'range'>, array: Tensor, arrayName: string): void {
  const ignored = range?.ignored;
  if (ignored === undefined || firstOutside(array, { least: ignored, most: ignored }, 1) !== undefined)
    return;
  throw new AgdError(
    'bad-data',
    `All targets in array '${arrayName}' are ${ignored}, which the loss ignores: check the data, or change --ignore-index.`,
  );
}

/** Whether each row of [samples, classes], or more axes, holds one 1 and zeros: classes, written as numbers. */
export function isOneHot(array: Tensor): boolean {
  const classes = array.dims.at(-1)!;
  if (array.dims.length < 2 || classes < 2) return false;
  let ones = 0;
  for (const [i, x] of array.numbers().entries()) {
    if (x !== 0 && x !== 1) return false;
    ones += x;
    if (i % classes === classes - 1 && ones !== 1) return false;
    if (i % classes === classes - 1) ones = 0;
  }
  return true;
}

/** What the elements are, the ignored ones apart; `values` are the first few different ones, `strays` those outside. */
type Summary = { low: number; high: number; isWhole: boolean; values: Set<number>; strays: Set<number> };

const FEW = 4;

function summarize(array: Tensor, { least, most, ignored }: TargetRange, scale: number): Summary {
  const seen: Summary = {
    low: Infinity,
    high: -Infinity,
    isWhole: true,
    values: new Set(),
    strays: new Set(),
  };
  for (const x of array.numbers()) {
    const value = x * scale;
    if (value === ignored) continue;
    seen.low = Math.min(seen.low, value);
    seen.high = Math.max(seen.high, value);
    seen.isWhole &&= Number.isInteger(value);
    if (seen.values.size < FEW) seen.values.add(value);
    if (seen.strays.size < FEW && !(value >= least && value <= most)) seen.strays.add(value);
  }
  return seen;
}

type Flag = (transform: string) => string | undefined;

function adviceOnClasses(seen: Summary, most: number, flag: Flag): string {
  const { low, high, strays } = seen;
  const classes = most + 1;
  if (most === 0)
    return 'the output has one score a sample: for two classes, 0 and 1, use --loss bce-with-logits';
  if (isSigns(seen)) return `write the classes -1 and 1 as 0 and 1${following(flag('class'))}`;
  if (low >= 1 && high === classes)
    return `the labels count from 1: ${flag('subtract(1)') ?? 'subtract 1 from them'}`;
  // A class more than there are follows the last one; what marks samples without a class does not.
  const [stray] = strays;
  if (strays.size === 1 && stray !== classes)
    return `if ${stray} marks targets without a class, --ignore-index ${stray} leaves them out`;
  if (high >= classes)
    return `the labels go up to ${high}, but the output has ${classes} classes: train a model with an output of ${high + 1}`;
  return 'classes are numbered from 0';
}

function adviceOnProbabilities(seen: Summary, name: string, array: Tensor, flag: Flag): string {
  const { low, high, isWhole } = seen;
  if (isSigns(seen)) return `write the classes -1 and 1 as 0 and 1${following(flag('class'))}`;
  if (isWhole && low === 1 && high === 2)
    return `write the classes 1 and 2 as 0 and 1${following(flag('subtract(1)'))}`;
  if (isWhole && low >= 0 && (array.dtype === 'uint8' || high === 255))
    return `--scale ${name}=1/255 makes shares of 8-bit numbers`;
  if (isWhole && low >= 0) return 'numbers of classes are targets of --loss cross-entropy';
  return `--scale ${name}=FACTOR scales its elements`;
}

const isSingle = ({ dims }: Tensor) => dims.length === 1;

const following = (flag: string | undefined) => (flag === undefined ? '' : `: ${flag}`);

const isSigns = ({ values }: Summary) => values.size === 2 && values.has(-1) && values.has(1);
