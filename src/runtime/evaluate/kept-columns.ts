/** Columns of the data as they are, to be written beside predictions. */
import { AgdError } from '../../graph/errors.js';
import { Tensor } from '../../graph/tensor.js';
import { unknownName } from '../../ops/core/option-type.js';
import type { Recipe } from '../../passes/recipe/recipe.js';
import { openRows } from '../data/open.js';
import { hasWindows } from '../data/recipe/apply-recipe.js';
import type { FieldKind, Source, Values } from '../data/source.js';
import type { KeptColumns, RawValue } from './prediction-files.js';

/** Reads the columns in the order of the rows. Throws `bad-option` for one that the data do not have. */
export async function keepColumns(
  paths: string | readonly string[],
  names: readonly string[],
  recipe?: Recipe,
): Promise<KeptColumns & { close(): Promise<void> }> {
  if (recipe && hasWindows(recipe))
    throw new AgdError(
      'bad-option',
      '--keep cannot be used with windows, which are not rows of the data: leave it out.',
    );
  const source = await openRows(paths, recipe);
  const known = source.fields.map(field => field.name);
  const stranger = names.find(name => !known.includes(name));
  if (stranger !== undefined) {
    await source.close();
    throw unknownName('column', stranger, known);
  }
  const rows = rowsOf(source, names);
  return {
    names,
    async next(count) {
      const columns = new Map<string, RawValue[]>(names.map(name => [name, []]));
      for (let i = 0; i < count; i++) {
        const { value, done } = await rows.next();
        if (done)
          throw new AgdError(
            'bad-data',
            `${source.name} has fewer rows than there are predictions: --keep needs the data that were predicted.`,
          );
        for (const [at, name] of names.entries()) columns.get(name)!.push(value[at]!);
      }
      return columns;
    },
    close: () => source.close(),
  };
}

async function* rowsOf(source: Source, names: readonly string[]): AsyncGenerator<RawValue[], undefined> {
  const kinds = new Map(source.fields.map(({ name, kind }) => [name, kind]));
  for (const block of source.blocks.keys()) {
    const { rows, values } = await source.read(block, names);
    const columns = names.map(name => readerOf(values.get(name)!, kinds.get(name)!));
    for (let row = 0; row < rows; row++) yield columns.map(at => at(row));
  }
}

/** Reads a value as it would be written: dates in ISO form, lists and arrays as JSON. */
function readerOf(values: Values, kind: FieldKind): (row: number) => RawValue {
  if (values instanceof Tensor) {
    const { data } = values;
    if (data instanceof BigInt64Array && data.length === values.dims[0]) return row => data[row]!;
    const numbers = values.numbers();
    const width = numbers.length / values.dims[0]!;
    if (width === 1) return row => numbers[row]!;
    return row => JSON.stringify(numbers.slice(row * width, (row + 1) * width));
  }
  return row => {
    const value = values[row];
    if (value === null || value === undefined || Number.isNaN(value)) return null;
    if (kind === 'date') return new Date(Number(value)).toISOString();
    if (kind === 'bool') return Number(value) !== 0;
    if (value instanceof Uint8Array) return null;
    return typeof value === 'object' ? JSON.stringify(value) : (value as RawValue);
  };
}
