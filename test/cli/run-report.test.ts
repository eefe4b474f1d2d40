import { expect, it } from 'vitest';
import { RunRecord } from '../../cli/run-record.js';
import { renderRun } from '../../cli/run-report.js';

/** Two epochs of 50 steps, whose loss falls by a decade in 25, and twice as much is that of validation. */
function record(validated: boolean): RunRecord {
  const run = new RunRecord();
  const loss = (t: number) => 10 ** (-t / 25);
  for (let t = 1; t <= 100; t++) {
    const [epoch, step] = [Math.ceil(t / 50), ((t - 1) % 50) + 1];
    run.watch({ type: 'step', time: t, epoch, step, loss: loss(t) });
    if (step < 50) continue;
    const validation = validated
      ? { loss: 2 * loss(t), accuracy: 0.9, metrics: { accuracy: 0.9 }, samples: 10 }
      : undefined;
    const result = { trainLoss: 1, ...(validation && { validation }), seconds: 1, trainSeconds: 1 };
    run.watch({ type: 'epoch', time: t, epoch, ...result });
  }
  return run;
}

const chart = (run: RunRecord) =>
  renderRun(run, { title: 't', subtitle: 's', code: 'c' }).match(
    /<svg[^>]*>.*?Loss of each step.*?<\/svg>/s,
  )![0];

it('draws the validation loss beside that of the steps, where it was measured', () => {
  const svg = chart(record(true));
  expect(svg).toContain('>validation</text>');
  expect(svg).toContain('validation, step 50: 0.02</title>');
  expect(svg).toContain('validation, step 100: 2e-4</title>');
  expect(svg).toContain('↑ loss (log scale)');
  expect(chart(record(false))).not.toContain('validation');
});

it('draws a trend that does not lag behind the steps', () => {
  const [raw, line] = ['raw', 'line'].map(name => {
    const [, d] = chart(record(false)).match(new RegExp(`<path class="${name}" d="([^"]*)"`))!;
    return [...d!.matchAll(/[ML]([-\d.]+),([-\d.]+)/g)].map(([, , y]) => Number(y));
  });
  expect(line).toHaveLength(100);
  for (const [i, y] of line!.entries()) expect(Math.abs(y - raw![i]!)).toBeLessThanOrEqual(0.1);
});
