/** The losses, by name: means over all positions, as PyTorch's functions of the same names define them. */
import { type DType, isHalf } from '../../graph/dtype.js';
import { AgdError } from '../../graph/errors.js';
import type { Shape } from '../../graph/ir.js';
import type { Expr } from '../core/expr.js';
import { checkNewName, unknownName } from '../core/option-type.js';
import { bce, bceWithLogits } from './bce.js';
import { cosine } from './cosine.js';
import { crossEntropy, nll } from './cross-entropy.js';
import { ctc } from './ctc.js';
import { dice } from './dice.js';
import { contrastive, triplet } from './embeddings.js';
import { focal, sigmoidFocal } from './focal.js';
import { huber } from './huber.js';
import { kl } from './kl.js';
import { l1 } from './l1.js';
import {
  type Activation,
  checkLossOptions,
  classAxisIn,
  classAxisOf,
  type Loss,
  type LossOptions,
  type LossTerms,
  maskTerms,
  type NamedValues,
} from './loss.js';
import { mean } from './mean.js';
import { mse } from './mse.js';

export { classAxisIn, type LossTerms, meanOf, mixTerms, type NamedValues, orOne } from './loss.js';

/** One entry for each loss: names, types and flags are derived from it. */
const BUILT_IN = {
  'cross-entropy': crossEntropy,
  nll,
  'bce-with-logits': bceWithLogits,
  bce,
  mse,
  l1,
  huber,
  focal,
  'sigmoid-focal': sigmoidFocal,
  kl,
  cosine,
  dice,
  contrastive,
  triplet,
  ctc,
  mean,
} as const satisfies Record<string, Loss>;

export type LossKind = keyof typeof BUILT_IN;

/** By kind, with those that extensions add. */
const LOSSES = new Map<string, Loss>(Object.entries(BUILT_IN));

const NAMES = Object.keys(BUILT_IN) as LossKind[];
/** The kinds of all losses, with those that extensions add. */
export const LOSS_NAMES: readonly LossKind[] = NAMES;

export const isBuiltInLoss = (kind: string): kind is LossKind => Object.hasOwn(BUILT_IN, kind);
export const isKnownLoss = (kind: string) => LOSSES.has(kind);

/** Adds the loss of an extension. Throws `bad-option` if the name is taken or not a valid name. */
export function addLoss(name: string, loss: Loss): void {
  checkNewName('Loss', name, [...NAMES, 'output']);
  LOSSES.set(name, loss);
  NAMES.push(name as LossKind);
}

/**
 * The loss position by position. That of 16-bit outputs is computed in float32, in which small terms, counts of positions
 * and sums over them are exact enough. Throws `bad-option`.
 */
export function lossTerms(
  kind: LossKind,
  narrow: Expr,
  narrowTarget: Expr,
  options: LossOptions = {},
  values: NamedValues = {},
): LossTerms {
  checkLossOptions(options);
  const { mask, negative } = values;
  const output = widen(narrow);
  const target = narrowTarget.value === narrow.value ? output : widen(narrowTarget);
  const terms = lossNamed(kind).terms(output, target, options, {
    ...values,
    ...(negative && { negative: widen(negative) }),
  });
  if (!mask) return terms;
  // Where the terms have all axes of the output, the mask lacks one in their midst.
  const isInner = terms.loss.rank === output.rank && mask.rank === output.rank - 1 && mask.rank > 0;
  return maskTerms(terms, isInner ? mask.unsqueeze([axisWithoutMask(kind, output, options)]) : mask);
}

/** 16-bit numbers as float32. Messages name the value itself. */
function widen(x: Expr): Expr {
  return isHalf(x.dtype) ? x.g.of(x.g.rename(x.wide(), x.value.name)) : x;
}

/** Throws `bad-option` for an unknown kind. */
export function lossNamed(kind: string): Loss {
  const loss = LOSSES.get(kind);
  if (!loss) throw unknownName('loss', kind, LOSS_NAMES);
  return loss;
}

const OF_CLASSES = ['classAxis', 'labelSmoothing', 'ignoreIndex', 'classWeights', 'mixTargets'] as const;

/** The options that a loss reads. */
export function lossOptionNames(kind: string): readonly (keyof LossOptions)[] {
  const { options, target, hasNoMask } = lossNamed(kind);
  const own = options ?? [...(target === 'classes' ? OF_CLASSES : [])];
  const ofLabels = kind === 'bce-with-logits' ? (['posWeight', 'classAxis'] as const) : [];
  return [...own, ...ofLabels, ...(hasNoMask ? [] : (['mask'] as const))];
}

/** The axis of the output that a mask of its positions lacks: that of the classes, or the last one. */
function axisWithoutMask(kind: LossKind, output: Expr, options: LossOptions): number {
  const hasClasses = takesClasses(kind) || lossOptionNames(kind).includes('classAxis');
  return hasClasses ? classAxisIn(output, options) : output.rank - 1;
}

/** The shape of a mask of the output's positions. Throws `bad-option` for a loss that takes none. */
export function maskShape(kind: LossKind, output: Expr, options: LossOptions): Shape {
  if (lossNamed(kind).hasNoMask)
    throw new AgdError(
      'bad-option',
      `The loss ${kind} takes no mask: each of its terms covers several positions.`,
    );
  const axis = axisWithoutMask(kind, output, options);
  return output.rank === 1 ? output.shape! : output.shape!.filter((_, i) => i !== axis);
}

/** Element type and shape of the target for an output: int64 classes, or values like the output's. */
export function targetType(
  kind: LossKind,
  output: Expr,
  options: LossOptions,
): { dtype: DType; shape: Shape } {
  if (lossNamed(kind).isSequence) return { dtype: 'int64', shape: [output.extent(0), 'labels'] };
  if (!takesClasses(kind)) return { dtype: output.dtype, shape: output.shape! };
  const axis = classAxisIn(output, options);
  return { dtype: 'int64', shape: output.shape!.filter((_, i) => i !== axis) };
}

/** The values that a target may have, apart from the ignored class. */
export type TargetRange = { least: number; most: number; ignored?: number };

/**
 * The targets that a loss is defined for, given the shape of the output: its class numbers, or probabilities.
 * Undefined if any number is valid.
 */
export function targetRange(
  kind: LossKind,
  shape: Shape | undefined,
  options: LossOptions,
): TargetRange | undefined {
  if (!takesClasses(kind)) return LOSSES.get(kind)?.range;
  const classes = shape?.[classAxisOf(shape.length, options)];
  const most = typeof classes === 'number' ? classes - 1 : Infinity;
  // Negative labels are padding.
  if (lossNamed(kind).isSequence) return { least: -Infinity, most };
  return { least: 0, most, ignored: options.ignoreIndex };
}

export function takesClasses(kind: LossKind): boolean {
  return LOSSES.get(kind)?.target === 'classes';
}

/** Whether the target holds the probability of the positive class. */
export function takesProbabilities(kind: LossKind): boolean {
  const range = LOSSES.get(kind)?.range;
  return range?.least === 0 && range.most === 1;
}

/** The function that turns the output that this loss reads into probabilities. */
export function activationOf(kind: LossKind): Activation {
  return LOSSES.get(kind)?.activation ?? (takesClasses(kind) ? 'softmax' : 'none');
}
