import { describe, expect, it } from 'vitest';
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

type Events = Parameters<RunRecord['watch']>[0];
const page = (run: RunRecord) => renderRun(run, { title: 't', subtitle: 's', code: 'c' });

/** Epochs of two steps with these validation losses. */
function epochsOf(
  losses: readonly number[],
  more: (epoch: number) => Partial<Events> = () => ({}),
): RunRecord {
  const run = new RunRecord();
  for (const [i, loss] of losses.entries()) {
    const epoch = i + 1;
    for (const step of [1, 2]) run.watch({ type: 'step', time: 0, epoch, step, loss: 1, lr: 0.1 / epoch });
    const validation = { loss, metrics: { f1: loss / 2 }, samples: 4 };
    const event = {
      type: 'epoch',
      time: 0,
      epoch,
      trainLoss: 1,
      validation,
      seconds: 1,
      trainSeconds: 1,
    } as const;
    run.watch({ ...event, ...more(epoch) } as Events);
  }
  return run;
}

describe('the best epoch', () => {
  it('is that of the lowest validation loss, marked in charts, tiles and table', () => {
    const html = page(epochsOf([3, 1, 2]));
    expect(html).toContain('>best epoch 2</text>');
    expect(html).toContain('of the best epoch, 2 of 3');
    expect(html).toMatch(/<td class="number">2<\/td><td class="number">1.000<\/td>.*?<td>★ best<\/td>/);
    expect(html.match(/★ best/g)).toHaveLength(1);
  });
  it('is what the run says, where it does', () => {
    const html = page(epochsOf([3, 1, 2], epoch => (epoch === 3 ? ({ best: true } as object) : {})));
    expect(html).toContain('>best epoch 3</text>');
  });
  it('is nothing without validation', () => {
    const html = page(record(false));
    expect(html).not.toContain('best');
  });
});

it('has the curves of metrics, learning rate and norm of the gradients where they are known', () => {
  const html = page(epochsOf([3, 2]));
  expect(html).toContain('F1 after each epoch');
  expect(html).toContain('>Learning rate</text>');
  expect(html).not.toContain('Norm of the gradients');
  const run = new RunRecord();
  for (const step of [1, 2])
    run.watch({ type: 'step', time: 0, epoch: 1, step, loss: 1, lr: 0.25, gradNorm: step });
  expect(page(run)).toContain('Norm of the gradients before clipping');
  // One that never changes is a fact.
  expect(page(run)).not.toContain('>Learning rate</text>');
  expect(page(run)).toContain('<dt>Learning rate</dt><dd>0.25</dd>');
});

it('folds a table of more than 20 epochs, and shows the best and the last ones', () => {
  const losses = Array.from({ length: 30 }, (_, i) => (i === 3 ? 0.5 : 1));
  const html = page(epochsOf(losses));
  const [shown, folded] = html.split('<details><summary>All 30 epochs</summary>');
  const rows = (text: string) => (text.match(/<tbody>.*?<\/tbody>/s)![0].match(/<tr>/g) ?? []).length;
  expect([rows(shown!), rows(folded!)]).toEqual([6, 30]);
  expect(page(epochsOf(losses.slice(0, 20)))).not.toContain('<details>');
});

it('shows a confusion matrix of few classes, and the mistakes of many', () => {
  const matrix = (n: number) =>
    Array.from({ length: n }, (_, i) => Array.from({ length: n }, (_, j) => (i === j ? 9 : j === 0 ? 1 : 0)));
  const of = (n: number, classes?: string[]) =>
    page(
      epochsOf([1], () => ({
        validation: {
          loss: 1,
          metrics: {},
          samples: 4,
          confusion: { matrix: matrix(n), ...(classes && { classes }) },
        },
      })),
    );
  const html = of(3, ['<a>', 'b', 'c']);
  expect(html).toContain('title="b taken for &lt;a&gt;: 1 of 10"');
  expect(html).toContain('<td class="recall">90.0 %</td>');
  expect(of(30)).toMatch(/<td class="number">20<\/td><td class="number">0<\/td><td class="number">1<\/td>/);
});

it('shows the samples with the largest loss, images and texts', () => {
  const run = epochsOf([1]);
  const pixels = Buffer.from([0, 255]).toString('base64');
  run.watch({
    type: 'end',
    time: 0,
    stopped: false,
    reason: 'epochs',
    steps: 2,
    skipped: 0,
    worst: [
      {
        row: 3,
        loss: 4,
        target: 'cat',
        prediction: 'dog',
        image: { width: 2, height: 1, channels: 1, pixels },
      },
      { row: 1234, loss: 2, target: 'good', prediction: 'bad', text: 'not <b>bad</b>' },
    ],
  });
  const html = page(run);
  expect(html).toContain('✗ cat → dog');
  expect(html).toContain('loss 4.000');
  expect(html).toContain(
    '<blockquote>not &lt;b&gt;bad&lt;/b&gt;</blockquote><p>row 1,234 · loss 2.000 · good → bad</p>',
  );
});

it('draws each chart for wide and for narrow screens', () => {
  const html = page(record(true));
  const widths = [...html.matchAll(/class="agd-chart" role="img" width="(\d+)"/g)].map(([, width]) => width);
  expect(widths.filter(w => w === '316')).toHaveLength(widths.length / 2);
});
