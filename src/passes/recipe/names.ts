/** Names that both a recipe and its check know. */

/** The kinds of values that a column may have; see `FieldKind` of the readers. */
export const COLUMN_KINDS = ['number', 'integer', 'bool', 'date', 'text', 'list', 'image', 'tensor'] as const;
export type ColumnKind = (typeof COLUMN_KINDS)[number];

export const DATE_PARTS = ['year', 'month', 'day', 'weekday', 'hour', 'epoch-days'] as const;
export type DatePart = (typeof DATE_PARTS)[number];

/** Parts of a date that come again: the length of the cycle, and its first number. */
export const CYCLES: Partial<Record<DatePart, readonly [length: number, first: number]>> = {
  month: [12, 1],
  day: [31, 1],
  weekday: [7, 0],
  hour: [24, 0],
};
