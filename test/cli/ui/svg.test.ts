import { describe, expect, test } from 'vitest';
import { areaChart, type Chart, lineChart } from '../../../cli/ui/svg.js';

const base: Chart = {
  title: 'Loss',
  x: { label: 'step' },
  y: { label: 'loss' },
  series: [{ name: 'a', y: [1, 3, 2] }],
};

/** The `d` of every path of a class. */
function paths(svg: string, name: string): string[] {
  return [...svg.matchAll(new RegExp(`<path class="${name}" d="([^"]*)"`, 'g'))].map(match => match[1]!);
}

/** The points of a path, as numbers. */
function points(d: string): number[][] {
  return [...d.matchAll(/[ML]([-\d.]+),([-\d.]+)/g)].map(match => [Number(match[1]), Number(match[2])]);
}

describe('line charts', () => {
  test('points lie where the ticks say', () => {
    const svg = lineChart(base);
    const [[x1, y1], [x2, y2], [x3, y3]] = points(paths(svg, 'line')[0]!) as [number[], number[], number[]];
    const gridOf = (value: string) =>
      Number(svg.match(new RegExp(`y="([\\d.]+)" dy="[^"]*" text-anchor="end">${value}<`))![1]);
    expect([y1, y2, y3]).toEqual([gridOf('1.0'), gridOf('3.0'), gridOf('2.0')]);
    expect(x2! - x1!).toBeCloseTo(x3! - x2!, 0);
  });

  test('few points have dots that tell their values', () => {
    expect(lineChart(base)).toContain('<title>a, step 2: 3</title></circle>');
    const many = Array.from({ length: 100 }, (_, i) => i);
    expect(lineChart({ ...base, series: [{ name: 'a', y: many }] })).not.toContain('<circle');
  });

  test('a spike survives down-sampling, and the path stays short', () => {
    const y = new Float32Array(100_000).fill(1);
    y[54_321] = 1000;
    const svg = lineChart({ ...base, series: [{ name: 'a', y }] });
    const line = points(paths(svg, 'line')[0]!);
    expect(line.length).toBeLessThan(1000);
    const ys = line.map(([, py]) => py!);
    expect(ys.filter(py => py < Math.max(...ys))).toHaveLength(1);
  });

  test('what has no place on the axis leaves a gap', () => {
    const gap = lineChart({ ...base, series: [{ name: 'a', y: [1, 2, Number.NaN, 3, 4] }] });
    expect(paths(gap, 'line')[0]!.match(/M/g)).toHaveLength(2);
    const log = lineChart({
      ...base,
      y: { label: 'loss', scale: 'log' },
      series: [{ name: 'a', y: [1, 0, 10, -1, 100] }],
    });
    expect(points(paths(log, 'line')[0]!)).toHaveLength(3);
    expect(log).not.toMatch(/NaN|Infinity/);
  });

  test('a smoothed series is drawn over its faint self', () => {
    const svg = lineChart({ ...base, series: [{ name: 'a', y: [1, 3, 1, 3], smooth: true }] });
    expect(paths(svg, 'raw')).toHaveLength(1);
    expect(paths(svg, 'line')).toHaveLength(1);
    expect(paths(svg, 'line')).not.toEqual(paths(svg, 'raw'));
  });

  test('a logarithmic axis says that it is one', () => {
    expect(lineChart({ ...base, y: { label: 'loss', scale: 'log' } })).toContain('↑ loss (log scale)');
    expect(lineChart(base)).toContain('↑ loss<');
  });

  test('a band closes around its line', () => {
    const svg = lineChart({ ...base, series: [{ name: 'a', y: [1, 2], low: [0, 1], high: [2, 3] }] });
    const [band] = paths(svg, 'band');
    expect(points(band!)).toHaveLength(4);
    expect(band).toMatch(/Z$/);
  });

  test('several series have a legend, one has none; colours repeat dashed', () => {
    expect(lineChart(base)).not.toContain('class="key"');
    const series = Array.from({ length: 9 }, (_, i) => ({ name: `run ${i}`, y: [i, i + 1] }));
    const svg = lineChart({ ...base, series });
    expect(svg.match(/class="key"/g)).toHaveLength(9);
    expect(svg.match(/<g class="s0 dashed">/g)).toHaveLength(2);
  });

  test('names are escaped; title and description are there to be read aloud', () => {
    const svg = lineChart({ ...base, title: '<Loss> & "more"', series: [{ name: '<a>', y: [1, 2] }] });
    expect(svg).toContain('<title>&lt;Loss&gt; &amp; &quot;more&quot;</title>');
    expect(svg).toContain('<desc>loss over step: &lt;a&gt; (last 2).</desc>');
    expect(svg).toContain('role="img"');
    expect(svg).not.toContain('<a>');
  });

  test('nothing to draw is an empty chart', () => {
    expect(lineChart({ ...base, series: [] })).not.toMatch(/NaN|Infinity/);
    expect(lineChart({ ...base, series: [{ name: 'a', y: [] }] })).not.toMatch(/NaN|Infinity/);
  });
});

describe('area charts', () => {
  test('shares are stacked from zero', () => {
    const series = [
      { name: 'a', y: [1, 2] },
      { name: 'b', y: [3, 2] },
    ];
    const svg = areaChart({ ...base, y: { label: 'share', max: 4 }, series });
    const [a, b] = paths(svg, 'fill').map(points);
    const [top, bottom] = [b![0]![1], a![3]![1]];
    expect(a!.map(([, y]) => y)).toEqual([
      bottom! + (top! - bottom!) / 4,
      (top! + bottom!) / 2,
      bottom,
      bottom,
    ]);
    expect(b!.map(([, y]) => y)).toEqual([top, top, a![1]![1], a![0]![1]]);
  });

  test('many areas are steps of one sequence of colours', () => {
    const series = Array.from({ length: 12 }, (_, i) => ({ name: `layer ${i}`, y: [1, 1] }));
    const svg = areaChart({ ...base, series });
    expect(new Set(svg.match(/style="color:rgb[^"]*"/g)).size).toBe(12);
  });
});

test('a long legend makes the chart higher, not the plot lower', () => {
  const plotHeight = (count: number) => {
    const series = Array.from({ length: count }, (_, i) => ({
      name: `a series with a name ${i}`,
      y: [1, 2],
    }));
    const svg = lineChart({ ...base, series });
    const [[, low], [, high]] = points(svg.match(/class="line" d="(M[^"h]*)"/)![1]!) as [number[], number[]];
    return low! - high!;
  };
  expect(plotHeight(20)).toBeCloseTo(plotHeight(2));
});
