/**
 * CSV and TSV by RFC 4180: quoted fields may hold delimiters, line breaks and doubled quotes. One pass finds where blocks of
 * records begin; a block is parsed when it is read, its numbers straight from the bytes.
 */
import { isUtf8 } from 'node:buffer';
import { characters, fromUtf8 } from '../../../graph/bytes.js';
import { AgdError } from '../../../graph/errors.js';
import type { Block, Field, FieldKind, Source, Values } from '../source.js';
import type { DataFile } from './file.js';
import { type Kinds, kindOfText, MISSING, numberOf, otherKind, widen } from './kinds.js';

export type CsvOptions = {
  /** Known kinds of columns. */
  kinds?: Kinds;
  /** Bytes of a block, at least: it ends with a record. */
  blockBytes?: number;
};

/** What reading a block takes, apart from the file: found once, by `indexCsv`. */
export type CsvIndex = {
  delimiter: number;
  fields: Field[];
  /** Where each block begins, and where the last ends. */
  starts: number[];
  rows: number[];
};

const BLOCK_BYTES = 2 ** 20;
/** Kinds are found from so many blocks, spread over the file: all of a file of 32 MB. */
const SAMPLED_BLOCKS = 32;

const [TAB, LF, CR, QUOTE, HASH] = [9, 10, 13, 34, 35];

/** Throws `bad-data`. */
export async function indexCsv(file: DataFile, options: CsvOptions = {}): Promise<CsvIndex> {
  const { path } = file;
  const head = await file.read(0, 2 ** 16);
  const mark = beginning(head, path);
  // The line by which Excel knows the delimiter.
  const told = /^sep=(.)\r?\n/i.exec(String.fromCharCode(...head.subarray(mark, mark + 8)));
  const top = mark + (told?.[0].length ?? 0);
  const [comments, beforeLast] = commentsOf(head, top);
  const delimiter = told?.[1]?.charCodeAt(0) ?? delimiterOf(head.subarray(comments), path);
  const start = comments > top && isHeader(head.subarray(beforeLast), delimiter) ? beforeLast : comments;
  if (!head.includes(LF) && head.includes(CR))
    throw new AgdError(
      'bad-data',
      `${path} ends its lines with CR alone, as old programs for the Mac do: convert it with tr '\\r' '\\n'.`,
    );
  const first = head.subarray(start);
  const [names, after] = headerOf(first, delimiter, path, head.length < file.size);
  const { starts, rows } = await findBlocks(
    file,
    start + after,
    options.blockBytes ?? BLOCK_BYTES,
    delimiter,
  );
  if (!rows.length) throw new AgdError('bad-data', `${path} has no rows.`);
  const index = { delimiter, fields: names.map((name): Field => ({ name, kind: 'text' })), starts, rows };
  index.fields = await inferFields(file, index, options.kinds);
  return index;
}

export function csvSource(file: DataFile, index: CsvIndex): Source {
  const { fields, rows } = index;
  const before = [0];
  for (const count of rows) before.push(before.at(-1)! + count);
  return {
    name: file.path,
    fields,
    blocks: rows,
    async read(block, wanted): Promise<Block> {
      const bytes = await file.read(index.starts[block]!, index.starts[block + 1]!);
      const table = new Table(bytes, index, file.path, before[block]! + 1);
      const values = new Map<string, Values>();
      for (const [column, field] of fields.entries())
        if (!wanted || wanted.includes(field.name)) values.set(field.name, table.values(column, field.kind));
      return { rows: rows[block]!, values };
    },
    close: () => file.close(),
  };
}

/** Where the text begins, after a byte order mark. Throws `bad-data` for other encodings than UTF-8. */
function beginning(head: Uint8Array, path: string): number {
  const [a, b, c] = head;
  const wide =
    (a === 0xff && b === 0xfe) || (a === 0xfe && b === 0xff) || head.subarray(0, 64).includes(0) || false;
  if (wide)
    throw new AgdError(
      'bad-data',
      `${path} is UTF-16, not UTF-8: convert it with iconv -f utf-16 -t utf-8, or save it as UTF-8.`,
    );
  return a === 0xef && b === 0xbb && c === 0xbf ? 3 : 0;
}

/** Where the lines at the top end that begin with #, and where the last of them begins. */
function commentsOf(head: Uint8Array, top: number): [number, number] {
  let [start, last] = [top, top];
  while (head[start] === HASH) {
    const end = head.indexOf(LF, start);
    if (end < 0) break;
    [start, last] = [end + 1, start];
  }
  return [start, last];
}

/** Whether the first line names as many columns as the second one has: that of the columns may begin with # too. */
function isHeader(lines: Uint8Array, delimiter: number): boolean {
  const counts: number[] = [];
  scan(lines, delimiter, { field: () => {}, record: fields => counts.push(fields) });
  return counts[0] === counts[1];
}

const DELIMITERS = [',', '\t', ';', '|'].map(c => c.charCodeAt(0));

/** The delimiter that occurs equally often in the first records; of several, the most frequent. */
function delimiterOf(head: Uint8Array, path: string): number {
  if (/\.tsv(\.gz)?$/i.test(path)) return TAB;
  const score = (delimiter: number) => {
    const counts: number[] = [];
    scan(head, delimiter, {
      field: () => {},
      record: fields => counts.push(fields - 1),
    });
    const few = counts.slice(0, 20);
    const same = few.filter(n => n === few[0]).length;
    return few[0] ? same * 1000 + few[0] : 0;
  };
  const scores = DELIMITERS.map(score);
  return DELIMITERS[scores.indexOf(Math.max(...scores))]!;
}

/** The names of the columns, and where the rows begin: without a header, which has no numbers, the columns are numbered. */
function headerOf(head: Uint8Array, delimiter: number, path: string, cut: boolean): [string[], number] {
  const cells: string[] = [];
  let end = 0;
  let found = 0;
  scan(head, delimiter, {
    field: (start, stop, quoted) => {
      if (!found) cells.push(textAt(head, start, stop, quoted));
    },
    record: (_, at) => {
      if (!found++) end = at;
    },
  });
  if (!found || (found === 1 && cut)) {
    if (head.length === 0) throw new AgdError('bad-data', `${path} is empty.`);
    if (cut) throw new AgdError('bad-data', `${path}: the first line takes more than 64 kB.`);
  }
  const hasHeader = !cells.some(cell => ['integer', 'number', 'date'].includes(kindOfText(cell.trim())!));
  const names = cells.map((cell, i) => (hasHeader && cell.trim()) || `column${i + 1}`);
  const twice = names.find((name, i) => names.indexOf(name) !== i);
  if (twice !== undefined) throw new AgdError('bad-data', `${path} has two columns named '${twice}'.`);
  return [names, hasHeader ? end : 0];
}

type Events = {
  /** A cell between two positions; `quoted` 1 without, 2 with doubled quotes. */
  field(start: number, end: number, quoted: 0 | 1 | 2): void;
  /** The end of a record with so many fields, and where the next begins. */
  record(fields: number, next: number): unknown;
  /** Text after a closing quote, which is left out where this does not throw. */
  stray?(): void;
};

/** All records of the bytes, the last one also without a line break. Lines without a character are none. */
function scan(bytes: Uint8Array, delimiter: number, { field, record, stray }: Events): void {
  const { length } = bytes;
  let at = 0;
  let fields = 0;
  while (at < length) {
    if (bytes[at] === QUOTE) {
      const start = ++at;
      let quoted: 1 | 2 = 1;
      for (;;) {
        at = bytes.indexOf(QUOTE, at);
        if (at < 0) {
          field(start, length, quoted);
          record(fields + 1, length);
          return;
        }
        if (bytes[at + 1] !== QUOTE) break;
        quoted = 2;
        at += 2;
      }
      field(start, at, quoted);
      fields++;
      at++;
      while (at < length && bytes[at] !== delimiter && bytes[at] !== LF) if (bytes[at++] !== CR) stray?.();
    } else {
      const start = at;
      let byte = bytes[at];
      while (at < length && byte !== delimiter && byte !== LF) byte = bytes[++at];
      const end = bytes[at - 1] === CR && byte === LF && at > start ? at - 1 : at;
      if (fields === 0 && end === start && (byte === LF || at === length)) {
        at++;
        continue;
      }
      field(start, end, 0);
      fields++;
    }
    if (at >= length) break;
    if (bytes[at] === delimiter) {
      at++;
      // A record may end with an empty field.
      if (at < length) continue;
      field(at, at, 0);
      fields++;
      break;
    }
    at++;
    record(fields, at);
    fields = 0;
  }
  if (fields) record(fields, length);
}

const FIELD_START = 0;
const UNQUOTED = 1;
const QUOTED = 2;
const QUOTE_IN_QUOTED = 3;

/** Where blocks of records begin, and how many each has: the file is read once, a few megabytes at a time. */
async function findBlocks(
  file: DataFile,
  from: number,
  blockBytes: number,
  delimiter: number,
): Promise<Pick<CsvIndex, 'starts' | 'rows'>> {
  const starts = [from];
  const rows: number[] = [];
  let state = FIELD_START;
  let count = 0;
  let hasContent = false;
  let recordStart = from;
  const end = (next: number) => {
    if (hasContent) count++;
    hasContent = false;
    recordStart = next;
    if (next - starts.at(-1)! < blockBytes || !count) return;
    starts.push(next);
    rows.push(count);
    count = 0;
  };
  for (let base = from; base < file.size; ) {
    const bytes = await file.read(base, base + 2 ** 22);
    const { length } = bytes;
    if (!length) break;
    for (let i = 0; i < length; i++) {
      // Within quotes, only the next quote matters; outside, most bytes change nothing.
      if (state === QUOTED) {
        const quote = bytes.indexOf(QUOTE, i);
        if (quote < 0) break;
        i = quote;
        state = QUOTE_IN_QUOTED;
        continue;
      }
      const byte = bytes[i]!;
      if (byte === LF) {
        end(base + i + 1);
        state = FIELD_START;
      } else if (byte === delimiter) {
        hasContent = true;
        state = FIELD_START;
      } else if (byte === QUOTE && state !== UNQUOTED) {
        state = QUOTED;
        hasContent = true;
      } else if (state === QUOTE_IN_QUOTED) continue;
      else if (byte !== CR || state === UNQUOTED) {
        state = UNQUOTED;
        hasContent = true;
      }
    }
    base += length;
  }
  if (state === QUOTED)
    throw new AgdError(
      'bad-data',
      `${file.path}: a quote that opens in the row at byte ${recordStart} is never closed.`,
    );
  if (hasContent) count++;
  if (count) {
    starts.push(file.size);
    rows.push(count);
  }
  return { starts, rows };
}

/** The kind of each column, from blocks all over the file; what is missing everywhere is text. */
async function inferFields(file: DataFile, index: CsvIndex, kinds: Kinds = new Map()): Promise<Field[]> {
  const found: (FieldKind | undefined)[] = index.fields.map(({ name }) => kinds.get(name));
  const open = index.fields.map(({ name }) => !kinds.has(name));
  const exact = index.fields.map(() => true);
  const last = index.rows.length - 1;
  const count = Math.min(SAMPLED_BLOCKS, last + 1);
  const blocks = Array.from({ length: count }, (_, i) => Math.round((i * last) / Math.max(1, count - 1)));
  let rowsBefore = 0;
  for (const block of new Set(blocks)) {
    const bytes = await file.read(index.starts[block]!, index.starts[block + 1]!);
    rowsBefore = index.rows.slice(0, block).reduce((a, b) => a + b, 0);
    const table = new Table(bytes, index, file.path, rowsBefore + 1);
    for (const [column] of index.fields.entries()) {
      if (!open[column] || found[column] === 'text') continue;
      table.eachText(column, (text, isQuoted) => {
        const kind = isQuoted && text === '' ? undefined : kindOfText(text);
        found[column] = widen(found[column], kind);
        if (kind === 'integer' && text.length > 15 && !Number.isSafeInteger(Number(text)))
          exact[column] = false;
        return found[column] !== 'text';
      });
    }
  }
  return index.fields.map(({ name }, i): Field => {
    const kind = found[i] ?? 'text';
    // Integers that no double holds are codes.
    return { name, kind: kind === 'integer' && !exact[i] ? 'text' : kind };
  });
}

/** The cells of a block: where each begins and ends in its bytes. */
class Table {
  readonly #starts: Int32Array;
  readonly #ends: Int32Array;
  readonly #quoted: Uint8Array;
  readonly #rows: number;
  #latin: string | undefined;

  constructor(
    private readonly bytes: Uint8Array,
    private readonly index: Pick<CsvIndex, 'fields' | 'delimiter'>,
    private readonly path: string,
    /** The number of the first row. */
    private readonly first: number,
  ) {
    const width = index.fields.length;
    let size = Math.max(1024, bytes.length >> 2);
    let [starts, ends, quotes] = [new Int32Array(size), new Int32Array(size), new Uint8Array(size)];
    let at = 0;
    let rows = 0;
    const grow = () => {
      size *= 2;
      const [s, e, q] = [new Int32Array(size), new Int32Array(size), new Uint8Array(size)];
      s.set(starts);
      e.set(ends);
      q.set(quotes);
      [starts, ends, quotes] = [s, e, q];
    };
    scan(bytes, index.delimiter, {
      field: (start, end, quoted) => {
        if (at === size) grow();
        starts[at] = start;
        ends[at] = end;
        quotes[at++] = quoted;
      },
      record: fields => {
        if (fields !== width) throw this.#ragged(rows, fields);
        rows++;
      },
      stray: () => {
        throw new AgdError(
          'bad-data',
          `${path}, row ${first + rows}: text follows a closing quote; a quote inside a quoted field is doubled.`,
        );
      },
    });
    [this.#starts, this.#ends, this.#quoted, this.#rows] = [starts, ends, quotes, rows];
    if (!isUtf8(bytes)) throw this.#notUtf8();
  }

  /** Visits the cells of a column until `visit` returns false. */
  eachText(column: number, visit: (text: string, isQuoted: boolean) => boolean): void {
    const width = this.index.fields.length;
    for (let cell = column; cell < this.#rows * width; cell += width)
      if (!visit(this.#text(cell), this.#quoted[cell] !== 0)) return;
  }

  values(column: number, kind: FieldKind): Values {
    return kind === 'text' || kind === 'image' ? this.#texts(column) : this.#numbers(column, kind);
  }

  /** One character for each byte of a cell, which tells cells apart and is the text where it is ASCII. */
  #key(cell: number): string {
    this.#latin ??= characters(this.bytes);
    return this.#latin.slice(this.#starts[cell]!, this.#ends[cell]!);
  }

  #text(cell: number): string {
    const quoted = this.#quoted[cell]! as 0 | 1 | 2;
    const text = quoted === 2 ? this.#key(cell).replaceAll('""', '"') : this.#key(cell);
    return quoted ? text : text.trim();
  }

  /** Values that repeat are one string, and none is a part of the whole block's text. */
  #texts(column: number): (string | null)[] {
    const width = this.index.fields.length;
    const out = new Array<string | null>(this.#rows);
    const known = new Map<string, string | null>();
    for (let row = 0, cell = column; row < this.#rows; row++, cell += width) {
      const quoted = this.#quoted[cell]! as 0 | 1 | 2;
      const key = quoted ? undefined : this.#key(cell);
      let text = key === undefined ? undefined : known.get(key);
      if (text === undefined) {
        const own = textAt(this.bytes, this.#starts[cell]!, this.#ends[cell]!, quoted);
        text = quoted ? own : MISSING.has(own.trim()) ? null : own.trim();
        if (key !== undefined) known.set(key, text);
      }
      out[row] = text;
    }
    return out;
  }

  #numbers(column: number, kind: FieldKind): Float64Array {
    const width = this.index.fields.length;
    const out = new Float64Array(this.#rows);
    for (let row = 0, cell = column; row < this.#rows; row++, cell += width) {
      const quick = kind === 'date' || kind === 'bool' ? undefined : this.#decimal(cell);
      if (quick !== undefined) {
        out[row] = quick;
        continue;
      }
      const text = this.#text(cell);
      const number = numberOf(text, kind);
      if (number === undefined) {
        const { name } = this.index.fields[column]!;
        throw otherKind({ source: this.path, row: this.first + row, field: name }, kind, text);
      }
      out[row] = number;
    }
    return out;
  }

  /**
   * A decimal number of at most 15 digits and a small exponent: both are exact doubles, and so is rounding their quotient
   * once (Clinger: How to Read Floating Point Numbers Accurately, PLDI 1990). Undefined for all else.
   */
  #decimal(cell: number): number | undefined {
    const { bytes } = this;
    let at = this.#starts[cell]!;
    const end = this.#ends[cell]!;
    const negative = bytes[at] === 45;
    if (negative) at++;
    let mantissa = 0;
    let digits = 0;
    let decimals = -1;
    for (; at < end; at++) {
      const digit = bytes[at]! - 48;
      if (digit >= 0 && digit <= 9) {
        mantissa = mantissa * 10 + digit;
        digits++;
        if (decimals >= 0) decimals++;
      } else if (bytes[at] === 46 && decimals < 0) decimals = 0;
      else return undefined;
    }
    if (digits === 0 || digits > 15) return undefined;
    const value = decimals > 0 ? mantissa / POWERS[decimals]! : mantissa;
    return negative ? -value : value;
  }

  #ragged(row: number, fields: number): AgdError {
    const width = this.index.fields.length;
    return new AgdError(
      'bad-data',
      `${this.path}, row ${this.first + row} has ${fields} ${fields === 1 ? 'field' : 'fields'}, but there are ${width} columns; a field that holds the delimiter '${delimiterName(this.index.delimiter)}' or a line break must be in quotes.`,
    );
  }

  #notUtf8(): AgdError {
    const width = this.index.fields.length;
    let cell = 0;
    while (
      cell < this.#rows * width - 1 &&
      isUtf8(this.bytes.subarray(this.#starts[cell]!, this.#ends[cell]!))
    )
      cell++;
    const { name } = this.index.fields[cell % width]!;
    return new AgdError(
      'bad-data',
      `${this.path}, row ${this.first + Math.floor(cell / width)}: column '${name}' is not UTF-8; convert the file, as with iconv -f latin1 -t utf-8.`,
    );
  }
}

const POWERS = Array.from({ length: 16 }, (_, i) => 10 ** i);

const delimiterName = (byte: number) => (byte === TAB ? '\\t' : String.fromCharCode(byte));

function textAt(bytes: Uint8Array, start: number, end: number, quoted: 0 | 1 | 2): string {
  const text = fromUtf8(bytes.subarray(start, end));
  return quoted === 2 ? text.replaceAll('""', '"') : text;
}
