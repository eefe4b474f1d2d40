/** Metrics, confusion matrix and samples. */
import type { EpochEvent, JudgedSample } from 'agd-onnx/web';
import type { RunRecord } from '../protocol.js';
import { short } from './charts.js';
import { byId, definitions, make } from './dom.js';

export const percent = (x: number) => `${(100 * x).toFixed(1)} %`;

const SHARES = new Set(['accuracy', 'top-5', 'precision', 'recall', 'f1', 'balanced-accuracy']);

/** Names and values of the metrics of an epoch. */
export function metricsOf({ validation }: EpochEvent): [string, string][] {
  if (!validation) return [];
  const { loss, metrics } = validation;
  const values = Object.entries(metrics).filter(([, value]) => Number.isFinite(value));
  return [
    ...values.map(([name, value]): [string, string] => [
      name,
      SHARES.has(name) ? percent(value) : short(value),
    ]),
    ['loss', short(loss)],
  ];
}

/** The epoch whose weights the model has. */
export function shownEpoch({ epochs, best }: RunRecord): EpochEvent | undefined {
  return epochs.find(({ epoch }) => epoch === best?.epoch) ?? epochs.at(-1);
}

export function showResults(record: RunRecord): void {
  const epoch = shownEpoch(record);
  byId('metrics').hidden = !epoch?.validation;
  if (epoch?.validation) {
    const entries = [...metricsOf(epoch), ['samples', String(epoch.validation.samples)] as const];
    byId('values').replaceChildren(...definitions([...entries, ['epoch', String(epoch.epoch)]]));
    showConfusion(epoch.validation.confusion);
  }
  byId('samples').hidden = !record.worst.length;
  byId('worst').replaceChildren(...record.worst.map(showSample));
}

/** More classes than this do not fit a page. */
const MOST_CLASSES = 30;

type Confusion = NonNullable<NonNullable<EpochEvent['validation']>['confusion']>;

function showConfusion(confusion: Confusion | undefined): void {
  const region = byId('confusion');
  region.hidden = !confusion || confusion.matrix.length > MOST_CLASSES;
  if (!confusion || region.hidden) return;
  const { matrix } = confusion;
  const names = confusion.classes ?? matrix.map((_, i) => String(i));
  const head = names.map(name => make('th', { scope: 'col' }, name));
  const rows = matrix.map((row, i) => {
    const all = row.reduce((a, b) => a + b, 0) || 1;
    const cells = row.map(count => {
      const cell = make('td', { class: 'count' }, count);
      cell.style.setProperty('--share', `${(60 * count) / all}%`);
      return cell;
    });
    return make('tr', {}, make('th', { scope: 'row' }, names[i]!), ...cells);
  });
  const caption = make('caption', {}, 'Rows: actual class. Columns: predicted class.');
  region.replaceChildren(
    make(
      'table',
      {},
      caption,
      make('thead', {}, make('tr', {}, make('td'), ...head)),
      make('tbody', {}, ...rows),
    ),
  );
}

function showSample({ row, loss, target, prediction, image, text }: JudgedSample): HTMLElement {
  const picture = image
    ? [thumbnail(image, `Sample ${row + 1}`)]
    : [make('div', {}, text ?? `Row ${row + 1}`)];
  const isWrong = prediction !== undefined && prediction !== target;
  return make(
    'li',
    {},
    ...picture,
    make('div', { class: isWrong ? 'wrong' : '' }, `Predicted ${prediction ?? '–'}`),
    make('div', {}, `Actual ${target ?? '–'}`),
    make('div', { class: 'muted' }, `Loss ${short(loss)}`),
  );
}

function thumbnail(image: NonNullable<JudgedSample['image']>, label: string): HTMLCanvasElement {
  const { width, height, channels, pixels } = image;
  const canvas = make('canvas');
  [canvas.width, canvas.height] = [width, height];
  canvas.setAttribute('role', 'img');
  canvas.setAttribute('aria-label', label);
  const bytes = Uint8Array.from(atob(pixels), c => c.charCodeAt(0));
  const context = canvas.getContext('2d')!;
  const data = context.createImageData(width, height);
  for (let i = 0; i < width * height; i++)
    for (let c = 0; c < 4; c++)
      data.data[4 * i + c] = c === 3 ? 255 : bytes[channels * i + (channels === 3 ? c : 0)]!;
  context.putImageData(data, 0, 0);
  return canvas;
}
