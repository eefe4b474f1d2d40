/** Computes parts of a date with operators. */
import type { Expr } from '../../ops/core/expr.js';
import { CYCLES, type DatePart } from './names.js';

const DAY = 86_400_000;

/** a - b floor(a / b), exact for whole numbers below 2^53. */
const modulo = (a: Expr, b: number) => a.sub(a.div(b).floor().mul(b));

/**
 * The parts of the date that is `ms` milliseconds (float64) after 1970, in UTC, sine and cosine for those with a cycle where
 * `cyclic`. Year, month and day by Howard Hinnant's algorithm civil_from_days (howardhinnant.github.io/date_algorithms.html).
 */
export function writeDateParts(ms: Expr, parts: readonly DatePart[], cyclic: boolean): Expr[] {
  const days = ms.div(DAY).floor();
  return parts.flatMap(part => {
    const x = partOf(ms, days, part);
    const cycle = cyclic ? CYCLES[part] : undefined;
    if (!cycle) return [x];
    const angle = x
      .sub(cycle[1])
      .mul(2 * Math.PI)
      .div(cycle[0]);
    // Not all runtimes have a cosine of float64.
    return [angle.sin(), angle.add(Math.PI / 2).sin()];
  });
}

function partOf(ms: Expr, days: Expr, part: DatePart): Expr {
  switch (part) {
    case 'epoch-days':
      return ms.div(DAY);
    case 'weekday':
      return modulo(days.add(3), 7);
    case 'hour':
      return modulo(ms.div(3_600_000).floor(), 24);
  }
  const z = days.add(719_468);
  const era = z.div(146_097).floor();
  const doe = z.sub(era.mul(146_097));
  const leaps = doe.sub(doe.div(1460).floor()).add(doe.div(36_524).floor()).sub(doe.div(146_096).floor());
  const yoe = leaps.div(365).floor();
  const doy = doe.sub(yoe.mul(365).add(yoe.div(4).floor()).sub(yoe.div(100).floor()));
  const mp = doy.mul(5).add(2).div(153).floor();
  if (part === 'day') return doy.sub(mp.mul(153).add(2).div(5).floor()).add(1);
  const month = mp.less(10).where(mp.add(3), mp.sub(9));
  if (part === 'month') return month;
  const year = yoe.add(era.mul(400));
  return month.lessOrEqual(2).where(year.add(1), year);
}
