/** Names shared by recipes and their checks. */

/** The kinds of column values; see `FieldKind` of the readers. */
export const COLUMN_KINDS = ['number', 'integer', 'bool', 'date', 'text', 'list', 'image', 'tensor'] as const;
export type ColumnKind = (typeof COLUMN_KINDS)[number];

export const DATE_PARTS = ['year', 'month', 'day', 'weekday', 'hour', 'epoch-days'] as const;
export type DatePart = (typeof DATE_PARTS)[number];

/** Cyclic parts of a date: the length of the cycle, and its first number. */
export const CYCLES: Partial<Record<DatePart, readonly [length: number, first: number]>> = {
  month: [12, 1],
  day: [31, 1],
  weekday: [7, 0],
  hour: [24, 0],
};
