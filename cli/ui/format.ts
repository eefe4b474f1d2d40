/** Numbers as people read them. The locale is fixed, so that output does not depend on the machine. */
let grouped: Intl.NumberFormat | undefined;
let fine: Intl.NumberFormat | undefined;

/** A whole number with its thousands grouped. The first format of Intl in a process takes tens of milliseconds. */
function group(value: number): string {
  if (Number.isSafeInteger(value) && !Object.is(value, -0))
    return `${value}`.replace(/\B(?=(\d{3})+$)/g, ',');
  grouped ??= new Intl.NumberFormat('en-US', { maximumFractionDigits: 0 });
  return grouped.format(value);
}

function round(value: number): string {
  fine ??= new Intl.NumberFormat('en-US', { maximumSignificantDigits: 4 });
  return fine.format(value);
}

/** `44,426`, or with a noun `44,426 parameters`, `1 parameter`. */
export function formatCount(count: number, noun?: string): string {
  const number = group(count);
  return noun ? `${number} ${noun}${count === 1 ? '' : 's'}` : number;
}

/** The first names, and how many more there are: `a, b and 3 more`. */
export function formatNames(names: readonly string[], most = 6): string {
  const shown = names.slice(0, most).join(', ');
  return names.length > most ? `${shown} and ${names.length - most} more` : shown;
}

/** Bytes in decimal units: `512 B`, `1.2 MB`, `178 kB`. */
export function formatBytes(bytes: number): string {
  const units = ['B', 'kB', 'MB', 'GB', 'TB'];
  let unit = 0;
  let value = bytes;
  while (value >= 999.5 && unit < units.length - 1) {
    value /= 1000;
    unit++;
  }
  return `${value.toFixed(unit > 0 && value < 99.95 ? 1 : 0)} ${units[unit]}`;
}

/** Four significant digits: `0.2134`, `12,480`, `1.234e-5`, `NaN`. Integers keep all of theirs. */
export function formatNumber(value: number): string {
  if (!Number.isFinite(value)) return String(value);
  const size = Math.abs(value);
  if (Number.isInteger(value) && size < 1e15) return group(value);
  if (size < 1e-3 || size >= 1e6) return value.toExponential(3).replace(/\.?0*e\+?/, 'e');
  return size >= 1e4 ? group(value) : round(value);
}

/** Four significant digits always, so that a changing number keeps its width: `0.5000`, `1.200e-5`. */
export function formatLoss(value: number): string {
  const size = Math.abs(value);
  const plain = !Number.isFinite(value) || size === 0 || (size >= 1e-3 && size < 1e4);
  return plain ? value.toPrecision(4) : value.toExponential(3).replace('e+', 'e');
}

/** Exactly `digits` decimals, thousands grouped: `12,480.50`. */
export function formatFixed(value: number, digits: number): string {
  return value.toLocaleString('en-US', { minimumFractionDigits: digits, maximumFractionDigits: digits });
}

/** A share of one as percent: `97.1 %`. */
export function formatPercent(share: number, digits = 1): string {
  return Number.isFinite(share) ? `${(100 * share).toFixed(digits)} %` : String(share);
}

/** Seconds as a clock: `00:01:05`. Unknown and endless times are `--:--:--`. */
export function formatClock(seconds: number): string {
  if (!Number.isFinite(seconds)) return '--:--:--';
  const whole = Math.max(0, Math.round(seconds));
  const parts = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  return parts.map(part => String(part).padStart(2, '0')).join(':');
}

/** A duration in seconds: `12.3 s`, and a clock from 100 s on. */
export function formatSeconds(seconds: number): string {
  return seconds < 99.95 ? `${seconds.toFixed(1)} s` : formatClock(seconds);
}

/** An epoch with the validation value that makes it the best: `epoch 3 (val loss 0.2134)`. */
export const describeBest = ({ epoch, metric, value }: { epoch: number; metric: string; value: number }) =>
  `epoch ${epoch} (val ${metric} ${formatNumber(value)})`;

/** A metric's value: those named accuracy are shares of one and read as percent. */
export function formatMetric(name: string, value: number): string {
  return /accuracy$/i.test(name) ? formatPercent(value) : formatNumber(value);
}
