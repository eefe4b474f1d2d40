import { expect, it } from 'vitest';
import { countSamples } from '../../../cli/ui/sample-count.js';

function shown(isTTY: boolean): string[] {
  const lines: string[] = [];
  const stream = { isTTY, write: (text: string) => lines.push(text) > 0 };
  let time = 0;
  const count = countSamples(stream, 'evaluated', () => time);
  for (const done of [32, 64, 96]) {
    time += 60;
    count.show(done, 1000);
  }
  count.done();
  count.done();
  return lines;
}

it('shows how many samples are done, a few times a second, and clears the line', () => {
  expect(shown(true)).toEqual(['\r\x1b[Kevaluated 64 of 1,000 samples (6 %)', '\r\x1b[K']);
});

it('shows nothing where there is no terminal', () => {
  expect(shown(false)).toEqual([]);
});
