import { AgdError } from '../../graph/errors.js';
import type { Binding, Model } from '../../graph/ir.js';
import { Tensor } from '../../graph/tensor.js';
import type { TablesOfRun } from '../../passes/run/scan-rows.js';
import { scanRows } from '../../passes/run/scan-rows.js';
import { type Feeds, Session, type SessionOptions } from '../session.js';

/** What a run takes of the tables, all outputs with a state, and how these are divided among the tables. */
export type RowsForRun = { feeds: Feeds; outputs: string[]; divide(results: Feeds): Feeds };

/** Finds the rows that a run looks up, and gives it these in place of whole tables. */
export class LookedUpRows {
  /** For each row of a table, its place among those of a run, counted from 1; 0 between tables. One vector for all stays in the cache. */
  #known = new Int32Array();
  readonly #nextOf: ReadonlyMap<string, string>;
  readonly #outputs: string[];

  private constructor(
    private readonly session: Session,
    private readonly groups: readonly TablesOfRun[],
    updates: readonly Binding[],
  ) {
    this.#nextOf = new Map(updates.map(u => [u.state, u.value]));
    const own = new Set(groups.flatMap(({ tables }) => tables.flatMap(({ states }) => states)));
    const others = updates.flatMap(u => (own.has(u.state) ? [] : u.value));
    this.#outputs = [...groups.flatMap(group => group.states.map(s => s.value)), ...others];
  }

  /** The steps of a run that gets its rows from here, and the tables that they are of. */
  static async of(model: Model, updates: readonly Binding[], options: SessionOptions) {
    const { groups, indexing, ...steps } = scanRows(model);
    const session = await Session.create(indexing, { ...options, device: 'cpu', threads: 1 });
    const rows = new LookedUpRows(session, groups, updates);
    return { ...steps, tables: groups.flatMap(group => group.tables), rows };
  }

  /** Throws `bad-data` for a number that is none of a row. */
  async gather(batches: Feeds, state: Feeds): Promise<RowsForRun> {
    const own = this.session.inputs.map(name => [name, batches[name]!] as const);
    const numbers = await this.session.run(Object.fromEntries(own));
    const found = this.groups.map(group => ({ group, ...this.#find(group, numbers, state) }));
    const feeds: Feeds = {};
    for (const { group, rows, places, last, counts } of found) {
      const own = new Int32Array(rows.reduce((n, r) => n + r.length, 0));
      let start = 0;
      for (const part of rows) {
        own.set(part, start);
        start += part.length;
      }
      feeds[group.rows] = Tensor.from('int32', [own.length], own);
      feeds[group.sizes] = Tensor.ints(rows.map(r => r.length));
      feeds[group.places] = places;
      if (group.last) feeds[group.last] = last;
      if (group.counts) feeds[group.counts] = counts;
    }
    return {
      feeds,
      outputs: this.#outputs,
      divide: results => Object.fromEntries(found.flatMap(of => this.#divided(of.group, of.rows, results))),
    };
  }

  release(): Promise<void> {
    return this.session.release();
  }

  /** The rows of each table without duplicates, and where those of each step are among these. */
  #find({ tables }: TablesOfRun, numbers: Feeds, state: Feeds) {
    const lists = tables.map(({ rows }) => numbers[rows]!);
    const steps = lists[0]!.dims[0]!;
    const counts = lists.map(({ dims }) => dims[1]!);
    const size = counts.reduce((n, count) => n + count, 0);
    // Words of 32 bits, of which the second ones stay 0: int64 in JavaScript would be bigint.
    const [places, last] = [0, 0].map(() => new Int32Array(2 * steps * size)) as [Int32Array, Int32Array];
    const rows: Int32Array[] = [];
    let [total, offset] = [0, 0];
    for (const [i, table] of tables.entries()) {
      const [name] = table.states;
      const count = state[name!]!.dims[0]!;
      if (this.#known.length < count) this.#known = new Int32Array(count);
      const known = this.#known;
      const { bytes } = lists[i]!;
      const from = new Int32Array(bytes.buffer as ArrayBuffer, bytes.byteOffset, bytes.length / 4);
      const wrong = firstWrong(from, count);
      if (wrong >= 0) throw noRow(name!, count, lists[i]!.data[wrong] as bigint);
      const own = new Int32Array(Math.min(from.length / 2, count));
      let found = 0;
      for (let step = 0; step < steps; step++) {
        const ofStep = from.subarray(2 * step * counts[i]!, 2 * (step + 1) * counts[i]!);
        found = place(
          ofStep,
          count,
          { known, own, found, total },
          places.subarray(2 * (step * size + offset)),
        );
      }
      for (let k = 0; k < found; k++) known[own[k]!] = 0;
      rows.push(own.subarray(0, found));
      total += found;
      offset += counts[i]!;
    }
    const latest = new Int32Array(total);
    for (let start = 0; start < places.length; start += 2 * size) {
      const end = start + 2 * size;
      lastPlaces(places.subarray(start, end), latest, last.subarray(start, end));
    }
    const perStep = Array.from({ length: steps }, () => counts).flat();
    return {
      rows,
      places: int64([steps, size], places),
      last: int64([steps, size], last),
      counts: Tensor.from('int64', [steps, tables.length], BigInt64Array.from(perStep, BigInt)),
    };
  }

  /** For each table, its rows of what a run returned for all of the group, and their numbers. */
  #divided({ tables, states }: TablesOfRun, rows: readonly Int32Array[], results: Feeds) {
    let start = 0;
    return tables.flatMap((table, i): [string, Tensor][] => {
      const [count, from] = [rows[i]!.length, start];
      start += count;
      const values = states.map(({ value }, j): [string, Tensor] => {
        const { dtype, dims, bytes } = results[value]!;
        const size = bytes.length / Math.max(dims[0]!, 1);
        const part = bytes.subarray(from * size, start * size);
        return [this.#nextOf.get(table.states[j]!)!, new Tensor(dtype, [count, ...dims.slice(1)], part)];
      });
      return [[table.rows, Tensor.from('int32', [count], rows[i]!)], ...values];
    });
  }
}

const int64 = (dims: readonly number[], words: Int32Array) =>
  new Tensor('int64', dims, new Uint8Array(words.buffer));

function noRow(table: string, count: number, row: bigint): AgdError {
  return new AgdError(
    'bad-data',
    `The data look up row ${row} of '${table}', which has ${count} rows: expected ${-count} to ${count - 1}.`,
  );
}

// Loops over pairs of words, each a function of its own that the engine compiles once.

/** The position of a number that is none of a row; -1 if there is none. */
function firstWrong(numbers: Int32Array, count: number): number {
  for (let i = 0; i < numbers.length; i += 2) {
    const number = numbers[i]!;
    if (number < -count || number >= count || numbers[i + 1] !== number >> 31) return i / 2;
  }
  return -1;
}

/** Writes the place of each row, and those that are new to `own`. Returns how many there are now. */
function place(
  numbers: Int32Array,
  count: number,
  { known, own, found, total }: { known: Int32Array; own: Int32Array; found: number; total: number },
  places: Int32Array,
): number {
  for (let i = 0; i < numbers.length; i += 2) {
    const number = numbers[i]!;
    const row = number < 0 ? number + count : number;
    if (known[row] === 0) {
      own[found++] = row;
      known[row] = total + found;
    }
    places[i] = known[row]! - 1;
  }
  return found;
}

function lastPlaces(places: Int32Array, latest: Int32Array, last: Int32Array): void {
  for (let i = 0; i < places.length; i += 2) latest[places[i]!] = i / 2;
  for (let i = 0; i < places.length; i += 2) last[i] = latest[places[i]!]!;
}
