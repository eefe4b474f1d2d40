const BARS = '▁▂▃▄▅▆▇█';

/** A series as one line of bars, the means of equal parts of it, from its least to its largest. */
export function sparkline(values: readonly number[], width = 40): string {
  const count = Math.min(width, values.length);
  const means = Array.from({ length: count }, (_, i) => {
    const part = values.slice(
      Math.floor((i * values.length) / count),
      Math.floor(((i + 1) * values.length) / count),
    );
    return part.reduce((sum, v) => sum + v, 0) / part.length;
  });
  const [low, high] = [Math.min(...means), Math.max(...means)];
  return means
    .map(m => BARS[Math.min(BARS.length - 1, Math.floor(((m - low) / (high - low || 1)) * BARS.length))])
    .join('');
}
