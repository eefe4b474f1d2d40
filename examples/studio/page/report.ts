/** The report of a run: one HTML file, or its numbers as JSON. */
import type { Project, RunRecord } from '../protocol.js';
import { metricsOf, shownEpoch } from './results.js';

export function reportData({ model, data }: Project, record: RunRecord): string {
  const { settings, samples, parameters, losses, epochs, best, notes } = record;
  const about = {
    date: new Date().toISOString(),
    model: model && { name: model.name, bytes: model.bytes, inputs: model.inputs, outputs: model.outputs },
    data: data && { name: data.name, samples: data.samples, classes: data.classes },
  };
  const what = { settings, samples, parameters, steps: losses.length, best, notes, epochs, losses };
  return `${JSON.stringify({ ...about, ...what }, undefined, 2)}\n`;
}

const escaped = (text: string) =>
  text.replace(/[&<>"]/g, c => ({ '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;' })[c]!);

const table = (rows: readonly (readonly (string | number)[])[]) =>
  `<table>${rows.map(row => `<tr>${row.map(cell => `<td>${escaped(String(cell))}</td>`).join('')}</tr>`).join('\n')}</table>`;

const STYLE = `body{font:16px/1.5 system-ui,sans-serif;max-width:50rem;margin:2rem auto;padding:0 1rem;color-scheme:light dark}
table{border-collapse:collapse;margin:1rem 0}td{border:1px solid #8886;padding:.2rem .6rem}
svg{width:100%}svg text{fill:currentColor}.axis{stroke:#8886}.train,.validation{fill:none;stroke:#0b5fcc;stroke-width:1.5}
.validation{stroke:currentColor;stroke-dasharray:5 3}`;

export function report({ model, data }: Project, record: RunRecord, curve: SVGSVGElement): string {
  const { settings, losses, epochs, samples, parameters, notes } = record;
  const shown = shownEpoch(record);
  const confusion = shown?.validation?.confusion;
  const names = confusion?.classes ?? confusion?.matrix.map((_, i) => String(i)) ?? [];
  const set = Object.entries(settings).filter(([, value]) => value !== '' && value !== 0);
  const picture = curve.cloneNode(true) as SVGSVGElement;
  picture.setAttribute('viewBox', `0 0 ${curve.clientWidth} ${curve.clientHeight}`);
  const parts = [
    `<h1>Training report</h1><p>${new Date().toISOString().slice(0, 16).replace('T', ' ')} UTC</p>`,
    table([
      ['Model', model?.name ?? ''],
      ['Data', `${data?.name ?? ''}, ${samples} training samples`],
      ['Parameters trained', parameters.toLocaleString('en')],
      ['Steps', losses.length],
      ['Epochs', epochs.length],
      ...set,
    ]),
    picture.outerHTML,
    shown ? `<h2>Validation, epoch ${shown.epoch}</h2>${table(metricsOf(shown))}` : '',
    confusion
      ? `<h2>Confusion matrix</h2><p>Rows: actual class. Columns: predicted class.</p>${table([['', ...names], ...confusion.matrix.map((row, i) => [names[i]!, ...row])])}`
      : '',
    notes.length ? `<h2>Notes</h2><ul>${notes.map(note => `<li>${escaped(note)}</li>`).join('')}</ul>` : '',
  ];
  return `<!doctype html><html lang="en"><meta charset="utf-8"><title>Training report</title><style>${STYLE}</style>${parts.join('\n')}</html>\n`;
}
