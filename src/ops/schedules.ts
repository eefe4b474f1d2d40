import { AgdError } from '../graph/errors.js';
import { Tensor } from '../graph/tensor.js';
import type { Expr } from './core/expr.js';
import { ensure } from './optimizers/optimizer.js';

/**
 * A factor on the learning rate that depends on the number of updates done. It starts with an optional linear warm-up
 * from `start` (default 1/warmup) to 1 in `warmup` updates, followed by the schedule of its kind. Lengths are in
 * updates, in epochs (`'3epochs'`) or in percent of `total` (`'5%'`), which includes the warm-up. The settings of each
 * kind are in `KINDS`. Of `plateau`, the graph contains the warm-up only: `fit` and `runTrainJob` multiply the learning
 * rate that they feed.
 */
export type Schedule = { kind: ScheduleKind } & Partial<
  Record<LengthSetting, Length> & Record<NumberSetting, number>
>;

/** A schedule with all lengths in updates, as stored in a file. */
export type PlannedSchedule = { kind: ScheduleKind } & Partial<Settings>;

/** A number of updates; of epochs, which requires data; or a share of the schedule's total. */
export type Length = number | `${number}epoch` | `${number}epochs` | `${number}%`;

const LENGTHS = ['warmup', 'total', 'period', 'every', 'timescale'] as const;
type LengthSetting = (typeof LENGTHS)[number];
type NumberSetting = 'start' | 'final' | 'multiply' | 'gamma' | 'peak' | 'factor' | 'patience';
type Settings = Record<LengthSetting | NumberSetting, number>;
type Setting = keyof Settings;

type Kind = {
  /** Its settings besides warm-up, with their defaults; undefined if required. */
  takes: (given: Partial<Settings>) => Partial<Record<Setting, number | undefined>>;
  /** The factor `k` updates after the warm-up; `total` is the setting of that name in the type of `k`. */
  factor: (k: Expr, settings: Settings, total: () => Expr) => Expr;
};

const KINDS = {
  constant: { takes: () => ({}), factor: k => k.ones() },

  linear: {
    takes: () => ({ total: undefined, final: 0 }),
    factor: (k, s, total) => line(1, s.final, progress(k, s, total())),
  },

  /** Once over `total` or, with `period`, repeatedly, each time `multiply` times as long: SGDR, ICLR 2017. */
  cosine: {
    takes: ({ period }) =>
      period === undefined ? { total: undefined, final: 0 } : { period, multiply: 1, final: 0 },
    factor: (k, s, total) =>
      wave(
        1,
        s.final,
        s.period === undefined ? progress(k, s, total()) : sinceRestart(k, s.period, s.multiply),
      ),
  },

  step: {
    takes: () => ({ every: undefined, gamma: 0.1 }),
    factor: (k, { every, gamma }) => k.g.scalar(gamma, k.dtype).pow(k.div(every).floor()),
  },

  exponential: {
    takes: () => ({ gamma: undefined }),
    factor: (k, { gamma }) => k.g.scalar(gamma, k.dtype).pow(k),
  },

  'inverse-sqrt': {
    takes: ({ warmup }) => ({ timescale: warmup || undefined }),
    factor: (k, { timescale }) => k.add(timescale).rdiv(timescale).sqrt(),
  },

  /**
   * Multiplied by `factor` after every `patience` epochs without an improvement of the monitored value, down to
   * `final`. As this depends on the run, the code that feeds the learning rate applies the factor, not the graph.
   */
  plateau: {
    takes: () => ({ factor: 0.1, patience: 10, final: 0 }),
    factor: k => k.ones(),
  },

  /**
   * Rises from `start` to 1 in the share `peak` of `total`, then falls to `final`, both along cosines:
   * super-convergence, 2017.
   */
  'one-cycle': {
    takes: ({ start = 1 / 25 }) => ({ total: undefined, peak: 0.3, start, final: start / 1e4 }),
    factor: (k, { peak, start, final }, total) => {
      const top = total().mul(peak).sub(1);
      const down = k.sub(top).div(total().sub(1).sub(top));
      return k.less(top).where(wave(start, 1, k.div(top)), wave(1, final, down.minimum(1)));
    },
  },
} satisfies Record<string, Kind>;

export type ScheduleKind = keyof typeof KINDS;
export const SCHEDULES = Object.keys(KINDS) as ScheduleKind[];

/**
 * The factor on the learning rate of the update after `done` updates, both scalars of one type, as PyTorch's
 * schedulers. `total`, of the same type, overrides that of the schedule.
 */
export function scheduleFactor(schedule: PlannedSchedule, done: Expr, total?: Expr): Expr {
  const settings = resolveSchedule(schedule);
  const kind: Kind = KINDS[schedule.kind];
  const { warmup, start } = settings;
  const end = () => total ?? done.g.scalar(settings.total, done.dtype);
  if (!warmup) return kind.factor(done, settings, end);
  const rising = line(start, 1, done.div(warmup));
  return done.less(warmup).where(rising, kind.factor(done.sub(warmup).maximum(0), settings, end));
}

/** Whether a schedule ends with the run, but has no total. */
export function lacksTotal({ kind, ...given }: Schedule): boolean {
  if (given.total !== undefined || !Object.hasOwn(KINDS, kind)) return false;
  const { takes }: Kind = KINDS[kind];
  return 'total' in takes(given as Partial<Settings>);
}

/** The unit of a length that is not in updates. Throws `bad-option` if it is not a length. */
export function lengthOf(
  kind: string,
  name: string,
  length: string,
): { epochs: number } | { percent: number } {
  const [, number, unit] = /^(\d+(?:\.\d+)?|\.\d+)(%|epochs?)$/.exec(length) ?? [];
  const value = Number(number);
  ensure(
    unit !== undefined && value > 0 && (unit !== '%' || value <= 100),
    `Schedule '${kind}': ${name} is a number of updates, epochs as in 3epochs, or a share of total as in 5%, not ${length}.`,
  );
  return unit === '%' ? { percent: value } : { epochs: value };
}

/**
 * The schedule with all lengths in updates, and with a total if it needs one. `updates` returns the number of updates
 * in some epochs, or in the whole run. Throws `bad-option` if that is needed and not known.
 */
export async function planLengths(
  schedule: Schedule,
  updates?: (epochs?: number) => number | Promise<number>,
): Promise<PlannedSchedule> {
  const { kind, ...given } = schedule;
  const unknown = (name: string, length: string) =>
    new AgdError(
      'bad-option',
      `Schedule '${kind}': ${name}=${length} has a length only where there are data, as in train: give a number of updates.`,
    );
  const planned = { ...given } as Record<string, number | string | undefined>;
  const inUpdates = async (name: string, epochs?: number) => {
    if (!updates) throw unknown(name, String(given[name as Setting] ?? 'of the run'));
    return Math.max(1, Math.round(await updates(epochs)));
  };
  if (typeof planned.total === 'string') {
    const length = lengthOf(kind, 'total', planned.total);
    if (!('epochs' in length)) throw shareOfItself(kind);
    planned.total = await inUpdates('total', length.epochs);
  } else if (updates && lacksTotal(schedule)) planned.total = await updates();
  for (const name of LENGTHS) {
    const value = planned[name];
    if (typeof value !== 'string') continue;
    const length = lengthOf(kind, name, value);
    planned[name] =
      'epochs' in length
        ? await inUpdates(name, length.epochs)
        : Math.max(
            1,
            Math.round((length.percent / 100) * (Number(planned.total) || (await inUpdates(name)))),
          );
  }
  return { ...planned, kind } as PlannedSchedule;
}

/** With all defaults filled in. Throws `bad-option` for settings that are unknown, missing or out of range. */
export function resolveSchedule({ kind, ...given }: PlannedSchedule): Settings {
  ensure(Object.hasOwn(KINDS, kind), `Unknown schedule '${kind}'; expected one of ${SCHEDULES.join(', ')}.`);
  const { takes }: Kind = KINDS[kind];
  const warmup = kind === 'one-cycle' ? {} : { warmup: 0, start: given.warmup ? 1 / given.warmup : 1 };
  const defaults = { ...warmup, ...takes(given) };
  for (const name of Object.keys(given))
    ensure(
      Object.hasOwn(defaults, name),
      `Schedule '${kind}' takes ${Object.keys(defaults).join(', ')}, not '${name}'.`,
    );
  const settings = { ...defaults, ...given } as Settings;
  for (const [name, value] of Object.entries(settings)) {
    ensure(value !== undefined, `Schedule '${kind}' needs ${name}, as in '${kind}:${name}=1000'.`);
    const { ok, what } = RANGES[name as Setting];
    ensure(typeof value === 'number' && ok(value), `Schedule '${kind}': ${name} is ${what}, not ${value}.`);
  }
  const { total, peak } = settings;
  ensure(
    !(total <= settings.warmup),
    `Schedule '${kind}': the warm-up of ${settings.warmup} updates must end before total (${total}).`,
  );
  ensure(
    peak === undefined || (peak * total > 1 && peak < 1),
    `Schedule '${kind}': peak is the share of total that goes up, between ${1 / total} and 1, not ${peak}.`,
  );
  return settings;
}

/**
 * Parses a schedule as on the command line: `cosine:total=1000,warmup=100`; its total may be omitted. Throws
 * `bad-option`.
 */
export function parseSchedule(text: string): Schedule {
  const [, kind, list = ''] = /^([^:]*)(?::(.*))?$/s.exec(text)!;
  const settings = list
    .split(',')
    .filter(Boolean)
    .map(item => {
      const [name, value] = item.split('=');
      if (!name || !value?.trim())
        throw new AgdError('bad-option', `Schedule '${text}': '${item}' is not of the form name=number.`);
      const length = value.trim();
      const isNumber = !(LENGTHS as readonly string[]).includes(name.trim()) || !/[a-z%]$/i.test(length);
      return [name.trim(), isNumber ? Number(length) : length];
    });
  const schedule = { ...Object.fromEntries(settings), kind: kind!.trim() } as Schedule;
  checkSchedule(schedule);
  return schedule;
}

const shareOfItself = (kind: string) =>
  new AgdError('bad-option', `Schedule '${kind}': total is not a share of itself.`);

/** Throws `bad-option` for a schedule that is invalid for any length of run and epoch. */
export function checkSchedule(schedule: Schedule): void {
  const { kind } = schedule;
  const most = { total: Number.MAX_SAFE_INTEGER };
  const lengths = Object.entries(schedule).flatMap(([name, value]) => {
    if (typeof value !== 'string' || name === 'kind') return [];
    if ('percent' in lengthOf(kind, name, value) && name === 'total') throw shareOfItself(kind);
    return [[name, name === 'total' ? most.total : 1]];
  });
  const known = { ...schedule, ...Object.fromEntries(lengths) } as PlannedSchedule;
  resolveSchedule(lacksTotal(schedule) ? { ...known, ...most } : known);
}

const count = { ok: (x: number) => Number.isSafeInteger(x) && x > 0, what: 'a whole number above 0' };
const counted = { ok: (x: number) => Number.isSafeInteger(x) && x >= 0, what: 'a whole number from 0 up' };
const share = { ok: (x: number) => x >= 0 && x <= 1, what: 'a number from 0 to 1' };
const positive = { ok: (x: number) => x > 0 && Number.isFinite(x), what: 'a number above 0' };

const RANGES: Record<Setting, { ok: (x: number) => boolean; what: string }> = {
  warmup: counted,
  start: share,
  total: count,
  final: share,
  period: count,
  multiply: count,
  every: count,
  gamma: positive,
  timescale: positive,
  peak: share,
  factor: { ok: (x: number) => x > 0 && x < 1, what: 'a number between 0 and 1' },
  patience: count,
};

/** Progress from the end of the warm-up to `total`, at most 1. */
const progress = (k: Expr, { warmup }: Settings, total: Expr) => k.div(total.sub(warmup)).minimum(1);

const line = (from: number, to: number, x: Expr) => x.mul(to - from).add(from);

/** From `from` (x = 0) to `to` (x = 1) along half a cosine. */
const wave = (from: number, to: number, x: Expr) =>
  x
    .mul(Math.PI)
    .cos()
    .add(1)
    .mul((from - to) / 2)
    .add(to);

/** Progress in the current period; each is `multiply` times as long as the one before. */
function sinceRestart(k: Expr, period: number, multiply: number): Expr {
  if (multiply === 1) return k.sub(k.div(period).floor().mul(period)).div(period);
  const [starts, lengths]: number[][] = [[], []];
  for (let start = 0, length = period; start < 2 ** 53; start += length, length *= multiply) {
    starts!.push(start);
    lengths!.push(length);
  }
  const table = (values: number[]) =>
    k.g.tensor(
      k.dtype === 'float64'
        ? Tensor.from(k.dtype, [values.length], Float64Array.from(values))
        : Tensor.from('float32', [values.length], Float32Array.from(values)),
    );
  const at = k.unsqueeze([-1]).greaterOrEqual(table(starts!)).cast('int64').sum([-1]).sub(1);
  return k.sub(table(starts!).gather(at)).div(table(lengths!).gather(at));
}
