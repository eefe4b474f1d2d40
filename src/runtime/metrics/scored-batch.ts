import { AgdError } from '../../graph/errors.js';
import { Tensor } from '../../graph/tensor.js';
import { classAxisOf } from '../../ops/losses/loss.js';
import type { TaskSpec } from './metric.js';

type Numbers = ArrayLike<number>;

/**
 * The output for a batch, less the samples that only fill it up. What is read off it is computed when it is first asked
 * for. Scores and probabilities are [positions, width], in rows.
 */
export class Scored {
  /**
   * Predictions of their own: for classes the elements of the output without the axis of classes, for labels without that
   * of labels, for values the samples.
   */
  readonly positions: number;
  /** Classes, labels, or values of a sample. */
  readonly width: number;
  readonly #axis: number;
  readonly #inner: number;
  #scores: Numbers | undefined;
  #probabilities: Numbers | undefined;
  #predicted: Int32Array | undefined;

  /** `output` is as the model has it, of `size` samples and `padding` others after them, along axis 0. */
  constructor(
    readonly spec: TaskSpec,
    readonly output: Tensor,
    readonly size: number,
    padding = 0,
  ) {
    const { dims } = output;
    const share = size / (size + padding);
    const isFlat = spec.task === 'values' || (spec.task === 'labels' && dims.length < 2);
    this.#axis = isFlat ? dims.length : classAxisOf(dims.length, spec);
    this.#inner = dims.slice(this.#axis + 1).reduce((n, d) => n * d, 1);
    const count = output.size * share;
    this.width = spec.task === 'values' ? count / size : (dims[this.#axis] ?? 1);
    this.positions = count / this.width;
  }

  /** The output as it is. */
  get scores(): Numbers {
    this.#scores ??= this.inRows(this.output.floats());
    return this.#scores;
  }

  /** What the activation makes of the scores, in float64; of a task of values the predicted values. */
  get probabilities(): Numbers {
    this.#probabilities ??= this.#activate();
    return this.#probabilities;
  }

  /**
   * The class of the largest score by position, the first of several; for labels, by element, 1 where the probability is
   * above 0.5. -1 where a score is NaN: nothing is predicted, which is never right.
   */
  get predicted(): Int32Array {
    this.#predicted ??= this.spec.task === 'classes' ? this.#largest() : this.#above();
    return this.#predicted;
  }

  /** The probabilities in the layout of the output, in float32. */
  get probabilityTensor(): Tensor {
    return Tensor.from(
      'float32',
      this.#dimsOf(this.size),
      Float32Array.from(this.#asOutput(this.probabilities)),
    );
  }

  /** The predicted classes as int64, in the shape of the output without the axis of classes; those of labels with it. */
  get predictedTensor(): Tensor {
    const dims = this.#dimsOf(this.size);
    if (this.spec.task === 'classes')
      return Tensor.from(
        'int64',
        dims.filter((_, i) => i !== this.#axis),
        BigInt64Array.from(this.predicted, BigInt),
      );
    return Tensor.from('int64', dims, BigInt64Array.from(this.#asOutput(this.predicted), BigInt));
  }

  /** What is in rows, in the layout of the output. */
  #asOutput(rows: Numbers): Float64Array {
    const [inner, width] = [this.#inner, this.width];
    const values = new Float64Array(this.positions * width);
    for (let i = 0; i < values.length; i++) {
      const [position, at] = [Math.floor(i / width), i % width];
      values[(Math.floor(position / inner) * width + at) * inner + (position % inner)] = rows[i]!;
    }
    return values;
  }

  #dimsOf(size: number): number[] {
    return this.output.dims.map((d, i) => (i === 0 && d !== size ? size : d));
  }

  /** With the axis of the classes last. */
  protected inRows(values: Numbers): Numbers {
    const [inner, width] = [this.#inner, this.width];
    if (inner === 1 || width === 1) return values;
    const count = this.positions * width;
    const rows = new Float64Array(count);
    for (let i = 0; i < count; i++) {
      const [position, at] = [Math.floor(i / width), i % width];
      rows[i] = values[(Math.floor(position / inner) * width + at) * inner + (position % inner)]!;
    }
    return rows;
  }

  #activate(): Numbers {
    const { scores, width, positions } = this;
    const count = positions * width;
    switch (this.spec.activation) {
      case 'none':
        return scores;
      case 'exp':
        return Float64Array.from({ length: count }, (_, i) => Math.exp(scores[i]!));
      case 'sigmoid':
        return Float64Array.from({ length: count }, (_, i) => sigmoid(scores[i]!));
      case 'softmax': {
        const found = new Float64Array(count);
        for (let start = 0; start < count; start += width) {
          const total = logSumExp(scores, start, width);
          for (let i = start; i < start + width; i++) found[i] = Math.exp(scores[i]! - total);
        }
        return found;
      }
    }
  }

  #largest(): Int32Array {
    const { scores, width, positions } = this;
    const found = new Int32Array(positions);
    for (let p = 0; p < positions; p++) {
      const start = p * width;
      let [best, most] = [0, scores[start]!];
      for (let c = 0; c < width; c++) {
        const score = scores[start + c]!;
        if (score > most) [best, most] = [c, score];
        else if (Number.isNaN(score)) [best, most] = [-1, Number.POSITIVE_INFINITY];
      }
      found[p] = best;
    }
    return found;
  }

  #above(): Int32Array {
    const { scores } = this;
    const bound = { none: 0.5, sigmoid: 0, exp: Math.log(0.5), softmax: 0 }[this.spec.activation];
    return Int32Array.from({ length: this.positions * this.width }, (_, i) =>
      Number.isNaN(scores[i]) ? -1 : scores[i]! > bound ? 1 : 0,
    );
  }
}

/** Output and target of a batch; for labels and values the targets are in rows, as the scores are. */
export class ScoredBatch extends Scored {
  #targets: Numbers | undefined;

  /** Throws `bad-shape` where output and target do not fit together. */
  constructor(
    spec: TaskSpec,
    output: Tensor,
    readonly target: Tensor,
    size: number,
    padding = 0,
  ) {
    super(spec, output, size, padding);
    const wanted = spec.task === 'classes' ? this.positions : this.positions * this.width;
    if ((target.size * size) / (size + padding) !== wanted)
      throw new AgdError(
        'bad-shape',
        `An output [${output.dims}] and a target [${target.dims}] do not belong together: the metrics need one target for each ${spec.task === 'classes' ? 'prediction' : 'number'}.`,
      );
  }

  /** Classes by position, -1 where the target is ignored; labels and values as they are. */
  get targets(): Numbers {
    this.#targets ??= this.spec.task === 'classes' ? this.#classes() : this.inRows(this.target.floats());
    return this.#targets;
  }

  #classes(): Int32Array {
    const { ignoreIndex } = this.spec;
    const given = this.target.numbers();
    return Int32Array.from({ length: this.positions }, (_, i) => (given[i] === ignoreIndex ? -1 : given[i]!));
  }
}

/** 1 / (1 + exp(-x)), without overflow. */
export function sigmoid(x: number): number {
  if (x >= 0) return 1 / (1 + Math.exp(-x));
  const e = Math.exp(x);
  return e / (1 + e);
}

/** log(sum(exp(x))) of `count` numbers from `start` on, without overflow; NaN where one of them is. */
export function logSumExp(x: ArrayLike<number>, start: number, count: number): number {
  let most = Number.NEGATIVE_INFINITY;
  for (let i = start; i < start + count; i++) if (!(x[i]! <= most)) most = x[i]!;
  if (!Number.isFinite(most)) return most;
  let sum = 0;
  for (let i = start; i < start + count; i++) sum += Math.exp(x[i]! - most);
  return most + Math.log(sum);
}
