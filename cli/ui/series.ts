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

/**
 * The trend of a noisy series: at each point the line that fits the points around it best (local regression; Cleveland,
 * JASA 74, 1979, without weights), which neither lags behind a slope nor anticipates it, as an average of the past does. The
 * window is 8 % of the series, at least 11 points; near the first one it is as narrow as its distance, as losses fall
 * steeply there. `log` fits logarithms, for an axis that shows them.
 */
export function trend(values: ArrayLike<number>, { log = false } = {}): number[] {
  const [into, back] = log ? [Math.log, Math.exp] : [Number, Number];
  const n = values.length;
  const half = Math.max(5, Math.round(n / 25));
  // Sums over all points before, so that each window costs the same.
  const sums = Array.from({ length: 5 }, () => new Float64Array(n + 1));
  const [count, sx, sxx, sy, sxy] = sums as [
    Float64Array,
    Float64Array,
    Float64Array,
    Float64Array,
    Float64Array,
  ];
  for (let i = 0; i < n; i++) {
    const y = into(values[i]!);
    const holds = Number.isFinite(y) ? 1 : 0;
    const terms = [holds, holds * i, holds * i * i, holds && y, holds && y * i];
    sums.forEach((sum, j) => {
      sum[i + 1] = sum[i]! + terms[j]!;
    });
  }
  return Array.from({ length: n }, (_, i) => {
    if (!Number.isFinite(into(values[i]!))) return Number.NaN;
    const [from, to] = [i - Math.min(half, i), Math.min(n, i + Math.min(half, i) + 1)];
    const within = (sum: Float64Array) => sum[to]! - sum[from]!;
    const m = within(count);
    const [x, y] = [within(sx) / m, within(sy) / m];
    const spreadOfX = within(sxx) - m * x * x;
    const slope = spreadOfX > 1e-6 ? (within(sxy) - m * x * y) / spreadOfX : 0;
    return back(y + slope * (i - x));
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
