/**
 * Training criteria: scalar losses of a model's output and a target, means over all positions, as PyTorch's
 * functions of the same names define them.
 */
import type { DType } from '../graph/dtype.js';
import { AgdError } from '../graph/errors.js';
import type { Shape } from '../graph/ir.js';
import { Tensor } from '../graph/tensor.js';
import type { Expr } from './core/expr.js';
import { checkNewName, unknownName } from './core/option-type.js';
import { range } from './core/rule.js';

/** A loss: what its target holds, and its formula. */
export type Loss = {
  /** Class numbers (int64, without the axis of the classes), or values of the output's type and shape. */
  readonly target: 'classes' | 'values';
  /** What the target's values may be, where not any. */
  readonly range?: { readonly least: number; readonly most: number };
  /** What makes probabilities of the output, or of a loss of values what it predicts: softmax for classes and `none` for values, if not given. */
  readonly activation?: Activation;
  /** The loss at each position, of the output's type. */
  terms(output: Expr, target: Expr, options: LossOptions): LossTerms;
};

/** `exp` is for logarithms of probabilities. */
export const ACTIVATIONS = ['softmax', 'sigmoid', 'exp', 'none'] as const;
export type Activation = (typeof ACTIVATIONS)[number];

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
  return LOSSES.get(kind)?.target === 'classes';
}

/** What makes probabilities of an output that this loss reads. */
export function activationOf(kind: LossKind): Activation {
  return LOSSES.get(kind)?.activation ?? (takesClasses(kind) ? 'softmax' : 'none');
}

/** Whether the loss takes probabilities as targets, those of a yes. */
export function takesProbabilities(kind: LossKind): boolean {
  const range = LOSSES.get(kind)?.range;
  return range?.least === 0 && range.most === 1;
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
  if (!takesClasses(kind)) return LOSSES.get(kind)?.range;
  const classes = shape?.[classAxisOf(shape.length, options)];
  const most = typeof classes === 'number' ? classes - 1 : Infinity;
  return { least: 0, most, ignored: options.ignoreIndex };
}

/**
 * A loss before its mean: at each position, and what the position weighs in the mean, 1 where undefined. The mean is the
 * sum of the losses over the sum of the weights; the losses have the weights in them.
 */
export type LossTerms = { loss: Expr; weight?: Expr };

/** The loss as a scalar of the output's element type. Throws `bad-option`. */
export function criterion(kind: LossKind, output: Expr, target: Expr, options: LossOptions = {}): Expr {
  const { loss, weight } = lossTerms(kind, output, target, options);
  return weight ? loss.sum().div(weight.sum()) : loss.mean();
}

/** The same, position by position. Throws `bad-option`. */
export function lossTerms(kind: LossKind, output: Expr, target: Expr, options: LossOptions = {}): LossTerms {
  checkOptions(options);
  const loss = LOSSES.get(kind);
  if (!loss) throw unknownName('loss', kind, LOSS_NAMES);
  return loss.terms(output, target, options);
}

const BUILT_IN = {
  'cross-entropy': {
    target: 'classes',
    terms(output, target, options) {
      const axis = classAxis(output, options);
      return nll(output.op('LogSoftmax', [], { axis }), target, axis, options);
    },
  },
  nll: {
    target: 'classes',
    activation: 'exp',
    terms: (output, target, options) => nll(output, target, classAxis(output, options), options),
  },
  /** log(1 + exp(x)) - x t, which is finite for every x. */
  'bce-with-logits': {
    target: 'values',
    range: { least: 0, most: 1 },
    activation: 'sigmoid',
    terms: (output, target) => ({ loss: output.op('Softplus').sub(output.mul(target)) }),
  },
  bce: {
    target: 'values',
    range: { least: 0, most: 1 },
    terms: (output, target) => ({ loss: bce(output, target) }),
  },
  mse: { target: 'values', terms: (output, target) => ({ loss: output.sub(target).square() }) },
  l1: { target: 'values', terms: (output, target) => ({ loss: output.sub(target).abs() }) },
  /** e^2 / 2 up to |e| = 1, |e| - 1/2 beyond. */
  huber: {
    target: 'values',
    terms(output, target) {
      const e = output.sub(target).abs();
      const near = e.op('Clip', [undefined, e.g.scalar(1, e.dtype)]);
      return { loss: near.mul(e.sub(near.mul(0.5))) };
    },
  },
} as const satisfies Record<string, Loss>;

export type LossKind = keyof typeof BUILT_IN;

/** By kind; extensions add theirs. */
const LOSSES = new Map<string, Loss>(Object.entries(BUILT_IN));

const NAMES = Object.keys(BUILT_IN) as LossKind[];
/** The kinds of all losses, those of extensions too. */
export const LOSS_NAMES: readonly LossKind[] = NAMES;

export const isBuiltInLoss = (kind: string): kind is LossKind => Object.hasOwn(BUILT_IN, kind);
export const isKnownLoss = (kind: string) => LOSSES.has(kind);

/** Adds an extension's. Throws `bad-option` where the name is taken or cannot be one. */
export function addLoss(name: string, loss: Loss): void {
  checkNewName('Loss', name, [...NAMES, 'output']);
  LOSSES.set(name, loss);
  NAMES.push(name as LossKind);
}

/** -t log(p) - (1 - t) log(1 - p), in float32 where the output has 16 bits. */
function bce(output: Expr, target: Expr): Expr {
  const dtype = output.dtype === 'float64' ? 'float64' : 'float32';
  const [p, t] = [output.cast(dtype), target.cast(dtype)];
  const loss = t.mul(boundedLog(p)).add(t.rsub(1).mul(boundedLog(p.rsub(1))));
  return loss.neg().cast(output.dtype);
}

/**
 * log(p), at least -100, as in PyTorch's BCELoss. At p = 0, where the logarithm has no slope, it is PyTorch's, 1 / 1e-12;
 * a p below 0, which is no probability, gives NaN.
 */
function boundedLog(p: Expr): Expr {
  const isZero = p.equal(0);
  const log = isZero.where(1, p).log().op('Clip', [-100]);
  return isZero.where(p.mul(1e12).sub(100), log);
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
 * -w[t] logp[t], and w[t] as the weight, so that the mean is -sum(w[t] logp[t]) / sum(w[t]) over the positions whose target is not ignored. With smoothing e over C
 * classes: (1 - e) times that, plus e / C times -sum_c(w[c] logp[c]), over the same sum of weights.
 */
function nll(logp: Expr, target: Expr, axis: number, options: LossOptions): LossTerms {
  const { ignoreIndex, classWeights, labelSmoothing = 0 } = options;
  const kept = ignoreIndex === undefined ? undefined : target.equal(ignoreIndex).not();
  const classes = kept ? kept.where(target, 0) : target;
  const picked = logp
    .gatherElements(classes.unsqueeze([axis]), axis)
    .squeeze([axis])
    .neg();
  const weights = classWeights && weightVector(classWeights, logp, axis);
  let weight = weights ? weights.gather(classes) : undefined;
  if (kept) weight = weight ? weight.mul(kept.indicator(logp)) : kept.indicator(logp);
  const hard = weight ? picked.mul(weight) : picked;
  if (labelSmoothing === 0) return { loss: hard, weight };
  const shape = range(0, logp.rank).map(i => (i === axis ? -1 : 1));
  const spread = (weights ? logp.mul(weights.reshape(shape)) : logp).sum([axis]).neg();
  const soft = kept ? spread.mul(kept.indicator(logp)) : spread;
  const share = soft.g.scalar(labelSmoothing, soft.dtype).div(logp.count(logp.dtype, [axis]));
  return { loss: hard.mul(1 - labelSmoothing).add(soft.mul(share)), weight };
}

function weightVector(weights: readonly number[], logp: Expr, axis: number): Expr {
  const classes = logp.extent(axis);
  if (typeof classes === 'number' && classes !== weights.length)
    throw new AgdError('bad-option', `${weights.length} class weights were given for ${classes} classes.`);
  const values = Tensor.from('float32', [weights.length], Float32Array.from(weights));
  return logp.g.tensor(values, 'class_weights').cast(logp.dtype);
}
