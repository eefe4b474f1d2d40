/** Names that both a recipe and its check know. */

/** The kinds of values that a column may have; see `FieldKind` of the readers. */
export const COLUMN_KINDS = ['number', 'integer', 'bool', 'date', 'text', 'list', 'image', 'tensor'] as const;
export type ColumnKind = (typeof COLUMN_KINDS)[number];

export const DATE_PARTS = ['year', 'month', 'day', 'weekday', 'hour', 'epoch-days'] as const;
export type DatePart = (typeof DATE_PARTS)[number];
