import { expect, test } from 'vitest';
import { renderReport } from '../../../cli/ui/report.js';
import { lineChart } from '../../../cli/ui/svg.js';

const nasty = `<img src=x onerror="alert('1')">&`;
const harmless = '&lt;img src=x onerror=&quot;alert(&#39;1&#39;)&quot;&gt;&amp;';
const image = { width: 2, height: 1, channels: 1, pixels: new Uint8Array([0, 255]) } as const;

test('every text of the caller is escaped', () => {
  const html = renderReport({
    title: nasty,
    subtitle: nasty,
    tiles: [{ label: nasty, value: nasty, note: nasty }],
    sections: [
      {
        title: nasty,
        blocks: [
          { kind: 'text', text: nasty },
          { kind: 'table', caption: nasty, head: [nasty], rows: [[nasty]], foot: [nasty] },
          {
            kind: 'images',
            caption: nasty,
            images: [{ ...image, label: nasty, prediction: `not ${nasty}` }],
          },
          { kind: 'code', caption: nasty, code: nasty },
          { kind: 'table', folded: nasty, head: [], rows: [] },
          { kind: 'confusion', caption: nasty, classes: [nasty], matrix: [[1]] },
          { kind: 'samples', samples: [{ row: 1, loss: 1, target: nasty, prediction: 'x', text: nasty }] },
          { kind: 'facts', facts: { [nasty]: nasty } },
        ],
      },
    ],
  });
  expect(html).not.toContain('<img src=x');
  // Title twice; the others once; the image's label and prediction in title, alt and caption.
  expect(html.split(harmless)).toHaveLength(1 + 2 + 1 + 3 + 1 + 1 + 4 + 1 + 6 + 2 + 2 + 1 + 5 + 2);
});

test('a page asks nobody for anything', () => {
  const svg = lineChart({
    title: 't',
    x: { label: 'x' },
    y: { label: 'y' },
    series: [{ name: 'a', y: [1, 2] }],
  });
  const blocks = [
    { kind: 'charts', svgs: [svg] },
    { kind: 'images', images: [{ ...image, label: '7' }] },
  ] as const;
  const html = renderReport({ title: 't', sections: [{ title: 's', blocks }] });
  expect(html).toContain(svg);
  expect(html).toContain('default-src &#39;none&#39;');
  const addresses = [...html.matchAll(/(?:https?:|\/\/)[^"\s]*/g)].map(match => match[0]);
  expect(new Set(addresses)).toEqual(new Set(['http://www.w3.org/2000/svg']));
  expect(html).not.toMatch(/<script|<link|@import|url\(/);
});

test('wrong predictions are marked, right ones are not', () => {
  const images = [
    { ...image, label: '7' },
    { ...image, label: '3', prediction: '3' },
    { ...image, label: '4', prediction: '9' },
  ];
  const html = renderReport({ title: 't', sections: [{ title: 's', blocks: [{ kind: 'images', images }] }] });
  expect(html.match(/<li class="wrong"/g)).toHaveLength(1);
  expect(html).toContain('alt="4, predicted as 9"');
  expect(html).toContain('✗ 4 → 9');
  expect(html.match(/<li title="[73]">/g)).toHaveLength(2);
});

test('columns of numbers are aligned right', () => {
  const blocks = [
    {
      kind: 'table',
      head: ['name', 'loss'],
      rows: [
        ['a', 0.5],
        ['b', 0.25],
      ],
    },
  ] as const;
  const html = renderReport({ title: 't', sections: [{ title: 's', blocks }] });
  expect(html).toContain('<tr><td>b</td><td class="number">0.25</td></tr>');
  expect(html).toContain('<td class="number">0.50</td>');
});
