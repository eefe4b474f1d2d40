import { AgdError } from '../../../graph/errors.js';
import { offsets, partOf } from '../order.js';
import type { Field, FieldKind, Source } from '../source.js';
import { widen } from './kinds.js';

/**
 * The rows of several sources, one after the other. All have the same fields; where kinds differ, and one of them takes the
 * values of both, `reopen` reads a source again with it. Throws `bad-data` with what differs.
 */
export async function concatSources(
  sources: readonly Source[],
  reopen: (index: number, kinds: ReadonlyMap<string, FieldKind>) => Promise<Source>,
): Promise<Source> {
  const [first, ...others] = sources as [Source, ...Source[]];
  if (!others.length) return first;
  for (const other of others) checkNames(first, other);
  const fields = first.fields.map((field): Field => {
    let kind: FieldKind | undefined = field.kind;
    for (const other of others) {
      const own = other.fields.find(({ name }) => name === field.name)!;
      const both: FieldKind | undefined = widen(kind, own.kind);
      if (both === undefined || String(own.dims) !== String(field.dims))
        throw new AgdError(
          'bad-data',
          `Column '${field.name}' is of kind ${field.kind} in ${first.name}, but ${own.kind} in ${other.name}; files that are read together hold the same columns.`,
        );
      kind = both;
    }
    return { ...field, kind: kind! };
  });
  const kinds = new Map(fields.map(({ name, kind }) => [name, kind]));
  const same = (source: Source) =>
    source.fields.every(({ name, kind }) => kinds.get(name) === kind || kinds.get(name) === 'number');
  const parts = await Promise.all(
    sources.map(async (source, i) => {
      if (same(source)) return source;
      await source.close();
      return reopen(i, kinds);
    }),
  );
  const starts = offsets(parts.map(({ blocks }) => blocks.length));
  return {
    name: `${first.name} and ${others.length} more`,
    fields,
    blocks: parts.flatMap(({ blocks }) => blocks),
    read(block, wanted) {
      const part = partOf(starts, block);
      return parts[part]!.read(block - starts[part]!, wanted);
    },
    async close() {
      for (const part of parts) await part.close();
    },
  };
}

function checkNames(first: Source, other: Source): void {
  const names = (source: Source) => source.fields.map(({ name }) => name);
  const lacking = names(first).filter(name => !names(other).includes(name));
  const extra = names(other).filter(name => !names(first).includes(name));
  if (!lacking.length && !extra.length) return;
  const list = (all: readonly string[]) => all.map(name => `'${name}'`).join(', ');
  const what = [
    ...(lacking.length ? [`lacks ${list(lacking)}`] : []),
    ...(extra.length ? [`has ${list(extra)} too`] : []),
  ].join(' and ');
  throw new AgdError(
    'bad-data',
    `${other.name} ${what}, unlike ${first.name}; files that are read together hold the same columns.`,
  );
}
