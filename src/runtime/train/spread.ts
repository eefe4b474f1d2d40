export type Spread = { mean: number; spread: number };

/** Mean and standard deviation of the sample; 0 for a single value, not a number where there is none. */
export function spreadOf(values: readonly number[]): Spread {
  const mean = values.reduce((a, b) => a + b, 0) / values.length;
  const squares = values.reduce((sum, v) => sum + (v - mean) ** 2, 0);
  const spread = values.length ? Math.sqrt(squares / Math.max(1, values.length - 1)) : Number.NaN;
  return { mean, spread };
}
