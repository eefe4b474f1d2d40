/** Top-k accuracy: the share of targets whose score is among the k largest. */
import { type Accumulator, type Metric, metric, type Sums, type TaskSpec } from './metric.js';
import type { ScoredBatch } from './scored-batch.js';

/**
 * The place of each target's score among those of its position: 0 is the largest, and of equal scores the first class
 * comes first, as in the accuracy. (scikit-learn's `top_k_accuracy_score` takes the last one first.)
 */
class Ranks implements Accumulator {
  readonly #counts = new Map<number, number>();
  #total = 0;

  add({ width, positions, scores, targets, predicted }: ScoredBatch): void {
    for (let p = 0; p < positions; p++) {
      const target = targets[p]!;
      if (target < 0) continue;
      this.#total++;
      if (predicted[p]! < 0) continue;
      const start = p * width;
      const score = scores[start + target]!;
      let rank = 0;
      for (let c = 0; c < width; c++)
        if (scores[start + c]! > score || (c < target && scores[start + c] === score)) rank++;
      this.#counts.set(rank, (this.#counts.get(rank) ?? 0) + 1);
    }
  }

  get sums(): Sums {
    const counts = new Float64Array(Math.max(-1, ...this.#counts.keys()) + 1);
    for (const [rank, count] of this.#counts) counts[rank] = count;
    return { counts, total: this.#total };
  }

  set sums({ counts, total }: Sums) {
    this.#counts.clear();
    Array.from(counts as ArrayLike<number>).forEach((count, rank) => {
      if (count) this.#counts.set(rank, count);
    });
    this.#total = total as number;
  }

  top(k: number): number {
    if (!this.#total) return NaN;
    let hits = 0;
    for (const [rank, count] of this.#counts) if (rank < k) hits += count;
    return hits / this.#total;
  }
}

const ranks = (_: TaskSpec) => new Ranks();

export const topK = (k: number): Omit<Metric, 'name'> =>
  metric(
    ranks,
    { better: 'higher', help: `Share of targets among the ${k} largest scores`, tasks: ['classes'] },
    r => r.top(k),
  );
