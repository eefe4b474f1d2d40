/** What a loss is, and the options that losses share. */
import { AgdError } from '../../graph/errors.js';
import type { Expr } from '../core/expr.js';
import { range } from '../core/rule.js';

/** A loss: what its target holds, and its formula. */
export type Loss = {
  /** Class numbers (int64, without the class axis), or values of the output's type and shape. */
  readonly target: 'classes' | 'values';
  /** The range of the target's values; any number if not given. */
  readonly range?: { readonly least: number; readonly most: number };
  /**
   * The function that turns the output into probabilities, or into the predictions of a loss of values: softmax for
   * classes and `none` for values, if not given.
   */
  readonly activation?: Activation;
  /** The loss at each position, of the output's type. */
  terms(output: Expr, target: Expr, options: LossOptions): LossTerms;
};

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
  /** Two classes for each target, each with a share: for mixup and CutMix. Losses of classes alone. */
  mixTargets?: boolean;
};

/**
 * A loss before its mean: the loss at each position, multiplied by the position's weight, and that weight, 1 if
 * undefined. The mean is the sum of the losses over the sum of the weights.
 */
export type LossTerms = { loss: Expr; weight?: Expr };

/** The mean over all positions, a scalar. */
export const meanOf = ({ loss, weight }: LossTerms): Expr =>
  weight ? loss.sum().div(weight.sum()) : loss.mean();

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
  const shape = `[${output.shape}]`;
  throw new AgdError(
    'bad-shape',
    `Output '${output.value.name}' of shape ${shape} has no axis ${axis} of classes.`,
  );
}
