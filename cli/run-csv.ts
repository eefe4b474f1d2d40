/** A table of a run: a row for each step and each epoch, for spreadsheets and data frames. */
import { appendFileSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { attempts, historyEvents, type Start, type Watcher } from './run-log.js';
import { LOSS, type Scalars, scalarsOf } from './run-scalars.js';

const FIRST = ['time', 'epoch', 'step', LOSS.train, 'lr', 'grad_norm', LOSS.epoch];

/**
 * Writes a row as each step and each epoch is done: `step` counts over all epochs, and what a row does not have is empty.
 * A metric gets its column when it is first there. Of a resumed run the table has the whole. Where it cannot be written,
 * `warn` is told once, and training goes on.
 */
export function runCsv(path: string, warn: (text: string) => void): Watcher {
  const attempt = attempts(path, 'a table', warn);
  let columns: string[] = [];
  let stepsPerEpoch = 0;
  const add = (scalars: Scalars | undefined) => {
    if (!scalars) return;
    const added = [...scalars.values.keys()].filter(name => !columns.includes(name));
    if (added.length) {
      columns.push(...added);
      const [, ...rows] = readFileSync(path, 'utf8').trimEnd().split('\n');
      replace(path, [columns.map(quoted).join(','), ...rows.map(row => row + ','.repeat(added.length))]);
    }
    appendFileSync(path, `${rowOf(scalars, columns)}\n`);
  };
  const begin = (start: Start) => {
    stepsPerEpoch = start.stepsPerEpoch;
    const kept = start.stepsBefore ? rowsBefore(path, start.stepsBefore) : undefined;
    columns = kept?.columns ?? [...FIRST];
    replace(path, [columns.map(quoted).join(','), ...(kept?.rows ?? [])]);
    if (!kept) for (const event of historyEvents(start)) add(scalarsOf(event, stepsPerEpoch));
  };
  return event =>
    attempt(() => (event.type === 'start' ? begin(event) : add(scalarsOf(event, stepsPerEpoch))));
}

function replace(path: string, lines: readonly string[]): void {
  const temporary = `${path}.${process.pid}.tmp`;
  writeFileSync(temporary, `${lines.join('\n')}\n`);
  renameSync(temporary, path);
}

function rowOf({ time, epoch, step, values }: Scalars, columns: readonly string[]): string {
  const when = Number.isFinite(time) ? new Date(time).toISOString() : '';
  const [, , , ...others] = columns;
  return [when, epoch, step, ...others.map(name => values.get(name) ?? '')].join(',');
}

/** Column names and the rows of the first `steps` steps of a table; undefined where it does not have all of them. */
function rowsBefore(path: string, steps: number): { columns: string[]; rows: string[] } | undefined {
  let text: string;
  try {
    text = readFileSync(path, 'utf8');
  } catch {
    return undefined;
  }
  const [head = '', ...lines] = text.split('\n');
  const columns = [...head.matchAll(/"((?:[^"]|"")*)"|[^,]+/g)].map(([all, inner]) =>
    inner === undefined ? all : inner.replaceAll('""', '"'),
  );
  if (FIRST.some((name, i) => columns[i] !== name)) return undefined;
  // The last line may have been cut off.
  const rows = lines.slice(0, -1).filter(line => Number(line.split(',')[2]) <= steps);
  return Number(rows.at(-1)?.split(',')[2]) === steps ? { columns, rows } : undefined;
}

const quoted = (name: string) => (/[",\n]/.test(name) ? `"${name.replaceAll('"', '""')}"` : name);
