/**
 * Training criteria: scalar losses of a model's output and a target, means over all positions, as PyTorch's
 * functions of the same names define them.
 */
import type { DType } from '../graph/dtype.js';
import { AgdError } from '../graph/errors.js';
import type { Shape } from '../graph/ir.js';
import { Tensor } from '../graph/tensor.js';
import type { Expr } from './core/expr.js';
import { range } from './core/rule.js';

export const LOSSES = ['cross-entropy', 'nll', 'bce-with-logits', 'mse', 'l1', 'huber'] as const;
export type LossKind = (typeof LOSSES)[number];

export type LossOptions = {
  /** Axis of the classes: the last one, or 1 for outputs of four and more axes (images). */
  classAxis?: number;
  /** Share of the target's probability spread over all classes, in [0, 1). Cross-entropy only. */
  labelSmoothing?: number;
  /** Targets with this class are left out. Cross-entropy and nll. */
  ignoreIndex?: number;
  /** One weight per class. Cross-entropy and nll. */
  classWeights?: readonly number[];
};

/** What a criterion expects of its target, given the output it reads: int64 classes, or values like the output's. */
export function targetType(
  kind: LossKind,
  output: Expr,
  options: LossOptions,
): { dtype: DType; shape: Shape } {
  if (!takesClasses(kind)) return { dtype: output.dtype, shape: output.shape! };
  const axis = classAxis(output, options);
  return { dtype: 'int64', shape: output.shape!.filter((_, i) => i !== axis) };
}

export function takesClasses(kind: LossKind): boolean {
  return kind === 'cross-entropy' || kind === 'nll';
}

/** What the elements of a target may be, beside the class that is ignored. */
export type TargetRange = { least: number; most: number; ignored?: number };

/**
 * The targets that a criterion of an output of this shape is defined for: numbers of its classes, or probabilities.
 * Undefined where any number may be one.
 */
export function targetRange(
  kind: LossKind,
  shape: Shape | undefined,
  options: LossOptions,
): TargetRange | undefined {
  if (kind === 'bce-with-logits') return { least: 0, most: 1 };
  if (!takesClasses(kind)) return undefined;
  const classes = shape?.[classAxisOf(shape.length, options)];
  const most = typeof classes === 'number' ? classes - 1 : Infinity;
  return { least: 0, most, ignored: options.ignoreIndex };
}

/** The loss as a scalar of the output's element type. Throws `bad-option`. */
export function criterion(kind: LossKind, output: Expr, target: Expr, options: LossOptions = {}): Expr {
  checkOptions(options);
  switch (kind) {
    case 'cross-entropy': {
      const axis = classAxis(output, options);
      return nll(output.op('LogSoftmax', [], { axis }), target, axis, options);
    }
    case 'nll':
      return nll(output, target, classAxis(output, options), options);
    // log(1 + exp(x)) - x t, which is finite for every x.
    case 'bce-with-logits':
      return output.op('Softplus').sub(output.mul(target)).mean();
    case 'mse':
      return output.sub(target).square().mean();
    case 'l1':
      return output.sub(target).abs().mean();
    // e^2 / 2 up to |e| = 1, |e| - 1/2 beyond.
    case 'huber': {
      const e = output.sub(target).abs();
      const near = e.op('Clip', [undefined, e.g.scalar(1, e.dtype)]);
      return near.mul(e.sub(near.mul(0.5))).mean();
    }
  }
}

function checkOptions({ labelSmoothing = 0, ignoreIndex = 0 }: LossOptions): void {
  if (!(labelSmoothing >= 0 && labelSmoothing < 1))
    throw new AgdError('bad-option', `Label smoothing must be in [0, 1), not ${labelSmoothing}.`);
  if (!Number.isSafeInteger(ignoreIndex))
    throw new AgdError('bad-option', `The class to ignore must be a whole number, not ${ignoreIndex}.`);
}

/** The axis of the classes in an output of `rank` axes. */
export function classAxisOf(rank: number, { classAxis = rank >= 4 ? 1 : -1 }: LossOptions): number {
  return classAxis < 0 ? classAxis + rank : classAxis;
}

function classAxis(output: Expr, options: LossOptions): number {
  const axis = classAxisOf(output.rank, options);
  if (axis >= 0 && axis < output.rank) return axis;
  const shape = `[${output.shape}]`;
  throw new AgdError(
    'bad-shape',
    `Output '${output.value.name}' of shape ${shape} has no axis ${axis} of classes.`,
  );
}

/**
 * -sum(w[t] logp[t]) / sum(w[t]) over the positions whose target is not ignored. With smoothing e over C
 * classes: (1 - e) times that, plus e / C times -sum_c(w[c] logp[c]), over the same sum of weights.
 */
function nll(logp: Expr, target: Expr, axis: number, options: LossOptions): Expr {
  const { ignoreIndex, classWeights, labelSmoothing = 0 } = options;
  const kept = ignoreIndex === undefined ? undefined : target.equal(ignoreIndex).not();
  const classes = kept ? kept.where(target, 0) : target;
  const picked = logp
    .gatherElements(classes.unsqueeze([axis]), axis)
    .squeeze([axis])
    .neg();
  const weights = classWeights && weightVector(classWeights, logp, axis);
  let each = weights ? weights.gather(classes) : undefined;
  if (kept) each = each ? each.mul(kept.indicator(logp)) : kept.indicator(logp);
  const mean = (loss: Expr) => (each ? loss.sum().div(each.sum()) : loss.mean());
  const hard = mean(each ? picked.mul(each) : picked);
  if (labelSmoothing === 0) return hard;
  const shape = range(0, logp.rank).map(i => (i === axis ? -1 : 1));
  const spread = (weights ? logp.mul(weights.reshape(shape)) : logp).sum([axis]).neg();
  const soft = mean(kept ? spread.mul(kept.indicator(logp)) : spread);
  return hard
    .mul(1 - labelSmoothing)
    .add(soft.mul(soft.g.scalar(labelSmoothing, soft.dtype)).div(logp.count(logp.dtype, [axis])));
}

function weightVector(weights: readonly number[], logp: Expr, axis: number): Expr {
  const classes = logp.extent(axis);
  if (typeof classes === 'number' && classes !== weights.length)
    throw new AgdError('bad-option', `${weights.length} class weights were given for ${classes} classes.`);
  const values = Tensor.from('float32', [weights.length], Float32Array.from(weights));
  return logp.g.tensor(values, 'class_weights').cast(logp.dtype);
}
