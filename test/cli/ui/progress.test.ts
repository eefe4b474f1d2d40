import { afterEach, describe, expect, test, vi } from 'vitest';
import { createProgress } from '../../../cli/ui/progress.js';

type Screen = { stream: NodeJS.WriteStream; written: string[] };

function screen(properties: { isTTY: boolean; columns?: number }): Screen {
  const written: string[] = [];
  const stream = { hasColors: () => false, write: (text: string) => written.push(text), ...properties };
  return { stream: stream as unknown as NodeJS.WriteStream, written };
}

/** A progress display whose time passes only as the test says, over 2 epochs of 100 steps of 32 samples. */
function start({ stream }: Screen, { color, stepsBefore }: { color?: boolean; stepsBefore?: number } = {}) {
  let time = 5000;
  const progress = createProgress({
    stream,
    epochs: 2,
    stepsPerEpoch: 100,
    samplesPerStep: 32,
    now: () => time,
    color,
    stepsBefore,
  });
  return { ...progress, wait: (ms: number) => (time += ms) };
}

afterEach(() => {
  vi.unstubAllEnvs();
  vi.useRealTimers();
});

describe('on a terminal', () => {
  const tty = (columns = 120) => {
    vi.stubEnv('TERM', 'xterm');
    return screen({ isTTY: true, columns });
  };

  test('one line tells place, loss, time left and rate', () => {
    const s = tty();
    const progress = start(s);
    progress.wait(10_000);
    progress.step({ epoch: 1, step: 25, loss: 2, lr: 1e-3 });
    progress.done();
    expect(s.written).toEqual([
      '\x1b[?25l',
      '\repoch 1/2  ━━━━━━━╸──────────────────────   25/100  loss 2.000  00:01:10 left  80 samples/s  last loss 2.000  lr 0.001\x1b[K',
      '\r\x1b[K',
      '\x1b[?25h',
    ]);
  });

  test('it estimates the place within a run of steps, no further than runs are long', () => {
    vi.useFakeTimers();
    const s = tty(80);
    const progress = start(s);
    const pass = (ms: number) => {
      progress.wait(ms);
      vi.advanceTimersByTime(ms);
      return /~?\d+\/100.*left/.exec(s.written.at(-1)!)?.[0];
    };
    progress.wait(10_000);
    for (let step = 1; step <= 4; step++) progress.step({ epoch: 1, step, loss: 2 });
    progress.wait(10_000);
    for (let step = 5; step <= 8; step++) progress.step({ epoch: 1, step, loss: 2 });
    expect(pass(250)).toBe('5/100  loss 2.000  00:13:00 left');
    expect(pass(5500)).toBe('~10/100  loss 2.000  00:07:54 left');
    expect(pass(60_000)).toMatch('~12/100');
    progress.validation({ epoch: 1, batch: 1, batches: 4 });
    const shown = s.written.length;
    pass(60_000);
    expect(s.written).toHaveLength(shown);
    progress.done();
  });

  test('it tells the loss scale, and how many batches were skipped if any were', () => {
    const s = tty(200);
    const progress = start(s);
    progress.wait(10_000);
    progress.step({ epoch: 1, step: 1, loss: 2, lossScale: 65536, skipped: 0 });
    progress.wait(10_000);
    progress.step({ epoch: 1, step: 2, loss: 2, lossScale: 32768, skipped: 1 });
    progress.done();
    expect(s.written[1]).toContain('last loss 2.000  loss scale 65,536\x1b[K');
    expect(s.written[2]).toContain('last loss 2.000  loss scale 32,768  1 skipped\x1b[K');
  });

  test('it draws at most 15 times a second, and smooths the loss', () => {
    const s = tty();
    const progress = start(s);
    for (let step = 1; step <= 100; step++) {
      progress.wait(10);
      progress.step({ epoch: 1, step, loss: step === 1 ? 2 : 1 });
    }
    const draws = s.written.filter(text => text.startsWith('\repoch'));
    expect(draws.length).toBe(15);
    // After 7 steps more: 1 + 0.95^7 * 0.05 / (1 - 0.95^8).
    expect(draws[1]).toContain('loss 1.104 ');
    expect(draws[1]).toContain('last loss 1.000');
    progress.done();
  });

  test('a narrow terminal shows whole fields that fit, and less than its width', () => {
    for (let columns = 5; columns < 120; columns++) {
      const s = tty(columns);
      const progress = start(s);
      progress.step({ epoch: 1, step: 50, loss: 1 });
      progress.done();
      expect(s.written[1]!.slice(1, -'\x1b[K'.length).length).toBeLessThan(columns);
    }
    const s = tty(45);
    const progress = start(s);
    progress.step({ epoch: 1, step: 50, loss: 1 });
    progress.done();
    expect(s.written[1]).toBe('\repoch 1/2  ━━━━━╸─────   50/100  loss 1.000\x1b[K');
  });

  test('lines that stay are written above the moving one', () => {
    const s = tty();
    const progress = start(s);
    progress.note('before');
    progress.step({ epoch: 1, step: 100, loss: 1 });
    progress.epoch({
      epoch: 1,
      trainLoss: 0.5,
      valLoss: 0.25,
      metrics: { accuracy: 0.971, f1: 0.9 },
      seconds: 12.34,
    });
    progress.done();
    expect(s.written[0]).toBe('before\n');
    const line = 'epoch 1/2  train loss 0.5000  val loss 0.2500  accuracy 97.1 %  f1 0.9  12.3 s';
    expect(s.written[3]).toBe(`\r\x1b[K${line}\n${s.written[2]!.slice(1, -'\x1b[K'.length)}`);
  });

  test('a validation pass has its own bar, and its time counts once an epoch', () => {
    const s = tty();
    const progress = start(s);
    progress.wait(10_000);
    progress.step({ epoch: 1, step: 100, loss: 1 });
    progress.wait(1000);
    progress.validation({ epoch: 1, batch: 2, batches: 8 });
    // 3 s are left of this pass, then come 100 steps of 0.1 s and a pass of 4 s.
    expect(s.written.at(-1)).toContain('epoch 1/2  validation  ━━━━━━━╸');
    expect(s.written.at(-1)).toContain(' 2/8  00:00:17 left');
    progress.wait(3000);
    progress.epoch({ epoch: 1, trainLoss: 1, valLoss: 1, seconds: 14 });
    progress.wait(5000);
    progress.step({ epoch: 2, step: 50, loss: 1 });
    expect(s.written.at(-1)).toContain('00:00:09 left');
    progress.wait(5000);
    progress.step({ epoch: 2, step: 100, loss: 1 });
    progress.wait(1000);
    progress.validation({ epoch: 2, batch: 4, batches: 8 });
    expect(s.written.at(-1)).toContain('4/8  00:00:01 left');
    progress.done();
  });

  test('colours come with color: true and leave the text alone', () => {
    const s = tty();
    const progress = start(s, { color: true });
    progress.step({ epoch: 1, step: 50, loss: 1 });
    progress.done();
    expect(s.written[1]).toContain('\x1b[1mepoch 1/2\x1b[22m');
  });

  test('a signal gives the cursor back and leaves no listener', () => {
    const s = tty();
    const before = process.listeners('SIGINT');
    const other = vi.fn();
    const progress = start(s);
    progress.step({ epoch: 1, step: 1, loss: 1 });
    process.on('SIGINT', other);
    const added = process
      .listeners('SIGINT')
      .filter(listener => !before.includes(listener) && listener !== other);
    expect(added).toHaveLength(1);
    added[0]!('SIGINT');
    expect(s.written.at(-1)).toBe('\x1b[?25h');
    process.off('SIGINT', other);
    expect(process.listeners('SIGINT')).toEqual(before);
    progress.done();
  });

  test('nothing is drawn after the end', () => {
    const s = tty();
    const progress = start(s);
    progress.done();
    progress.done();
    progress.step({ epoch: 1, step: 1, loss: 1 });
    expect(s.written).toEqual([]);
  });
});

describe('elsewhere', () => {
  test('a line each tenth of an epoch', () => {
    const s = screen({ isTTY: false });
    const progress = start(s);
    for (let step = 1; step <= 20; step++) {
      progress.wait(1500);
      progress.step({ epoch: 1, step, loss: 1 });
    }
    progress.done();
    expect(s.written).toEqual([
      'epoch 1/2   10/100 (10 %)  loss 1.000  21 samples/s  00:04:45 left\n',
      'epoch 1/2   20/100 (20 %)  loss 1.000  21 samples/s  00:04:30 left\n',
    ]);
  });

  test('no more than one a second, no fewer than one in 30 seconds', () => {
    const s = screen({ isTTY: false });
    const progress = start(s);
    for (let step = 1; step <= 100; step++) {
      progress.wait(20);
      progress.step({ epoch: 1, step, loss: 1 });
    }
    expect(s.written.map(line => line.slice(0, 17))).toEqual(['epoch 1/2   50/10', 'epoch 1/2  100/10']);
    progress.wait(30_000);
    progress.step({ epoch: 2, step: 1, loss: 1 });
    expect(s.written).toHaveLength(3);
  });

  test('a run that goes on in the middle of a later epoch knows its pace', () => {
    const s = screen({ isTTY: false });
    const progress = start(s, { stepsBefore: 110 });
    progress.wait(10_000);
    progress.step({ epoch: 2, step: 60, loss: Number.NaN });
    expect(s.written).toEqual(['epoch 2/2   60/100 (60 %)  loss NaN  160 samples/s  00:00:08 left\n']);
  });

  test('a long validation pass is told now and then', () => {
    const s = screen({ isTTY: false });
    const progress = start(s);
    progress.wait(10_000);
    progress.step({ epoch: 2, step: 100, loss: 1 });
    for (let batch = 1; batch <= 100; batch++) {
      progress.wait(500);
      progress.validation({ epoch: 2, batch, batches: 100 });
    }
    expect(s.written.slice(1)).toEqual(['epoch 2/2  validation  60/100 (60 %)  00:00:20 left\n']);
  });

  test('a dumb terminal is no terminal', () => {
    vi.stubEnv('TERM', 'dumb');
    const s = screen({ isTTY: true });
    const progress = start(s);
    progress.wait(2000);
    progress.step({ epoch: 1, step: 50, loss: 1 });
    progress.done();
    expect(s.written).toHaveLength(1);
    expect(s.written[0]).not.toContain('\x1b');
  });
});
