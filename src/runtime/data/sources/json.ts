/** JSON lines, and JSON arrays of objects: one pass finds where the objects lie, a block of them is parsed when it is read. */
import { fromUtf8 } from '../../../graph/bytes.js';
import { AgdError } from '../../../graph/errors.js';
import type { Block, Field, FieldKind, Source, Values } from '../source.js';
import type { DataFile } from './file.js';
import { type Kinds, kindOfValue, valuesOf, widen } from './kinds.js';

/** Where each block's text begins and ends, and its number of objects. */
export type JsonIndex = { fields: Field[]; spans: [start: number, end: number][]; rows: number[] };

const BLOCK_BYTES = 2 ** 20;
/** Kinds are found from so many blocks, spread over the file. */
const SAMPLED_BLOCKS = 32;
const [OPEN_LIST, CLOSE_LIST, OPEN, CLOSE, QUOTE, BACKSLASH, COMMA] = [91, 93, 123, 125, 34, 92, 44];

/** Throws `bad-data` with the row. */
export async function indexJson(
  file: DataFile,
  { kinds = new Map(), blockBytes = BLOCK_BYTES }: { kinds?: Kinds; blockBytes?: number } = {},
): Promise<JsonIndex> {
  const index = { fields: [], ...(await findObjects(file, blockBytes)) };
  if (!index.rows.length) throw new AgdError('bad-data', `${file.path} has no objects.`);
  return { ...index, fields: await inferFields(file, index, kinds) };
}

export function jsonSource(file: DataFile, index: JsonIndex): Source {
  const { fields, rows } = index;
  return {
    name: file.path,
    fields,
    blocks: rows,
    async read(block, wanted): Promise<Block> {
      const { objects, first } = await objectsOf(file, index, block);
      const values = new Map<string, Values>();
      for (const field of fields)
        if (!wanted || wanted.includes(field.name)) {
          const column = objects.map(object => object[field.name]);
          values.set(field.name, valuesOf(field, column, file.path, first));
        }
      return { rows: rows[block]!, values };
    },
    close: () => file.close(),
  };
}

type Json = Record<string, unknown>;

async function findObjects(file: DataFile, blockBytes: number): Promise<Omit<JsonIndex, 'fields'>> {
  const spans: [number, number][] = [];
  const rows: number[] = [];
  let [depth, inText, escaped, count, start, end] = [0, false, false, 0, -1, -1];
  let outer: number | undefined;
  const bad = (at: number, what: string) =>
    new AgdError(
      'bad-data',
      `${file.path}, after object ${rows.reduce((a, b) => a + b, count)} (byte ${at}): ${what}.`,
    );
  for (let base = 0; base < file.size; ) {
    const bytes = await file.read(base, base + 2 ** 22);
    const { length } = bytes;
    if (!length) break;
    for (let i = 0; i < length; i++) {
      const byte = bytes[i]!;
      if (inText) {
        if (escaped) escaped = false;
        else if (byte === BACKSLASH) escaped = true;
        else if (byte === QUOTE) inText = false;
      } else if (byte === QUOTE && depth > 0) inText = true;
      else if (byte === OPEN || (byte === OPEN_LIST && (depth > 0 || outer !== undefined))) {
        outer ??= OPEN;
        if (depth === 0 && byte !== OPEN) throw bad(base + i, 'objects are expected, not lists');
        if (depth++ === 0 && start < 0) start = base + i;
      } else if (byte === OPEN_LIST) outer = OPEN_LIST;
      else if ((byte === CLOSE || byte === CLOSE_LIST) && depth > 0) {
        if (--depth > 0) continue;
        end = base + i + 1;
        count++;
        if (end - start < blockBytes) continue;
        spans.push([start, end]);
        rows.push(count);
        [start, count] = [-1, 0];
      } else if (
        depth === 0 &&
        !isBetween(byte) &&
        !(byte === CLOSE_LIST && outer === OPEN_LIST) &&
        !isMark(byte, base + i)
      )
        throw bad(base + i, 'an object is expected, { ... }');
    }
    base += length;
  }
  if (depth > 0 || inText) throw bad(file.size, 'the file ends in the middle of an object');
  if (count) {
    spans.push([start, end]);
    rows.push(count);
  }
  return { spans, rows };
}

const isBetween = (byte: number) => byte <= 32 || byte === COMMA;
/** Of the byte order mark. */
const isMark = (byte: number, at: number) => at < 3 && [0xef, 0xbb, 0xbf][at] === byte;

async function objectsOf(file: DataFile, index: Omit<JsonIndex, 'fields'>, block: number) {
  const [start, end] = index.spans[block]!;
  const first = index.rows.slice(0, block).reduce((a, b) => a + b, 1);
  const text = fromUtf8(await file.read(start, end));
  return { objects: parseObjects(text, file.path, first), first };
}

/** Objects, one after the other, with commas or line breaks between them. */
function parseObjects(text: string, path: string, first: number): Json[] {
  // Between objects nothing but spaces and commas was found: only those after a closing brace can be separators.
  const lines = text.split('\n');
  try {
    const parsed = JSON.parse(`[${text}]`);
    if (Array.isArray(parsed)) return parsed;
  } catch {
    // Lines without commas, or damage.
  }
  const objects: Json[] = [];
  let [pending, depth, inText] = ['', 0, false];
  for (const line of lines) {
    pending += pending ? `\n${line}` : line;
    [depth, inText] = depthAfter(line, depth, inText);
    // An object may take several lines: parsing it before its end would take time in proportion to their square.
    if (depth > 0 || inText) continue;
    const trimmed = pending.trim().replace(/^,|,$/g, '');
    if (!trimmed) continue;
    try {
      objects.push(...JSON.parse(`[${trimmed}]`));
    } catch (error) {
      throw new AgdError(
        'bad-data',
        `${path}, row ${first + objects.length} is not JSON: ${(error as Error).message}.`,
      );
    }
    [pending, depth] = ['', 0];
  }
  if (pending.trim())
    throw new AgdError('bad-data', `${path}, row ${first + objects.length} is not JSON: it does not end.`);
  return objects;
}

/** The number of open braces and brackets after a line, and whether a string is. */
function depthAfter(line: string, depth: number, inText: boolean): [number, boolean] {
  for (let i = 0; i < line.length; i++) {
    const char = line.charCodeAt(i);
    if (inText) {
      if (char === BACKSLASH) i++;
      else if (char === QUOTE) inText = false;
    } else if (char === QUOTE) inText = true;
    else if (char === OPEN || char === OPEN_LIST) depth++;
    else if (char === CLOSE || char === CLOSE_LIST) depth--;
  }
  return [depth, inText];
}

async function inferFields(file: DataFile, index: JsonIndex, kinds: Kinds): Promise<Field[]> {
  const found = new Map<string, FieldKind | undefined>();
  const large = new Set<string>();
  const nested = new Set<string>();
  const last = index.rows.length - 1;
  const count = Math.min(SAMPLED_BLOCKS, last + 1);
  const blocks = Array.from({ length: count }, (_, i) => Math.round((i * last) / Math.max(1, count - 1)));
  for (const block of new Set(blocks)) {
    const { objects } = await objectsOf(file, index, block);
    for (const object of objects)
      for (const [name, value] of Object.entries(object)) {
        const kind = kindOfValue(value);
        if (kind === undefined && value !== null && typeof value === 'object') nested.add(name);
        const before = found.get(name);
        const both = widen(before, kind);
        if (both === undefined && before !== undefined) nested.add(name);
        found.set(name, both ?? before);
        if (typeof value === 'number' && Math.abs(value) > Number.MAX_SAFE_INTEGER && Number.isInteger(value))
          large.add(name);
      }
  }
  // Objects in objects feed nothing; a column that is named in a spec and not here is missing, with a list of those that are.
  return [...found].flatMap(([name, kind]) => {
    const known = kinds.get(name) ?? kind ?? 'text';
    return nested.has(name) ? [] : [{ name, kind: large.has(name) ? 'number' : known }];
  });
}
