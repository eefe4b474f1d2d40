/** What is learnt of a column in a pass over its values, in memory that does not grow with their number. */
import { AgdError } from '../../../graph/errors.js';
import { random } from '../../../graph/random.js';

/** Count, mean and sum of squared deviations: Welford, Technometrics 4(3), 1962. Missing values do not count. */
export class Moments {
  count = 0;
  mean = 0;
  #squares = 0;

  add(x: number): void {
    const d = x - this.mean;
    this.mean += d / ++this.count;
    this.#squares += d * (x - this.mean);
  }

  /** Adds `count` times the same number: Chan, Golub, LeVeque, Updating formulae, COMPSTAT 1982. */
  addMany(x: number, count: number): void {
    if (!count) return;
    const d = x - this.mean;
    const n = this.count + count;
    this.#squares += (d * d * this.count * count) / n;
    this.mean += (d * count) / n;
    this.count = n;
  }

  /** Of the population. 1 where all values are the same up to rounding, as scikit-learn decides it. */
  get std(): number {
    const { count, mean } = this;
    const variance = this.#squares / count;
    const rounding = count * Number.EPSILON * variance + (count * mean * Number.EPSILON) ** 2;
    return count === 0 || variance <= rounding ? 1 : Math.sqrt(variance);
  }
}

export class Extremes {
  min = Number.POSITIVE_INFINITY;
  max = Number.NEGATIVE_INFINITY;

  add(x: number): void {
    if (x < this.min) this.min = x;
    if (x > this.max) this.max = x;
  }
}

/** Up to this many values a median is exact; beyond, it is that of a random sample of this size. */
const SAMPLE = 2 ** 20;

/** A uniform sample: Vitter, Random sampling with a reservoir, ACM TOMS 11(1), 1985, algorithm R. */
export class Sample {
  #values: number[] = [];
  #count = 0;
  #draw = random(0);

  add(x: number): void {
    this.#count++;
    if (this.#values.length < SAMPLE) this.#values.push(x);
    else {
      const place = Math.floor(((this.#draw() * 2 ** 21 + (this.#draw() >>> 11)) / 2 ** 53) * this.#count);
      if (place < SAMPLE) this.#values[place] = x;
    }
  }

  get median(): number {
    const sorted = Float64Array.from(this.#values).sort();
    const half = sorted.length >> 1;
    return sorted.length % 2 ? sorted[half]! : (sorted[half - 1]! + sorted[half]!) / 2;
  }
}

/** More different values than this are not categories. */
const MOST = 2 ** 20;

/** How often each value is there. */
export class Counts {
  readonly counts = new Map<string | number, number>();
  missing = 0;

  constructor(readonly column: string) {}

  add(key: string | number | null): void {
    if (key === null) {
      this.missing++;
      return;
    }
    const before = this.counts.get(key);
    if (before === undefined && this.counts.size === MOST)
      throw new AgdError(
        'bad-data',
        `Column '${this.column}' has more than ${MOST} different values, too many for a table: hash(BUCKETS) numbers them without one, and without --columns for it the column can be left out.`,
      );
    this.counts.set(key, (before ?? 0) + 1);
  }

  /** The values in order, numbers by size and text by its code units; of more than `most`, those that are most frequent. */
  table(most = Number.POSITIVE_INFINITY): string[] {
    return sorted(this.#frequent(most)).map(String);
  }

  /** The most frequent value, the first in order of several. */
  get mode(): string | number | undefined {
    const [first] = this.#frequent(1);
    return first;
  }

  #frequent(most: number): (string | number)[] {
    const keys = sorted([...this.counts.keys()]);
    if (keys.length <= most) return keys;
    return keys.sort((a, b) => this.counts.get(b)! - this.counts.get(a)!).slice(0, most);
  }
}

/** Numbers by size, text by its code units. */
export function sorted(keys: (string | number)[]): (string | number)[] {
  return keys.sort((a, b) => {
    if (typeof a === 'number' && typeof b === 'number') return a - b;
    const [x, y] = [String(a), String(b)];
    return x < y ? -1 : x > y ? 1 : 0;
  });
}
