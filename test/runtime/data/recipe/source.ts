/** Records in memory, in blocks. */
import type { Field, FieldKind, Source, Values } from '../../../../src/runtime/data/source.js';

type Cell = number | string | boolean | bigint | null | readonly (number | string)[];

/** A source of these columns; `size` rows a block. Kinds follow from the values where they are not given. */
export function sourceOf(
  columns: Record<string, readonly Cell[]>,
  { size = 3, kinds = {} }: { size?: number; kinds?: Record<string, FieldKind> } = {},
): Source & { reads: number } {
  const fields: Field[] = Object.entries(columns).map(([name, values]) => ({
    name,
    kind: kinds[name] ?? kindOf(values),
  }));
  const rows = Object.values(columns)[0]!.length;
  const blocks = Array.from({ length: Math.ceil(rows / size) }, (_, i) => Math.min(size, rows - i * size));
  const source = {
    name: 'data.csv',
    fields,
    blocks,
    reads: 0,
    async read(block: number, wanted?: readonly string[]) {
      source.reads++;
      const part = (name: string) => columns[name]!.slice(block * size, (block + 1) * size);
      const values = fields
        .filter(({ name }) => !wanted || wanted.includes(name))
        .map(({ name, kind }): [string, Values] => [name, valuesOf(part(name), kind)]);
      return { rows: blocks[block]!, values: new Map(values) };
    },
    async close() {},
  };
  return source;
}

function kindOf(values: readonly Cell[]): FieldKind {
  const present = values.filter(value => value !== null);
  if (present.every(value => typeof value === 'boolean')) return 'bool';
  if (present.every(value => Array.isArray(value))) return 'list';
  if (present.every(value => typeof value === 'number'))
    return present.every(Number.isInteger) ? 'integer' : 'number';
  return 'text';
}

function valuesOf(values: readonly Cell[], kind: FieldKind): Values {
  if (kind === 'text' || kind === 'list' || kind === 'image') return values as Values;
  return Float64Array.from(values, value => (value === null ? Number.NaN : Number(value)));
}
