import { cloneModel } from '../../graph/clone.js';
import type { Model } from '../../graph/ir.js';
import { Tensor } from '../../graph/tensor.js';
import { cutAtExchanges, type ExchangedValue, type Segment } from '../../passes/run/cut-at-exchanges.js';
import type { Collective } from '../collective/collective.js';
import { layOut } from '../cpu.js';
import { type Feeds, Session, type SessionOptions } from '../session.js';

/**
 * What a rank contributes to a batch: its samples, and the divisor of the loss that a sum is a gradient of, from the values
 * computed so far.
 */
type Part = { feeds: Feeds; weight: (values: Feeds, sum: string) => number };

/**
 * The gradient half of a step whose batch normalization has the statistics of the whole batch: its segments run one after the
 * other, and between them the ranks exchange vectors with a number per channel. The gradients are those of this rank's loss,
 * and of what its samples change in the losses of the others, in its own scale: a rank with the share w of the batch's
 * loss returns the gradient of its samples divided by w.
 */
export class SynchronizedGradients {
  private constructor(
    private readonly segments: readonly Segment[],
    private readonly sessions: readonly Session[],
    private readonly collective: Collective,
    private readonly tooFew: () => Error,
  ) {}

  /** `tooFew` is the error where a batch has one value per channel. */
  static async create(
    gradients: Model,
    names: Parameters<typeof cutAtExchanges>[1],
    options: SessionOptions & { collective: Collective },
    tooFew: () => Error,
  ): Promise<SynchronizedGradients> {
    const segments = cutAtExchanges(gradients, names);
    const sessions: Session[] = [];
    for (const { model } of segments)
      sessions.push(await Session.create(await layOut(cloneModel(model), options), options));
    return new SynchronizedGradients(segments, sessions, options.collective, tooFew);
  }

  /** The outputs `fetched`; undefined for a rank without a part. All ranks call it together. */
  async run(part: Part | undefined, fetched: readonly string[]): Promise<Feeds | undefined> {
    const values: Feeds = { ...part?.feeds };
    for (const [i, segment] of this.segments.entries()) {
      if (part) {
        const { inputs, outputs } = this.sessions[i]!;
        const given = inputs.map(name => [name, values[name]!] as const);
        if (outputs.length) Object.assign(values, await this.sessions[i]!.run(Object.fromEntries(given)));
      }
      await this.#exchange(segment, values, part);
    }
    return part && Object.fromEntries(fetched.map(name => [name, values[name]!]));
  }

  async release(): Promise<void> {
    for (const session of this.sessions) await session.release();
  }

  /** Sums are in float64, in which variances can be computed from those of squares. */
  async #exchange({ statistics, sums }: Segment, values: Feeds, part: Part | undefined): Promise<void> {
    if (!statistics.length && !sums.length) return;
    const own: number[] = [];
    const numbers = ({ own: name, dims }: ExchangedValue, f: (x: number, i: number) => number) => {
      if (part) for (const [i, x] of values[name]!.numbers().entries()) own.push(f(x, i));
      else for (let i = dims.reduce((n, d) => n * d, 1); i > 0; i--) own.push(0);
    };
    for (const { count, mean, variance } of statistics) {
      const n = part ? values[count.own]!.numbers()[0]! : 0;
      const means = part ? values[mean.own]!.numbers() : [];
      own.push(n);
      numbers(mean, x => n * x);
      numbers(variance, (x, i) => n * (x + means[i]! ** 2));
    }
    // A rank whose samples do not count in the loss has gradients of that of the others.
    const weights = sums.map(sum => part?.weight(values, sum.all) || 1);
    for (const [i, sum] of sums.entries()) numbers(sum, x => x * weights[i]!);
    const all = Float64Array.from(own);
    await this.collective.allReduce(all);
    let at = 0;
    const take = (dims: readonly number[]) => {
      const size = dims.reduce((n, d) => n * d, 1);
      at += size;
      return Array.from(all.subarray(at - size, at));
    };
    const give = ({ own: name, all: copy, dims }: ExchangedValue, found: readonly number[]) => {
      if (part) values[copy] = Tensor.ofNumbers(values[name]!.dtype as 'float32', dims, found);
    };
    for (const { count, mean, variance } of statistics) {
      const [n] = take([]) as [number];
      if (n < 2) throw this.tooFew();
      const means = take(mean.dims).map(x => x / n);
      const squares = take(variance.dims);
      give(count, [n]);
      give(mean, means);
      give(
        variance,
        squares.map((x, i) => Math.max(0, x / n - means[i]! ** 2)),
      );
    }
    for (const [i, sum] of sums.entries())
      give(
        sum,
        take(sum.dims).map(x => x / weights[i]!),
      );
  }
}
