import { expect, it } from 'vitest';
import { dataStatus } from '../../../cli/ui/data-status.js';

/** What is written to a stream, at times that the test sets. */
function recorded(isTTY: boolean) {
  const written: string[] = [];
  const clock = { ms: 0 };
  const stream = { isTTY, write: (text: string) => written.push(text) > 0 } as never;
  return { written, clock, status: dataStatus(stream, () => clock.ms) };
}

it('on a terminal one line shows the stage and its share, and is cleared once', () => {
  const { written, status } = recorded(true);
  status.show({ stage: 'index', share: 0.25 });
  status.show({ stage: 'fit', share: 0.5 });
  status.clear();
  status.clear();
  expect(written).toEqual([
    '\r\x1b[Kfinding rows and column types (25 %)',
    '\r\x1b[Kfitting columns (50 %)',
    '\r\x1b[K',
  ]);
});

it('elsewhere a line follows every ten seconds', () => {
  const { written, clock, status } = recorded(false);
  for (clock.ms = 0; clock.ms <= 25_000; clock.ms += 1000)
    status.show({ stage: 'encode', share: clock.ms / 25_000 });
  status.clear();
  expect(written).toEqual(['encoding columns (40 %)\n', 'encoding columns (80 %)\n']);
});
