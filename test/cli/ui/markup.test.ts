import { expect, test } from 'vitest';
import { escapeText, h } from '../../../cli/ui/markup.js';

test('texts and attribute values are escaped, elements are not', () => {
  const markup = h('p', { title: `"a" & 'b'`, class: undefined }, '<script>', h('b', {}, 'x & y'), [
    '1',
    ['2'],
  ]);
  expect(markup.source).toBe(
    '<p title="&quot;a&quot; &amp; &#39;b&#39;">&lt;script&gt;<b>x &amp; y</b>12</p>',
  );
});

test('void elements have no end', () => {
  expect(h('img', { src: 'data:,' }).source).toBe('<img src="data:,">');
  expect(h('path', { d: 'M0,0' }).source).toBe('<path d="M0,0"></path>');
});

test('characters that XML forbids are replaced', () => {
  expect(escapeText('a\u0000b\u001bc\ud800d\n')).toBe('a\ufffdb\ufffdc\ufffdd\n');
  expect(escapeText('é 漢 🙂')).toBe('é 漢 🙂');
});
