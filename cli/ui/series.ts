/**
 * Indices to draw of a long series: at most about `limit`, the first and the last, and of each stretch between
 * the lowest, the highest and the first that is no number, so that no spike and no gap is lost.
 */
export function keepExtremes(values: ArrayLike<number>, limit: number): number[] {
  const n = values.length;
  if (n <= limit) return Array.from({ length: n }, (_, i) => i);
  const buckets = Math.max(1, Math.floor((limit - 2) / 2));
  const kept = new Set([0, n - 1]);
  for (let b = 0; b < buckets; b++) {
    const from = Math.floor((b * n) / buckets);
    const to = Math.floor(((b + 1) * n) / buckets);
    for (const index of extremes(values, from, to)) kept.add(index);
  }
  return [...kept].sort((a, b) => a - b);
}

function extremes(values: ArrayLike<number>, from: number, to: number): number[] {
  let low = -1;
  let high = -1;
  let gap = -1;
  for (let i = from; i < to; i++) {
    const value = values[i]!;
    if (!Number.isFinite(value)) gap = gap < 0 ? i : gap;
    else {
      if (low < 0 || value < values[low]!) low = i;
      if (high < 0 || value > values[high]!) high = i;
    }
  }
  return [low, high, gap].filter(index => index >= 0);
}

/** The means of `limit` stretches of equal length, or the values themselves where there are no more of them. */
export function bucketMeans(values: ArrayLike<number>, limit: number): number[] {
  const n = values.length;
  if (n <= limit) return Array.from(values);
  return Array.from({ length: limit }, (_, b) => {
    const from = Math.floor((b * n) / limit);
    const to = Math.floor(((b + 1) * n) / limit);
    let sum = 0;
    for (let i = from; i < to; i++) sum += values[i]!;
    return sum / (to - from);
  });
}

/** Exponential moving average with the start's bias taken out; `weight` in [0, 1) is the past's share. */
export function smooth(values: ArrayLike<number>, weight: number): number[] {
  let sum = 0;
  let norm = 0;
  return Array.from(values, value => {
    if (!Number.isFinite(value)) return Number.NaN;
    sum = weight * sum + (1 - weight) * value;
    norm = weight * norm + (1 - weight);
    return sum / norm;
  });
}

/** Mean, lowest and highest value over runs (seeds), at each point that all of them reached. */
export function spread(runs: readonly ArrayLike<number>[]): { y: number[]; low: number[]; high: number[] } {
  const length = runs.length ? Math.min(...runs.map(run => run.length)) : 0;
  const columns = Array.from({ length }, (_, i) => runs.map(run => run[i]!));
  return {
    y: columns.map(column => column.reduce((a, b) => a + b, 0) / column.length),
    low: columns.map(column => Math.min(...column)),
    high: columns.map(column => Math.max(...column)),
  };
}
