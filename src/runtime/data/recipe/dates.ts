/** Parts of a date as numbers, in UTC. */
import { CYCLES, type DatePart } from '../../../passes/recipe/names.js';

/** Milliseconds of a day. */
export const DAY = 86_400_000;

/** A part of the date that is `ms` milliseconds after 1970: months and days from 1, Monday is 0. */
export function datePart(ms: number, part: DatePart): number {
  if (part === 'epoch-days') return ms / DAY;
  if (part === 'weekday') return (((Math.floor(ms / DAY) + 3) % 7) + 7) % 7;
  const date = new Date(ms);
  switch (part) {
    case 'year':
      return date.getUTCFullYear();
    case 'month':
      return date.getUTCMonth() + 1;
    case 'day':
      return date.getUTCDate();
    case 'hour':
      return date.getUTCHours();
  }
}

/** How many numbers the parts are. */
export const dateWidth = (parts: readonly DatePart[], cyclic: boolean) =>
  parts.reduce((n, part) => n + (cyclic && CYCLES[part] ? 2 : 1), 0);

/** Writes the parts, sine and cosine for those with a cycle where `cyclic`. */
export function writeDate(
  ms: number,
  parts: readonly DatePart[],
  cyclic: boolean,
  out: { [index: number]: number },
  at: number,
): void {
  for (const part of parts) {
    const x = datePart(ms, part);
    const cycle = cyclic ? CYCLES[part] : undefined;
    if (cycle) {
      const angle = (2 * Math.PI * (x - cycle[1])) / cycle[0];
      out[at++] = Math.sin(angle);
      out[at++] = Math.cos(angle);
    } else out[at++] = x;
  }
}
