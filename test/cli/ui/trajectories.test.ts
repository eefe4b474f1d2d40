import { expect, test } from 'vitest';
import { type Trajectories, trajectoryChart } from '../../../cli/ui/trajectories.js';

const bowl: Trajectories = {
  title: 'x² + y²',
  description: 'A bowl.',
  x: [-2, 2],
  y: [-2, 2],
  minimum: [0, 0],
  grid: {
    columns: 41,
    rows: 41,
    values: Array.from(
      { length: 41 * 41 },
      (_, k) => ((k % 41) / 10 - 2) ** 2 + (Math.floor(k / 41) / 10 - 2) ** 2,
    ),
  },
  paths: [
    {
      name: 'a',
      points: [
        [1, 1],
        [0.5, 1],
        [0, 0],
      ],
    },
    {
      name: 'b',
      points: [
        [1, 1],
        [1, -2],
      ],
    },
  ],
};

/** The places of a path, or of a circle. */
const numbers = (text: string) => [...text.matchAll(/-?\d+(\.\d+)?/g)].map(match => Number(match[0]));
const svg = trajectoryChart(bowl);
const ring = numbers(svg.match(/<circle class="goal" ([^>]*)>/)![1]!);

test('trajectories go from their first point to their last, y upwards', () => {
  const trajectories = [...svg.matchAll(/<path class="line trajectory" d="([^"]*)"/g)].map(match =>
    numbers(match[1]!),
  );
  // The first is drawn last, on top.
  const [b, a] = trajectories as [number[], number[]];
  expect(a).toHaveLength(6);
  expect(a.slice(4)).toEqual(ring.slice(0, 2));
  expect(a.slice(0, 2)).toEqual(b.slice(0, 2));
  expect(a[0]).toBeGreaterThan(ring[0]!);
  expect(a[1]).toBeLessThan(ring[1]!);
  expect(b[3]).toBeGreaterThan(ring[1]!);
});

test('contours are rings around the minimum, each of its value', () => {
  const rings = [...svg.matchAll(/<path class="contour"[^>]* d="([^"]*)"><title>([^<]*)</g)];
  expect(rings.length).toBeGreaterThan(8);
  const [, unit] = [...svg.matchAll(/<path class="line trajectory" d="([^"]*)"/g)].map(m => numbers(m[1]!));
  const perUnit = unit![0]! - ring[0]!;
  for (const [, d, value] of rings) {
    const radius = Math.sqrt(Number(value));
    if (radius > 1.9 || radius < 0.3) continue;
    const all = numbers(d!);
    for (let i = 0; i < all.length; i += 2) {
      const [dx, dy] = [(all[i]! - ring[0]!) / perUnit, (all[i + 1]! - ring[1]!) / perUnit];
      // The plot is not quite square.
      expect(dx).toBeLessThanOrEqual(1.02 * radius);
      if (Math.abs(dy) < 1 / perUnit) expect(Math.abs(dx)).toBeCloseTo(radius, 1);
    }
  }
});

test('says what it is', () => {
  expect(svg).toContain('<title>x² + y²</title><desc>A bowl.</desc>');
  expect(svg).toContain('>a</text>');
});
