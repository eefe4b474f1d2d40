/** The file of a run's events, a JSON object a line. */
import { appendFileSync, readFileSync, writeFileSync } from 'node:fs';
import type { TrainEvent } from '../src/internal.js';
import { eventLine } from './run-display.js';

export type Start = Extract<TrainEvent, { type: 'start' }>;

/** Is told every event of a run. */
export type Watcher = (event: TrainEvent) => void;

/**
 * Writes events to a file. Of a resumed run it holds the whole: what the file has of the steps before is kept, or else
 * written anew. Where it cannot be written, `warn` is told once, and training goes on.
 */
export function runLog(path: string, warn: (text: string) => void): Watcher {
  const attempt = attempts(path, 'a log', warn);
  // Nothing is replaced before it is known whether the run is a resumed one.
  let pending: TrainEvent[] | undefined = [];
  return event => {
    if (pending) pending.push(event);
    // A range test ends without a start.
    if (pending && event.type !== 'start' && event.type !== 'rates') return;
    const lines = (pending ?? [event]).map(line);
    if (pending) {
      const kept =
        event.type === 'start' && event.stepsBefore
          ? (linesBefore(path, event.stepsBefore) ?? historyEvents(event).map(line))
          : [];
      attempt(() => writeFileSync(path, [...kept, ...lines].join('')));
      pending = undefined;
    } else attempt(() => appendFileSync(path, lines.join('')));
  };
}

/** Does what writes to `path`, until it fails: that is told once, and training goes on. */
export function attempts(path: string, what: string, warn: (text: string) => void) {
  let failed = false;
  return (write: () => void) => {
    if (failed) return;
    try {
      write();
    } catch (error) {
      failed = true;
      warn(`cannot write ${path} (${(error as Error).message}): training continues without ${what}`);
    }
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

/** The events of the run so far, as the state has them. When telemetry was shown, it does not say. */
export function historyEvents({ history, stepsPerEpoch }: Start): TrainEvent[] {
  if (!history) return [];
  const { rates, gradNorms, times } = history;
  const epochs = new Map(history.epochs.map(event => [event.epoch, event]));
  const steps = history.losses.flatMap((loss, i): TrainEvent[] => {
    const [epoch, step] = [Math.floor(i / stepsPerEpoch) + 1, (i % stepsPerEpoch) + 1];
    const result = step === stepsPerEpoch ? epochs.get(epoch) : undefined;
    const known = { lr: rates[i]!, gradNorm: gradNorms[i]! };
    const numbers = Object.fromEntries(Object.entries(known).filter(([, value]) => !Number.isNaN(value)));
    return [{ type: 'step', time: times[i]!, epoch, step, loss, ...numbers }, ...(result ? [result] : [])];
  });
  const time = Number.NaN;
  return [...steps, ...history.telemetry.map(rows => ({ type: 'telemetry', time, rows }) as const)];
}
