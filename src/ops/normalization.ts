/** Normalizations, and dropout. */
import type { FloatDType } from '../graph/dtype.js';
import type { Expr } from './core/expr.js';
import {
  allButChannels,
  channelDots,
  channelMoments,
  moments,
  overRanks,
  perChannel,
  standardize,
  standardizeBack,
} from './core/moments.js';
import { expansion, type NodeView, normalizeAxis, type Rule, range, type Unary } from './core/rule.js';

type Scaled = readonly [x: Expr, scale: Expr, bias?: Expr];

// ---- batch normalization ----

type BatchNorm = Rule<
  readonly [x: Expr, scale: Expr, bias: Expr, mean: Expr, variance: Expr],
  readonly [Expr | undefined, Expr?, Expr?]
>;

/**
 * y = scale * (x - mean) * inv + bias, inv = 1 / sqrt(variance + epsilon)  =>  with the statistics given:
 * dx = dy * scale * inv, dscale = sum(dy * (x - mean)) * inv, dbias = sum(dy),
 * dmean = -sum(dy) * scale * inv, dvariance = -sum(dy * (x - mean)) * scale * inv^3 / 2.
 * In training mode mean and variance are those of x, and
 * dx = scale * inv * (dy - mean(dy) - (x - mean) * inv^2 * mean(dy * (x - mean))).
 */
export const BatchNormalization: BatchNorm = (dys, node) =>
  node.attrs.int('training_mode', 0) ? trainingBatchNorm(dys, node) : inferenceBatchNorm(dys[0]!, node);

function inferenceBatchNorm(
  dy: Expr,
  { inputs: [x, scale, , mean, variance], attrs }: Parameters<BatchNorm>[1],
) {
  const inv = () => variance.add(attrs.float('epsilon', 1e-5)).sqrt().reciprocal();
  const sum = () => dy.sum(allButChannels(x));
  const weighted = () => dy.mul(x.sub(perChannel(mean, x))).sum(allButChannels(x));
  return [
    () => dy.mul(perChannel(scale.mul(inv()), x)),
    () => weighted().mul(inv()),
    sum,
    () => sum().mul(scale).mul(inv()).neg(),
    () => weighted().mul(scale).mul(inv().mul(inv().square())).mul(-0.5),
  ];
}

/** The running statistics r' = m r + (1 - m) s of the batch's s: dr = m dr', ds = (1 - m) dr'. */
function trainingBatchNorm([dy, dMean, dVariance]: Parameters<BatchNorm>[0], node: Parameters<BatchNorm>[1]) {
  const [x, scale] = node.inputs;
  const axes = allButChannels(x);
  const momentum = node.attrs.float('momentum', 0.9);
  const { centered, variance, count } = channelMoments(x);
  const inv = variance.add(node.attrs.float('epsilon', 1e-5)).sqrt().reciprocal();
  const sum = (e: Expr) => e.sum(axes, { keepdims: true });
  const weighted = () => channelDots(dy!, centered);
  const parts = () => {
    const terms: Expr[] = [];
    if (dy) {
      const k = perChannel(scale, x).mul(inv);
      const slope = weighted().mul(k).mul(inv.square()).div(count).neg();
      const shift = sum(dy).mul(k).div(count).neg();
      terms.push(dy.mul(k), centered.mul(overRanks(slope)), overRanks(shift));
    }
    if (dMean)
      terms.push(
        overRanks(
          perChannel(dMean, x)
            .mul(1 - momentum)
            .div(count),
        ),
      );
    if (dVariance)
      terms.push(
        centered.mul(
          overRanks(
            perChannel(dVariance, x)
              .mul(2 * (1 - momentum))
              .div(count),
          ),
        ),
      );
    return terms.reduce((a, b) => a.add(b)).expandLike(x);
  };
  return [
    parts,
    dy ? () => weighted().mul(inv).reshape([-1]) : null,
    dy ? () => sum(dy).reshape([-1]) : null,
    dMean ? () => dMean.mul(momentum) : null,
    dVariance ? () => dVariance.mul(momentum) : null,
  ];
}

// ---- layer, group, instance, RMS ----

/**
 * y = scale * (x - mean) * inv + bias over the axes from `axis` on, whose mean and inv are further outputs
 * =>  with d = dy * scale and xhat = (x - mean) * inv: dx = inv * (d - mean(d) - xhat * mean(d * xhat)),
 * dscale = sum(dy * xhat), dbias = sum(dy); dx += dmean / n - dinv * inv^2 * xhat / n.
 */
export const LayerNormalization: Rule<Scaled, readonly [Expr | undefined, Expr?, Expr?]> = (
  [dy, dMean, dInv],
  node,
) => {
  const [x, scale, bias] = node.inputs;
  const axis = normalizeAxis(node.attrs.int('axis', -1), x);
  const axes = range(axis, x.rank);
  const { mean, inv } = statistics(node, axis);
  const xhat = () => x.sub(mean).mul(inv);
  const parts = () => {
    const terms: Expr[] = [];
    const n = x.count(x.dtype, axes);
    if (dy) terms.push(standardizeBack(dy.mul(scale), { xhat: xhat(), inv }, axes));
    if (dMean) terms.push(dMean.cast(x.dtype).div(n));
    if (dInv) terms.push(xhat().mul(dInv.cast(x.dtype).mul(inv.square()).div(n).neg()));
    return terms.reduce((a, b) => a.add(b)).expandLike(x);
  };
  return [parts, dy ? () => dy.mul(xhat()).sumTo(scale) : null, dy && bias ? () => dy.sumTo(bias) : null];
};

/** The node's own mean and reciprocal deviation, which the runtime computes in float32 even for float64. */
function statistics(node: NodeView<Scaled>, axis: number): { mean: Expr; inv: Expr } {
  const [x] = node.inputs;
  if (x.dtype === 'float64') {
    const { mean, variance } = moments(x, range(axis, x.rank));
    return { mean, inv: variance.add(node.attrs.float('epsilon', 1e-5)).sqrt().reciprocal() };
  }
  const dtype: FloatDType = node.attrs.int('stash_type', 1) === 1 ? 'float32' : (x.dtype as FloatDType);
  const shape = x.shape?.map((d, i) => (i < axis ? d : 1));
  const [mean, inv] = [1, 2].map(i => node.output(i, { kind: 'tensor', dtype, shape }).cast(x.dtype));
  return { mean: mean!, inv: inv! };
}

/**
 * y = scale * x * inv, inv = 1 / sqrt(mean(x^2) + epsilon), and ONNX Runtime's own form of it has inv as an output
 * =>  with d = dy * scale and xhat = x * inv: dx = inv * (d - xhat * mean(d * xhat)), dscale = sum(dy * xhat);
 * dx -= dinv * inv^2 * xhat / n.
 */
export const RMSNormalization: Rule<readonly [Expr, Expr], readonly [Expr | undefined, Expr?]> = (
  [dy, dInv],
  { inputs: [x, scale], attrs },
) => {
  const axes = range(normalizeAxis(attrs.int('axis', -1), x), x.rank);
  const inv = x.square().mean(axes, { keepdims: true }).add(attrs.float('epsilon', 1e-5)).sqrt().reciprocal();
  const xhat = x.mul(inv);
  const ofOutput = (d: Expr) => d.sub(xhat.mul(d.mul(xhat).mean(axes, { keepdims: true }))).mul(inv);
  const ofInv = (d: Expr) => xhat.mul(d.mul(inv.square())).div(x.count(x.dtype, axes)).neg();
  return [
    () =>
      [dy && ofOutput(dy.mul(scale)), dInv && ofInv(dInv)]
        .filter(e => e !== undefined)
        .reduce((a, b) => a.add(b)),
    dy ? () => dy.mul(xhat).sumTo(scale) : null,
  ];
};

export const SimplifiedLayerNormalization = RMSNormalization;

type Affine = Rule<readonly [x: Expr, scale: Expr, bias: Expr], readonly [Expr]>;

/** Each channel of each sample is standardized over space: as LayerNormalization, with scale and bias per channel. */
export const InstanceNormalization: Affine = ([dy], { inputs: [x, scale], attrs }) => {
  const axes = range(2, x.rank);
  const standard = () => standardize(x, axes, attrs.float('epsilon', 1e-5));
  return [
    () => standardizeBack(dy.mul(perChannel(scale, x)), standard(), axes),
    () => dy.mul(standard().xhat).sum(allButChannels(x)),
    () => dy.sum(allButChannels(x)),
  ];
};

/** Groups of channels are standardized together. Scale and bias are per channel, before opset 21 per group. */
export const GroupNormalization: Affine = ([dy], node) => {
  const [x, scale] = node.inputs;
  const groups = node.attrs.int('num_groups', 1);
  const grouped = (e: Expr) => e.reshape([0, groups, -1]);
  const standard = () => standardize(grouped(x), [2], node.attrs.float('epsilon', 1e-5));
  if (node.opset >= 21)
    return [
      () => standardizeBack(grouped(dy.mul(perChannel(scale, x))), standard(), [2]).reshapeLike(x),
      () => dy.mul(standard().xhat.reshapeLike(x)).sum(allButChannels(x)),
      () => dy.sum(allButChannels(x)),
    ];
  return [
    () => standardizeBack(grouped(dy).mul(scale.reshape([-1, 1])), standard(), [2]).reshapeLike(x),
    () => grouped(dy).mul(standard().xhat).sum([0, 2]),
    () => grouped(dy).sum([0, 2]),
  ];
};

/** y = (x - mean) / (deviation + 1e-9), as in the operator's definition. */
export const MeanVarianceNormalization = expansion<readonly [Expr]>(({ inputs: [x], attrs }) => {
  const { centered, variance } = moments(x, attrs.ints('axes') ?? [0, 2, 3]);
  return [centered.div(variance.sqrt().add(1e-9))];
});

// ---- by a norm ----

/**
 * y = x / n, n = |x|_p along `axis`  =>  dx = (dy - n' * sum(dy * y)) / n with n' = y for p = 2 and sign(x) for
 * p = 1; 0 where n = 0.
 */
export const LpNormalization: Unary = ([dy], node) => {
  const [x] = node.inputs;
  const y = node.output();
  const axes = [normalizeAxis(node.attrs.int('axis', -1), x)];
  const one = node.attrs.int('p', 2) === 1;
  return [
    () => {
      const n = x.op(one ? 'ReduceL1' : 'ReduceL2', [x.g.ints(axes)], { keepdims: 1 });
      const dot = dy.mul(y).sum(axes, { keepdims: true });
      const dx = dy.sub((one ? x.sign() : y).mul(dot));
      return n.equal(0).where(0, dx.div(n.equal(0).where(1, n)));
    },
  ];
};

/**
 * y = x * S^-beta, S = bias + alpha / size * (sum of x^2 over `size` neighbouring channels)
 * =>  dx = dy * S^-beta - 2 alpha beta / size * x * (sum of dy * y / S over the channels whose window holds x).
 */
export const LRN: Unary = ([dy], node) => {
  const [x] = node.inputs;
  const size = node.attrs.int('size', 1);
  const [alpha, beta] = [node.attrs.float('alpha', 1e-4), node.attrs.float('beta', 0.75)];
  const before = Math.floor((size - 1) / 2);
  const after = size - 1 - before;
  return [
    () => {
      const s = neighbours(x.square(), before, after)
        .mul(alpha / size)
        .add(node.attrs.float('bias', 1));
      const back = neighbours(dy.mul(node.output()).div(s), after, before);
      return dy.mul(s.pow(-beta)).sub(x.mul(back).mul((2 * alpha * beta) / size));
    },
  ];
};

/** For each channel, the sum over the channels from `before` before it to `after` after it, with zeros outside. */
function neighbours(x: Expr, before: number, after: number): Expr {
  const { g } = x;
  const padded = x.pad(g.ints([before, after]), g.ints([1]));
  const last = Number.MAX_SAFE_INTEGER;
  return range(0, before + after + 1)
    .map(i => padded.slice([i], [i - before - after || last], [1]))
    .reduce((a, b) => a.add(b));
}

// ---- dropout ----

type DropoutRule = Rule<readonly [x: Expr, ratio?: Expr, training?: Expr], readonly [Expr]>;

/** In training y = x * mask / (1 - ratio)  =>  dx = dy * mask / (1 - ratio); else y = x  =>  dx = dy. */
export const Dropout: DropoutRule = ([dy], node) => {
  const [x, ratio, training] = node.inputs;
  if (!training || training.constant?.[0] === 0) return [() => dy, null, null];
  return [
    () => {
      const mask = node.output(1, { kind: 'tensor', dtype: 'bool', shape: x.shape }).indicator(dy);
      const keep = ratio ? ratio.cast(dy.dtype).rsub(1) : node.g.scalar(0.5, dy.dtype);
      const scaled = dy.mul(mask).div(keep);
      return training.constant ? scaled : training.where(scaled, dy);
    },
    null,
    null,
  ];
};
