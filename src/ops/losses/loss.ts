/** What a loss is, and the options that losses share. */
import { AgdError } from '../../graph/errors.js';
import { showShape } from '../../graph/ir.js';
import type { Expr } from '../core/expr.js';
import { range } from '../core/rule.js';

/** A loss: what its target holds, and its formula. */
export type Loss = {
  /**
   * Class numbers (int64, without the class axis), values of the output's type and shape, another output of the model, or none.
   */
  readonly target: 'classes' | 'values' | 'output' | 'none';
  /** The range of the target's values; any number if not given. */
  readonly range?: { readonly least: number; readonly most: number };
  /**
   * The function that turns the output into probabilities, or into the predictions of a loss of values: softmax for
   * classes and `none` for values, if not given.
   */
  readonly activation?: Activation;
  /** The option that a third value in parentheses is the name of. */
  readonly third?: 'negative' | 'lengths';
  /** The options that it reads; if not given, those of its kind of target. */
  readonly options?: readonly (keyof LossOptions)[];
  /** The loss of a sample depends on the other samples of the batch. */
  readonly acrossBatch?: boolean;
  /** The target is a sequence of classes for each sample, of another length than the output. */
  readonly isSequence?: boolean;
  /** Each term is of many positions together, so that a mask cannot leave some out. */
  readonly hasNoMask?: boolean;
  /** The loss at each position, of the output's type: float32 or float64. `values` are those that options name. */
  terms(output: Expr, target: Expr, options: LossOptions, values: NamedValues): LossTerms;
};

/** The options that are names of values: inputs, outputs or inner values of the model. */
export type NamedValues = { mask?: Expr; lengths?: Expr; negative?: Expr };

/** `exp` is for log-probabilities. */
export type Activation = 'softmax' | 'sigmoid' | 'exp' | 'none';

export type LossOptions = {
  /** Class axis: the last one, or 1 for outputs of four and more axes (images). */
  classAxis?: number;
  /** Share of the target's probability spread over all classes, in [0, 1). Cross-entropy only. */
  labelSmoothing?: number;
  /** Targets with this class are left out. Cross-entropy and nll. */
  ignoreIndex?: number;
  /** One weight per class, or `balanced`: in inverse proportion to the classes of the training data. Cross-entropy and nll. */
  classWeights?: readonly number[] | 'balanced';
  /**
   * The weight of positive targets: one for all labels or one for each, or `balanced`: negative over positive targets of the
   * training data. bce-with-logits.
   */
  posWeight?: readonly number[] | 'balanced';
  /** Temperature of softmax distributions: kl and contrastive. */
  temperature?: number;
  /** The target holds scores, not probabilities. kl. */
  targetScores?: boolean;
  /** The exponent of what is not predicted yet. Focal losses. */
  gamma?: number;
  /** The weight of positive targets; negative ones have the rest of 1. sigmoid-focal. */
  alpha?: number;
  /** Added to both sides of the quotient. dice. */
  smooth?: number;
  /** By how much the negative is to be farther than the positive. triplet. */
  margin?: number;
  /** Name of the output that is to be far from the anchor. triplet. */
  negative?: string;
  /** The class that stands for no label. ctc. */
  blank?: number;
  /** Name of a value with the number of times of each sample. ctc. */
  lengths?: string;
  /** Name of a value that is 0 where a position does not count, such as an attention mask: all losses but dice and ctc. */
  mask?: string;
  /** Two classes for each target, each with a share: for mixup and CutMix. Losses of classes alone. */
  mixTargets?: boolean;
};

/**
 * A loss before its mean: the loss at each position, multiplied by the position's weight, and that weight, 1 if
 * undefined. The mean is the sum of the losses over the sum of the weights.
 */
export type LossTerms = { loss: Expr; weight?: Expr };

/**
 * The mean over all positions, a scalar. Where all weights are 0 it is NaN, as in PyTorch, or 0 with `emptyIsZero`: a part of
 * an accumulated batch may have no positions of its own.
 */
export function meanOf({ loss, weight }: LossTerms, emptyIsZero = false): Expr {
  if (!weight) return loss.mean();
  const total = weight.sum();
  return loss.sum().div(emptyIsZero ? orOne(total) : total);
}

/** A number to divide by: 1 instead of 0. */
export const orOne = (total: Expr): Expr => total.equal(0).not().where(total, 1);

/**
 * The terms of two targets of the same output: each sample (row of the first axis) has `share` of the first and the rest of
 * the second. As the loss is linear in the target's probabilities, this is PyTorch's cross-entropy with these probabilities.
 */
export function mixTerms(a: LossTerms, b: LossTerms, share: Expr): LossTerms {
  const mix = (x: Expr, y: Expr) => {
    const first = share.cast(x.dtype).reshape([-1, ...range(1, x.rank).map(() => 1)]);
    return first.mul(x).add(first.rsub(1).mul(y));
  };
  return { loss: mix(a.loss, b.loss), weight: a.weight && b.weight && mix(a.weight, b.weight) };
}

/** The terms where only the positions at which the mask is not 0 count; a mask may lack the last axes of the loss. */
export function maskTerms({ loss, weight }: LossTerms, mask: Expr): LossTerms {
  if (mask.rank > loss.rank)
    throw new AgdError(
      'bad-shape',
      `Mask '${mask.value.name}' of shape ${showShape(mask.shape)} does not fit the loss of shape ${showShape(loss.shape)}.`,
    );
  const counts = mask.cast('bool').cast(loss.dtype).unsqueeze(range(mask.rank, loss.rank));
  // Not a product alone: what is left out may be no number.
  const kept = counts.cast('bool').where(loss, 0);
  return { loss: kept, weight: weight ? weight.mul(counts) : counts.expandLike(loss) };
}

/** Throws `bad-option` for a value out of range. */
export function checkLossOptions({ labelSmoothing = 0, ignoreIndex = 0 }: LossOptions): void {
  if (!(labelSmoothing >= 0 && labelSmoothing < 1))
    throw new AgdError('bad-option', `Label smoothing must be in [0, 1), not ${labelSmoothing}.`);
  if (!Number.isSafeInteger(ignoreIndex))
    throw new AgdError('bad-option', `The class to ignore must be a whole number, not ${ignoreIndex}.`);
}

/** Weights that are known. Throws `bad-option` for those that training data decide. */
export function numbersOf(name: string, weights: readonly number[] | 'balanced'): readonly number[] {
  if (weights !== 'balanced') return weights;
  throw new AgdError('bad-option', `--${name} balanced needs training data, as train has: give numbers.`);
}

/** The class axis of an output of `rank` axes, not negative. */
export function classAxisOf(rank: number, { classAxis = rank >= 4 ? 1 : -1 }: LossOptions): number {
  return classAxis < 0 ? classAxis + rank : classAxis;
}

/** The class axis of an output. Throws `bad-shape` if the output has no such axis. */
export function classAxisIn(output: Expr, options: LossOptions): number {
  const axis = classAxisOf(output.rank, options);
  if (axis >= 0 && axis < output.rank) return axis;
  throw new AgdError(
    'bad-shape',
    `Output '${output.value.name}' of shape ${showShape(output.shape)} has no axis ${axis} of classes.`,
  );
}
