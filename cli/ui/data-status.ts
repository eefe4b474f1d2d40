/** Where reading the data stands before the first step: a line on a terminal that is gone afterwards. */
import type { TrainEvent } from '../../src/internal.js';
import { formatPercent } from './format.js';

type Report = Pick<Extract<TrainEvent, { type: 'data' }>, 'stage' | 'share'>;

const DOING: Record<Report['stage'], string> = {
  index: 'finding rows and column types',
  fit: 'fitting columns',
  encode: 'encoding columns',
};

/** Without a terminal a line of its own comes this often. */
const LINE_MS = 10_000;

/** `clear` takes the line away, before anything else is written. */
export function dataStatus(
  stream: Pick<NodeJS.WriteStream, 'isTTY' | 'write'>,
  now: () => number = () => performance.now(),
) {
  const moves = stream.isTTY && process.env.TERM !== 'dumb';
  let last = now();
  let shown = false;
  return {
    show({ stage, share }: Report): void {
      const text = `${DOING[stage]} (${formatPercent(share, 0)})`;
      if (moves) {
        stream.write(`\r\x1b[K${text}`);
        shown = true;
      } else if (now() - last >= LINE_MS) {
        stream.write(`${text}\n`);
        last = now();
      }
    },
    clear(): void {
      if (shown) stream.write('\r\x1b[K');
      shown = false;
    },
  };
}
