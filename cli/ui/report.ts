/** A page that needs nothing but itself: it asks no server for anything, and says so to the browser. */
import { formatCount, formatLoss, formatPercent } from './format.js';
import { type Child, h, Markup } from './markup.js';
import { encodePng, type Image } from './png.js';
import type { BothSizes } from './svg.js';
import { numericColumns, type Table, tableTexts } from './table.js';
import { themeCss } from './theme.js';

/** A key figure. */
export type Tile = { label: string; value: string; note?: string };

/** An image with its true label and what the model said; those that differ are marked. */
export type LabelledImage = Image & { label: string; prediction?: string; note?: string };

/** A sample by its number, with what is known of it. */
export type Sample = { row: number; loss: number; target?: string; prediction?: string; text?: string };

export type Block =
  | { kind: 'text'; text: string }
  /** Each `svg` is written as it is: it must come from `lineChart`, `areaChart` or another chart of ours. */
  | { kind: 'charts'; svgs: readonly (string | BothSizes)[] }
  /** `folded`: shown where a reader opens it by this title. */
  | ({ kind: 'table'; caption?: string; folded?: string } & Table)
  /** Counts: a row for each true class, a column for each predicted one. */
  | {
      kind: 'confusion';
      caption?: string;
      classes: readonly string[];
      matrix: readonly (readonly number[])[];
    }
  | { kind: 'samples'; samples: readonly Sample[] }
  | { kind: 'images'; caption?: string; images: readonly LabelledImage[] }
  | { kind: 'code'; caption?: string; code: string }
  /** Names and values: the environment, the options. */
  | { kind: 'facts'; facts: Readonly<Record<string, string>> };

export type Section = { title: string; blocks: readonly Block[] };

export type Report = {
  title: string;
  subtitle?: string;
  /** Below the title: of pages that change. */
  lead?: Markup;
  tiles?: readonly Tile[];
  sections: readonly Section[];
};

/** The report as an HTML document. All texts are escaped. */
export const renderReport = (report: Report): string =>
  pageOf({
    title: report.title,
    main: renderMain(report),
    policy: "default-src 'none'; style-src 'unsafe-inline'; img-src data:",
  });

/** A document around what `main` shows; `policy` is that of its content where no server says it. */
export function pageOf({ title, main, policy, script }: Page): string {
  const head = h(
    'head',
    {},
    h('meta', { charset: 'utf-8' }),
    h('meta', { name: 'viewport', content: 'width=device-width,initial-scale=1' }),
    policy === undefined ? [] : h('meta', { 'http-equiv': 'Content-Security-Policy', content: policy }),
    h('title', {}, title),
    h('style', {}, new Markup(CSS)),
  );
  const after = script ? h('script', { nonce: script.nonce }, new Markup(script.source)) : [];
  return `<!doctype html>\n${h('html', { lang: 'en' }, head, h('body', {}, h('main', {}, main), after))}\n`;
}

/** `script` is our own. */
type Page = { title: string; main: Markup; policy?: string; script?: { nonce: string; source: string } };

/** What the report shows. */
export function renderMain({ title, subtitle, lead, tiles = [], sections }: Report): Markup {
  const header = h('header', {}, h('h1', {}, title), subtitle ? h('p', {}, subtitle) : [], lead ?? []);
  const figures = tiles.length ? h('dl', { class: 'tiles' }, tiles.map(renderTile)) : [];
  return new Markup([header, figures, sections.map(renderSection)].flat().join(''));
}

function renderTile({ label, value, note }: Tile): Markup {
  return h(
    'div',
    {},
    h('dt', {}, label),
    h('dd', { class: 'value' }, value),
    note ? h('dd', { class: 'note' }, note) : [],
  );
}

function renderSection({ title, blocks }: Section): Markup {
  return h('section', {}, h('h2', {}, title), blocks.map(renderBlock));
}

function renderBlock(block: Block): Markup {
  switch (block.kind) {
    case 'text':
      return h('p', {}, block.text);
    case 'charts':
      return h('div', { class: 'charts' }, block.svgs.map(renderChart));
    case 'table': {
      const { folded } = block;
      const figure = h('figure', { class: 'card wide' }, caption(block.caption), renderTable(block));
      return folded === undefined ? figure : h('details', {}, h('summary', {}, folded), figure);
    }
    case 'confusion':
      return h('figure', { class: 'card wide' }, caption(block.caption), renderConfusion(block));
    case 'samples':
      return h('ol', { class: 'samples' }, block.samples.map(renderSample));
    case 'images':
      return h('figure', { class: 'card' }, caption(block.caption), renderImages(block.images));
    case 'code':
      return h(
        'figure',
        {},
        caption(block.caption),
        h('pre', { tabindex: 0 }, h('code', {}, renderCode(block.code))),
      );
    case 'facts':
      return h('dl', { class: 'facts' }, Object.entries(block.facts).map(renderFact));
  }
}

/** Words that have a hyphen are wrapped as a whole: a flag is not broken after its dashes. */
function renderCode(code: string): Child[] {
  return code.split(/(\S*-\S*)/).map((part, i) => (i % 2 ? h('span', {}, part) : part));
}

function renderChart(svg: string | BothSizes): Markup {
  if (typeof svg === 'string') return h('figure', { class: 'card' }, new Markup(svg));
  const of = (width: 'wide' | 'narrow') => h('div', { class: `on-${width}` }, new Markup(svg[width]));
  return h('figure', { class: 'card sized' }, of('wide'), of('narrow'));
}

/** Darker where more of a class' samples are. */
function renderConfusion({
  classes,
  matrix,
}: {
  classes: readonly string[];
  matrix: readonly (readonly number[])[];
}) {
  const head = h(
    'tr',
    {},
    h('td', { class: 'corner' }, 'true ↓ predicted →'),
    classes.map(name => h('th', { scope: 'col' }, name)),
    h('th', { scope: 'col', class: 'recall' }, 'recall'),
  );
  const rows = matrix.map((counts, i) => {
    const total = counts.reduce((a, b) => a + b, 0);
    const cells = counts.map((count, j) => {
      const share = total ? count / total : 0;
      const strength = share === 0 ? 0 : Math.round(12 + 73 * share);
      const title = `${classes[i]} taken for ${classes[j]}: ${formatCount(count)} of ${formatCount(total)}`;
      const kind = `${i === j ? 'right' : 'wrong'}${share > 0.6 ? ' strong' : ''}`;
      return h('td', { class: kind, style: `--p:${strength}%`, title }, count ? formatCount(count) : '·');
    });
    const recall = total ? formatPercent(counts[i]! / total) : '–';
    return h('tr', {}, h('th', { scope: 'row' }, classes[i]!), cells, h('td', { class: 'recall' }, recall));
  });
  return h('table', { class: 'confusion' }, h('thead', {}, head), h('tbody', {}, rows));
}

function renderSample({ row, loss, target, prediction, text }: Sample): Markup {
  const verdict = [target, prediction !== target && prediction].filter(Boolean).join(' → ');
  const facts = [`row ${formatCount(row)}`, `loss ${formatLoss(loss)}`, ...(verdict ? [verdict] : [])].join(
    ' · ',
  );
  return h('li', { class: 'card' }, text ? h('blockquote', {}, text) : [], h('p', {}, facts));
}

function caption(text: string | undefined): Child {
  return text ? h('figcaption', {}, text) : [];
}

function renderFact([name, value]: [string, string]): Child {
  return [h('dt', {}, name), h('dd', {}, value)];
}

function renderTable(table: Table): Markup {
  const { rows, foot } = tableTexts(table);
  const numeric = numericColumns(rows);
  const line = (tag: string, texts: readonly string[]) => {
    const cells = texts.map((text, i) => h(tag, { class: numeric[i] ? 'number' : undefined }, text));
    return h('tr', {}, cells);
  };
  const body = rows.map(row => line('td', row));
  return h(
    'table',
    {},
    h('thead', {}, line('th', table.head)),
    h('tbody', {}, body),
    foot ? h('tfoot', {}, line('td', foot)) : [],
  );
}

function renderImages(images: readonly LabelledImage[]): Markup {
  return h('ul', { class: 'images' }, images.map(renderImage));
}

function renderImage({ label, prediction = label, note, ...image }: LabelledImage): Markup {
  const wrong = prediction !== label;
  const alt = wrong ? `${label}, predicted as ${prediction}` : label;
  const src = `data:image/png;base64,${encodePng(image).toString('base64')}`;
  return h(
    'li',
    { class: wrong ? 'wrong' : undefined, title: alt },
    h('img', { src, alt, width: 56, height: 56 }),
    h('span', { 'aria-hidden': 'true' }, wrong ? `✗ ${label} → ${prediction}` : label),
    note ? h('small', {}, note) : [],
  );
}

const CSS = [
  themeCss(':root'),
  '*{box-sizing:border-box}',
  'body{margin:0;background:var(--page);color:var(--ink);',
  'font:15px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}',
  'main{max-width:1480px;margin:0 auto;padding:48px 32px 72px}',
  'h1{margin:0;font-size:30px;line-height:1.2;letter-spacing:-.02em;text-wrap:balance}',
  'header p{margin:8px 0 0;color:var(--muted);font-size:16px;max-width:72ch}',
  'h2{margin:48px 0 16px;font-size:19px;letter-spacing:-.01em}',
  'section>p{max-width:72ch}',
  'figure{margin:0 0 16px}',
  'figcaption{margin-bottom:12px;color:var(--muted);font-size:13px}',
  '.card,.tiles>div{background:var(--surface);border:1px solid var(--line);border-radius:12px;padding:20px}',
  '.wide{overflow-x:auto}',
  '.tiles{display:grid;grid-template-columns:repeat(auto-fill,minmax(170px,1fr));gap:16px;margin:32px 0 0}',
  '.tiles dt{color:var(--muted);font-size:13px}',
  '.tiles dd{margin:0}',
  '.tiles .value{font-size:26px;font-weight:600;letter-spacing:-.02em;font-variant-numeric:tabular-nums}',
  '.tiles .note{color:var(--muted);font-size:13px}',
  '.charts{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,440px),1fr));gap:16px;margin-bottom:16px}',
  '.charts figure{margin:0;overflow-x:auto}',
  '.charts svg{display:block;width:100%;min-width:400px}',
  '.charts .sized svg{min-width:0}',
  '.on-narrow{display:none}',
  'table{border-collapse:collapse;min-width:60%;font-size:14px;font-variant-numeric:tabular-nums}',
  'th,td{padding:7px 40px 7px 0;text-align:left;border-bottom:1px solid var(--line);white-space:nowrap}',
  'th{color:var(--muted);font-weight:500;font-size:13px}',
  'tr>:last-child{padding-right:0}',
  'tbody tr:last-child td{border-bottom:0}',
  'tfoot td{border-top:1px solid var(--muted);border-bottom:0;font-weight:600}',
  '.number{text-align:right}',
  '.images{display:grid;grid-template-columns:repeat(auto-fill,minmax(84px,1fr));gap:14px 8px;margin:0;padding:0;list-style:none}',
  '.images li{text-align:center;font-size:12px;color:var(--muted);font-variant-numeric:tabular-nums;overflow-wrap:anywhere}',
  '.images small{display:block}',
  '.images img{display:block;margin:0 auto 4px;border-radius:6px;image-rendering:pixelated;outline:1px solid var(--line)}',
  '.images .wrong{color:var(--bad);font-weight:600}',
  '.images .wrong img{outline:2.5px solid var(--bad);outline-offset:1px}',
  'pre{margin:0;padding:16px 20px;white-space:pre-wrap;overflow-wrap:anywhere;user-select:all;',
  'background:var(--surface);border:1px solid var(--line);',
  'border-radius:12px;font:13px/1.6 ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace}',
  '.facts{display:grid;grid-template-columns:max-content 1fr;gap:6px 24px;margin:0;font-size:14px}',
  '.facts dt{color:var(--muted)}',
  '.facts dd{margin:0;overflow-wrap:anywhere}',
  'pre span{display:inline-block;max-width:100%}',
  'progress{width:100%;height:6px;margin-top:12px;accent-color:var(--series-0)}',
  'details{margin:0 0 16px}',
  'summary{cursor:pointer;color:var(--muted);font-size:14px;padding:4px 0 12px}',
  '.confusion{min-width:0;border-spacing:2px;border-collapse:separate;font-size:13px}',
  '.confusion th,.confusion td{padding:5px 8px;border:0;text-align:center}',
  '.confusion tbody th{text-align:right}',
  '.confusion .corner{font-size:11px;color:var(--muted)}',
  '.confusion .right,.confusion .wrong{border-radius:4px;min-width:38px;color:var(--ink);',
  'background:color-mix(in srgb,var(--hue) var(--p),var(--surface))}',
  '.confusion .right{--hue:var(--series-0)}.confusion .wrong{--hue:var(--series-1)}',
  '.confusion .strong{color:var(--surface)}',
  '.confusion .recall{color:var(--muted);padding-left:14px}',
  '.samples{list-style:none;margin:0 0 16px;padding:0;display:grid;gap:12px;',
  'grid-template-columns:repeat(auto-fill,minmax(min(100%,340px),1fr))}',
  '.samples .card{padding:14px 16px}',
  '.samples blockquote{margin:0 0 8px;white-space:pre-wrap;overflow-wrap:anywhere;max-height:9em;overflow:auto}',
  '.samples p{margin:0;color:var(--muted);font-size:13px}',
  '.images small{display:block;font-weight:400}',
  '@media(max-width:600px){main{padding:24px 12px 48px}h1{font-size:24px}h2{margin-top:36px}',
  '.card,.tiles>div{padding:14px}.tiles{gap:8px;grid-template-columns:1fr 1fr}.tiles .value{font-size:21px}',
  '.on-wide{display:none}.on-narrow{display:block}th,td{padding-right:18px}',
  '.facts{grid-template-columns:1fr;gap:0}.facts dd{margin-bottom:8px}}',
  '@media print{body{background:none}main{padding:0}.card,.tiles>div,pre{break-inside:avoid}}',
].join('');
