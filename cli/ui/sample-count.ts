/** How many samples are done, on a terminal: a line that is there while it matters. */
import { formatCount, formatPercent } from './format.js';

const SHOW_MS = 100;

/** `done` clears the line. Where `stream` is no terminal nothing is shown. */
export function countSamples(
  stream: Pick<NodeJS.WriteStream, 'isTTY' | 'write'>,
  what: string,
  now: () => number = () => performance.now(),
) {
  let last = now();
  let shown = false;
  return {
    show(done: number, all: number): void {
      if (!stream.isTTY || process.env.TERM === 'dumb' || now() - last < SHOW_MS) return;
      last = now();
      shown = true;
      stream.write(
        `\r\x1b[K${what} ${formatCount(done)} of ${formatCount(all, 'sample')} (${formatPercent(done / all, 0)})`,
      );
    },
    done(): void {
      if (shown) stream.write('\r\x1b[K');
      shown = false;
    },
  };
}
