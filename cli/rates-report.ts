/** The chart of --find-lr as a page. */
import type { TrainEvent } from '../src/internal.js';
import { formatNumber } from './ui/format.js';
import { renderReport } from './ui/report.js';
import { bothSizes } from './ui/svg.js';

type Rates = Extract<TrainEvent, { type: 'rates' }>;

export function renderRates({ rates, losses, suggested }: Rates, model: string): string {
  const chart = bothSizes({
    title: 'Loss by learning rate',
    x: { label: 'learning rate', scale: 'log', format: formatNumber },
    y: { label: 'smoothed loss' },
    series: [{ name: 'loss', x: rates, y: losses }],
    marks: [{ x: suggested, label: `suggested ${formatNumber(suggested)}` }],
  });
  return renderReport({
    title: model,
    subtitle: 'Learning-rate range test',
    tiles: [{ label: 'Suggested rate', value: formatNumber(suggested) }],
    sections: [{ title: 'Range test', blocks: [{ kind: 'charts', svgs: [chart] }] }],
  });
}
