import { AgdError } from '../../graph/errors.js';
import type { Tensor } from '../../graph/tensor.js';
import { classAxisOf } from '../../ops/losses/loss.js';
import type { TaskSpec } from './metric.js';

type Numbers = ArrayLike<number>;

/**
 * Output and target of a batch, less the samples that only fill it up. What metrics read is computed when it is first
 * asked for. Scores, probabilities and, where the task is not one of classes, targets are [positions, width], in rows.
 */
export class ScoredBatch {
  /**
   * Predictions of their own: for classes the elements of the target, for labels those of the output without the axis of
   * labels, for values the samples.
   */
  readonly positions: number;
  /** Classes, labels, or values of a sample. */
  readonly width: number;
  readonly #axis: number;
  readonly #inner: number;
  #scores: Numbers | undefined;
  #targets: Numbers | undefined;
  #probabilities: Numbers | undefined;
  #predicted: Int32Array | undefined;

  /**
   * `output` and `target` are as the model has them, of `size` samples and `padding` others after them, along axis 0.
   * Throws `bad-shape` where they do not fit together.
   */
  constructor(
    readonly spec: TaskSpec,
    readonly output: Tensor,
    readonly target: Tensor,
    readonly size: number,
    padding = 0,
  ) {
    const { dims } = output;
    const share = size / (size + padding);
    if (spec.task === 'values') {
      this.positions = size;
      this.width = (output.size * share) / size;
      this.#axis = dims.length;
      this.#inner = 1;
    } else {
      this.#axis = spec.task === 'labels' && dims.length < 2 ? dims.length : classAxisOf(dims.length, spec);
      this.width = dims[this.#axis] ?? 1;
      this.#inner = dims.slice(this.#axis + 1).reduce((n, d) => n * d, 1);
      this.positions = (output.size / this.width) * share;
    }
    const wanted = spec.task === 'classes' ? this.positions : this.positions * this.width;
    if (target.size * share !== wanted)
      throw new AgdError(
        'bad-shape',
        `An output [${output.dims}] and a target [${target.dims}] do not belong together: the metrics need one target for each ${spec.task === 'classes' ? 'prediction' : 'number'}.`,
      );
  }

  /** The output as it is. */
  get scores(): Numbers {
    this.#scores ??= this.#inRows(this.output.floats());
    return this.#scores;
  }

  /** Classes by position, -1 where the target is ignored; labels and values as they are. */
  get targets(): Numbers {
    this.#targets ??= this.spec.task === 'classes' ? this.#classes() : this.#inRows(this.target.floats());
    return this.#targets;
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

  #classes(): Int32Array {
    const { ignoreIndex } = this.spec;
    const given = this.target.numbers();
    return Int32Array.from({ length: this.positions }, (_, i) => (given[i] === ignoreIndex ? -1 : given[i]!));
  }

  /** With the axis of the classes last. */
  #inRows(values: Numbers): Numbers {
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
