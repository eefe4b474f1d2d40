/** The file of a run's events, a JSON object a line. */
import { appendFileSync, readFileSync, writeFileSync } from 'node:fs';
import type { TrainEvent } from '../src/internal.js';
import { eventLine } from './run-display.js';

type Start = Extract<TrainEvent, { type: 'start' }>;

/**
 * Writes events to a file. Of a resumed run it holds the whole: what the file has of the steps before is kept, or else
 * written anew. Where it cannot be written, `warn` is told once, and training goes on.
 */
export function runLog(path: string, warn: (text: string) => void): (event: TrainEvent) => void {
  let failed = false;
  const attempt = (write: () => void) => {
    if (failed) return;
    try {
      write();
    } catch (error) {
      failed = true;
      warn(`cannot write ${path} (${(error as Error).message}): training continues without a log`);
    }
  };
  // Nothing is replaced before it is known whether the run is a resumed one.
  let pending: TrainEvent[] | undefined = [];
  return event => {
    if (pending) pending.push(event);
    if (pending && event.type !== 'start') return;
    const lines = (pending ?? [event]).map(line);
    if (pending && event.type === 'start') {
      const kept = event.stepsBefore ? (linesBefore(path, event.stepsBefore) ?? historyLines(event)) : [];
      attempt(() => writeFileSync(path, [...kept, ...lines].join('')));
      pending = undefined;
    } else attempt(() => appendFileSync(path, lines.join('')));
  };
}

const line = (event: TrainEvent) => `${eventLine(event)}\n`;

/** The lines of a log up to the last of the first `steps` steps and what belongs to it; undefined where they are not there. */
function linesBefore(path: string, steps: number): string[] | undefined {
  let text: string;
  try {
    text = readFileSync(path, 'utf8');
  } catch {
    return undefined;
  }
  const kept: string[] = [];
  let done = 0;
  for (const row of text.split('\n')) {
    let event: { type?: string; stepsBefore?: number };
    try {
      event = JSON.parse(row);
    } catch {
      break;
    }
    if (event?.type === 'start') done = event.stepsBefore ?? 0;
    if (event?.type === 'step' && ++done > steps) break;
    if (done > steps) break;
    kept.push(`${row}\n`);
  }
  return done >= steps ? kept : undefined;
}

/** The events of the run so far, as far as the state has them. */
function historyLines({ history, stepsPerEpoch }: Start): string[] {
  if (!history) return [];
  const lines: string[] = [];
  const epochs = new Map(history.epochs.map(event => [event.epoch, event]));
  history.losses.forEach((loss, i) => {
    const [epoch, step] = [Math.floor(i / stepsPerEpoch) + 1, (i % stepsPerEpoch) + 1];
    lines.push(line({ type: 'step', time: Number.NaN, epoch, step, loss }));
    const result = step === stepsPerEpoch ? epochs.get(epoch) : undefined;
    if (result) lines.push(line(result));
  });
  for (const rows of history.telemetry) lines.push(line({ type: 'telemetry', time: Number.NaN, rows }));
  return lines;
}
