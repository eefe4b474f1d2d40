/** Numbers in words. */
export const counted = (n: number, one: string, many = `${one}s`): string =>
  `${n.toLocaleString('en')} ${n === 1 ? one : many}`;

const UNITS = ['bytes', 'kB', 'MB', 'GB'];

export function size(bytes: number): string {
  let [n, unit] = [bytes, 0];
  while (n >= 1000 && unit < UNITS.length - 1) [n, unit] = [n / 1000, unit + 1];
  return `${unit && n < 100 ? n.toPrecision(2) : Math.round(n)} ${UNITS[unit]}`;
}
