/** The two ways to show where training stands: a line that moves, and lines that follow each other. */
import { formatClock, formatCount, formatLoss, formatNumber, formatPercent } from './format.js';
import { hideCursor, type Paint } from './terminal.js';

/** Epochs count from 1; `step` is the number of steps of this epoch that are done. */
export type StepStatus = {
  epoch: number;
  step: number;
  loss: number;
  smoothedLoss: number;
  lr?: number;
  lossScale?: number;
  /** Batches so far that changed nothing. */
  skipped?: number;
  samplesPerSecond: number;
  secondsLeft: number;
  /** `step` is what the steps so far let expect. */
  isEstimate?: boolean;
};

/** A validation pass after the steps of an epoch. */
export type PassStatus = { epoch: number; batch: number; batches: number; secondsLeft: number };

export type Status = StepStatus | PassStatus;

export type Display = {
  show(status: Status): void;
  /** Writes a line that stays. */
  print(line: string): void;
  done(): void;
};

export type DisplayOptions = {
  stream: NodeJS.WriteStream;
  unit: string;
  epochs: number;
  stepsPerEpoch: number;
  /** In milliseconds. */
  now: () => number;
};

const DRAW_MS = 1000 / 15;
const BAR_WIDTH = 30;
const LINE_MS = { least: 1000, most: 30_000 };

/** Plain lines: one a tenth of an epoch, but at most one a second and at least one in 30 seconds. */
export function plainLines({ stream, unit, epochs, stepsPerEpoch, now }: DisplayOptions): Display {
  let lastTime = now();
  let lastTenth = 0;
  const print = (line: string) => {
    stream.write(`${line}\n`);
    lastTime = now();
  };
  return {
    show(status) {
      const { epoch, secondsLeft } = status;
      const place = `${unit} ${fraction(epoch, epochs)}`;
      const left = `${formatClock(secondsLeft)} left`;
      if ('batches' in status) {
        const { batch, batches } = status;
        if (now() - lastTime < LINE_MS.most) return;
        print(
          `${place}  validation ${fraction(batch, batches)} (${formatPercent(batch / batches, 0)})  ${left}`,
        );
        return;
      }
      const { step, smoothedLoss, samplesPerSecond } = status;
      const tenth = Math.floor((10 * ((epoch - 1) * stepsPerEpoch + step)) / stepsPerEpoch);
      const waited = now() - lastTime;
      if (waited < LINE_MS.least || (tenth === lastTenth && waited < LINE_MS.most)) return;
      lastTenth = tenth;
      const fields = [
        place,
        `${fraction(step, stepsPerEpoch)} (${formatPercent(step / stepsPerEpoch, 0)})`,
        `loss ${formatLoss(smoothedLoss)}`,
        `${formatCount(samplesPerSecond)} samples/s`,
        left,
        ...scaleOf(status),
      ];
      print(fields.join('  '));
    },
    print,
    done() {},
  };
}

/** One line that is drawn anew, at most 15 times a second, no wider than the terminal. */
export function movingLine(options: DisplayOptions, paint: Paint): Display {
  const { stream, now } = options;
  let line = '';
  let lastDraw = Number.NEGATIVE_INFINITY;
  let showCursor: (() => void) | undefined;
  let ended = false;
  return {
    show(status) {
      if (ended || now() - lastDraw < DRAW_MS) return;
      lastDraw = now();
      showCursor ??= hideCursor(stream);
      const columns = stream.columns ?? 80;
      // The last column stays free: a character there makes some terminals wrap.
      line = fitFields(fields(status, options, columns), columns - 1)
        .map(([text, style]) => (style ? paint(style, text) : text))
        .join('');
      stream.write(`\r${line}\x1b[K`);
    },
    print(text) {
      stream.write(line ? `\r\x1b[K${text}\n${line}` : `${text}\n`);
    },
    done() {
      if (line) stream.write('\r\x1b[K');
      line = '';
      ended = true;
      showCursor?.();
      showCursor = undefined;
    },
  };
}

type Segment = readonly [text: string, style?: Parameters<Paint>[0]];

/** What the line tells, the most important first: a narrow terminal shows less of it. */
function fields(
  status: Status,
  { unit, epochs, stepsPerEpoch }: DisplayOptions,
  columns: number,
): Segment[][] {
  const place: Segment[] = [[`${unit} ${fraction(status.epoch, epochs)}`, 'bold']];
  const left: Segment[] = [[`${formatClock(status.secondsLeft)} left`]];
  const width = Math.min(BAR_WIDTH, Math.floor(columns / 4));
  if ('batches' in status) {
    const { batch, batches } = status;
    return [
      place,
      [['validation', 'dim']],
      bar(batch / batches, width),
      [[fraction(batch, batches), 'dim']],
      left,
    ];
  }
  const { step, loss, smoothedLoss, lr, samplesPerSecond, isEstimate } = status;
  const done = fraction(step, stepsPerEpoch);
  return [
    place,
    bar(step / stepsPerEpoch, width),
    [[isEstimate ? `~${done.trimStart()}`.padStart(done.length) : done, 'dim']],
    [['loss ', 'dim'], [formatLoss(smoothedLoss)]],
    left,
    [[`${formatCount(samplesPerSecond)} samples/s`, 'dim']],
    [[`last loss ${formatLoss(loss)}`, 'dim']],
    ...(lr === undefined ? [] : [[[`lr ${formatNumber(lr)}`, 'dim'] as const]]),
    ...scaleOf(status).map((text): Segment[] => [[text, 'dim']]),
  ];
}

/** What becomes of gradients that overflow. */
const scaleOf = ({ lossScale, skipped }: StepStatus): string[] => [
  ...(lossScale === undefined ? [] : [`loss scale ${formatNumber(lossScale)}`]),
  ...(skipped ? [`${skipped} skipped`] : []),
];

/** A bar in half-character steps. */
function bar(share: number, width: number): Segment[] {
  const halves = Math.round(2 * width * Math.min(1, share));
  const filled = '━'.repeat(halves >> 1) + (halves % 2 ? '╸' : '');
  return [
    [filled, 'cyan'],
    ['─'.repeat(width - filled.length), 'dim'],
  ];
}

/** The first fields, two spaces between them, as far as `width` columns hold whole ones. */
function fitFields(fields: Segment[][], width: number): Segment[] {
  const line: Segment[] = [];
  let length = 0;
  for (const field of fields) {
    const added: Segment[] = line.length > 0 ? [['  '], ...field] : field;
    length += added.reduce((sum, [text]) => sum + text.length, 0);
    if (length > width) break;
    line.push(...added);
  }
  return line;
}

/** `  7/157`: as wide for each count, so that the line does not jump. */
export function fraction(count: number, total: number): string {
  return `${String(count).padStart(String(total).length)}/${total}`;
}
