import { concatBytes } from '../../graph/bytes.js';
import { cloneModel, withInitializers } from '../../graph/clone.js';
import { dependentValues } from '../../graph/dependents.js';
import { type DType, type FloatDType, isFloat } from '../../graph/dtype.js';
import { AgdError } from '../../graph/errors.js';
import type { Binding, Graph, Model } from '../../graph/ir.js';
import { record } from '../../graph/record.js';
import { Tensor } from '../../graph/tensor.js';
import { singleValue } from '../../passes/differentiate/train-batch-norm.js';
import { lossPartsOf, skipsLosses, type TrainingDescription } from '../../passes/file/description.js';
import { readStep } from '../../passes/file/step-metadata.js';
import type { RunTable } from '../../passes/run/merge-tables.js';
import { lookupsOf, takeAnyRows } from '../../passes/run/scan-rows.js';
import { shardUpdate, type UpdateShard } from '../../passes/run/shard-update.js';
import { type SplitTable, splitStep } from '../../passes/run/split-step.js';
import type { Collective } from '../collective/collective.js';
import { layOut } from '../cpu.js';
import { takeRows } from '../data/convert.js';
import { type Feeds, Session, type SessionOptions, sessionShapes } from '../session.js';
import { BUCKET_BYTES, type Compression, GradientBuffer, type Summed } from './exchange.js';
import { firstNonFinite } from './finite.js';
import { SynchronizedGradients } from './synchronized-gradients.js';

export type DistributedOptions = SessionOptions & {
  collective: Collective;
  compress?: Compression;
  /** Each rank has the optimizer state of some of the parameters, updates these, and sends them to the others. */
  shardOptimizer?: boolean;
};

/**
 * A training step of which each rank computes the gradients of its part of the batch, and all do the same update, with the
 * gradient of the whole batch: that of the mean over it, to which a rank contributes in proportion to what its loss is divided
 * by. So padding, class weights and parts of different sizes are exact, and a rank without samples contributes nothing. Losses of
 * a sum that count different positions have gradients of their own, to which a rank contributes by their own divisors.
 *
 * Accumulated gradients are summed by each rank for itself until the update is due. Running statistics are the mean of those
 * of the ranks, by their samples. Of tables with sparse updates, the ranks exchange the rows that they looked up.
 */
export class DistributedStep {
  readonly #others: readonly { name: string; dtype: DType; dims: readonly number[]; size: number }[];
  readonly #lookups: readonly Lookup[];
  readonly #parts: readonly Part[];
  readonly #buffer: GradientBuffer;
  readonly #grads: readonly string[];
  readonly #fetched: readonly string[];
  /** Whether the buffer holds gradients of this rank that wait for the update. */
  #waits = false;

  private constructor(
    private readonly description: TrainingDescription,
    private readonly table: SplitTable,
    private readonly gradients: Session | SynchronizedGradients,
    private readonly update: Session,
    private readonly bindings: readonly Binding[],
    private readonly options: DistributedOptions,
    model: Model,
    lookups: readonly RunTable[],
    private readonly shards: readonly UpdateShard[],
    private readonly partOfSum: (sum: string) => number,
  ) {
    const types = new Map(model.graph.outputs.map(v => [v.name, v.type]));
    const typeOf = (name: string) => {
      const type = types.get(name);
      if (type?.kind !== 'tensor') throw open(name);
      const dims = type.shape?.map(d => (typeof d === 'number' ? d : undefined));
      return { name, dtype: type.dtype, dims };
    };
    const fixed = (name: string) => {
      const { dtype, dims } = typeOf(name);
      if (!dims || dims.some(d => d === undefined)) throw open(name);
      return { name, dtype, dims: dims as number[], size: (dims as number[]).reduce((n, d) => n * d, 1) };
    };
    const tables = new Map(lookups.map(t => [t.rows, t.states]));
    const parts = lossPartsOf(description);
    const byRows = new Map<string, Lookup>();
    for (const [part, { terms }] of parts.entries())
      for (const { value: grad, rows } of terms) {
        if (rows === undefined) continue;
        const dims = typeOf(grad).dims!.slice(1) as number[];
        const { grads } = byRows.get(rows) ?? { grads: [] };
        byRows.set(rows, { rows, states: tables.get(rows)!, dims, grads: [...grads, { grad, part }] });
      }
    this.#lookups = [...byRows.values()];
    this.#parts = parts.map(({ terms, divisor, ...part }) => ({
      ...part,
      divisor: divisor === undefined ? undefined : { name: divisor, dtype: typeOf(divisor).dtype },
      terms: terms.filter(term => term.rows === undefined),
    }));
    const summed = this.#parts.flatMap(({ terms }) => terms.map(term => term.value));
    this.#grads = summed;
    this.#buffer = new GradientBuffer(
      summed.map(name => ({ ...(fixed(name) as Summed), owner: this.#onlyReader(name) })),
      shards.length,
    );
    const apart = new Set([
      ...[...table.losses, ...parts.map(part => part.divisor), ...summed],
      ...this.#lookups.flatMap(l => [l.rows, ...l.grads.map(({ grad }) => grad)]),
    ]);
    this.#others = table.exchange.flatMap(({ name }) => (apart.has(name) ? [] : [fixed(name)]));
    this.#fetched = table.exchange.map(e => e.name);
  }

  /**
   * Throws `bad-option` if the step was injected without what ranks need to combine their parts, and for private training,
   * `invalid-model` if it cannot be split.
   */
  static async create(injected: Model, options: DistributedOptions): Promise<DistributedStep> {
    const description = readStep(injected);
    const { lossDivisor, loss, dpSgd } = description;
    if (dpSgd) throw new AgdError('bad-option', 'Private training (--dp-sgd) cannot be distributed.');
    if (lossDivisor === undefined && loss.kind !== 'output')
      throw new AgdError(
        'bad-option',
        'The training step has no divisor of its loss, which distributed training needs: start from the original model, or inject it again with --split.',
      );
    const own = withStreamOf(options.collective, injected, description);
    const { gradients, update, table } = await splitStep(own, sessionShapes);
    const bindings = injected.trainingInfo.flatMap(info => info.updates);
    const rowwise = cloneModel(update);
    const lookups = lookupsOf(injected);
    for (const { states } of lookups) takeAnyRows(rowwise.graph, states, bindings);
    const { collective, shardOptimizer } = options;
    const shards = shardOptimizer
      ? shardUpdate(rowwise, description, bindings, collective.size, gradients)
      : [];
    const first = await gradientSession(gradients, description, options);
    const second = await Session.create(shards[collective.rank]?.model ?? rowwise, options);
    return new DistributedStep(
      description,
      table,
      first,
      second,
      bindings,
      options,
      gradients,
      lookups,
      shards,
      partsOfSums(gradients.graph, lossPartsOf(description)),
    );
  }

  /** What a run returns for tables with sparse updates. */
  get tables(): RunTable[] {
    return this.#lookups.map(({ states, rows }) => ({ states: [...states], rows: `${rows}_of_run` }));
  }

  /** Whether ranks have different parts of the optimizer state. */
  get isSharded(): boolean {
    return this.shards.length > 0;
  }

  /** The optimizer state that only other ranks have. */
  get foreign(): ReadonlySet<string> {
    const { rank } = this.options.collective;
    return new Set(this.shards.flatMap((shard, i) => (i === rank ? [] : shard.states)));
  }

  /** The optimizer state of all ranks, on rank 0 or on all. All ranks call it together. */
  async gather(state: Feeds, types: Feeds, on: 'first' | 'all'): Promise<Feeds> {
    const { collective } = this.options;
    const all: Feeds = { ...state };
    for (const [owner, { states }] of this.shards.entries())
      for (const name of states) {
        const { dtype, dims, byteLength } = types[name]!;
        const bytes = collective.rank === owner ? state[name]!.bytes.slice() : new Uint8Array(byteLength);
        await collective.broadcast(bytes, owner);
        if (on === 'all' || collective.rank === 0) all[name] = new Tensor(dtype, dims, bytes);
      }
    return record(all);
  }

  /** Whether gradients of this rank wait for the update: the state lacks them until `settle`. */
  get isUnsettled(): boolean {
    return this.#waits;
  }

  /**
   * One step on this rank's part of a batch; nothing is fed where it has no samples in it. `feeds` are state and learning rate.
   * Returns the loss of the whole batch as a vector, and the next state; only the loss if that is not finite and such steps are
   * not skipped. All ranks call it together.
   */
  async run(batch: Feeds, feeds: Feeds): Promise<Feeds> {
    const { description, table, options } = this;
    const { collective } = options;
    const { loss } = table;
    const own = await this.#gradients(batch, feeds);
    const samples = own ? samplesIn(batch, description) : 0;
    const number = (name: string) => (own ? own[name]!.numbers()[0]! : 0);
    const weights = this.#parts.map(({ divisor }) => (divisor ? number(divisor.name) : samples));
    const { batches = 1 } = description.accumulation ?? {};
    const skips = batches > 1 && description.skipped !== undefined;
    const isBad = skips && own !== undefined && firstNonFinite(pick(own, this.#grads)) !== undefined;
    const sums = this.#parts.map((part, i) => number(part.loss) * weights[i]!);
    const shared = [samples, isBad ? 1 : 0, ...weights, ...sums];
    const others = this.#others.flatMap(({ name, size }) =>
      own ? own[name]!.numbers().map(x => x * samples) : Array<number>(size).fill(0),
    );
    const all = Float64Array.from([...shared, ...others]);
    await collective.allReduce(all);
    const [total, bad] = all as unknown as [number, number];
    const heavy = weights.map((_, i) => all[2 + i]!);
    const mean = heavy.reduce((sum, n, i) => sum + all[2 + heavy.length + i]! / (n > 0 ? n : 1), 0);
    const told = { [loss]: Tensor.from('float32', [1], Float32Array.of(mean)) };
    // The caller stops, or does the steps before again.
    if (!Number.isFinite(mean) && !skipsLosses(description)) return told;

    // Samples that do not count in the loss change the losses of other ranks, if batch normalization is synchronized.
    const scales = weights.map(weight => (own && description.synchronized ? weight || 1 : weight));
    const shares = scales.map((scale, i) => (heavy[i]! > 0 ? scale / heavy[i]! : 0));
    const done = description.accumulation && feeds[description.accumulation.counter]!.numbers()[0]!;
    const isDue = done === undefined || (done + 1 === batches && !bad);
    const given = this.#means(all.subarray(shared.length), total);
    // The buffer gets the whole mean, which weighs what all batches do: the last one may count nothing.
    const due = heavy.map((n, i) => (isDue ? n + this.#weightBefore(i, feeds) : n));
    for (const [i, { divisor }] of this.#parts.entries())
      if (divisor) given[divisor.name] = Tensor.ofNumbers(divisor.dtype as FloatDType, [], [due[i]!]);
    if (done === undefined) {
      this.#buffer.clear();
      this.#add(own, shares);
    } else if (!bad) {
      if (!this.#waits) this.#resume(feeds);
      this.#waits = true;
      // A weighted mean is divided by the sum of the weights when it is due.
      this.#add(
        own,
        this.#parts.map((part, i) => (part.weight === undefined ? shares[i]! : scales[i]!)),
      );
    }
    const rows = await this.#exchangeRows(own, shares, feeds);
    if (isDue) {
      if (done !== undefined) this.#divide(due);
      await this.#buffer.reduce(collective, options.compress);
      this.#waits = false;
      Object.assign(given, this.#buffer.tensors());
    } else Object.assign(given, this.#nothing(bad > 0));
    return { ...told, ...(await this.#update(feeds, given, rows, isDue)) };
  }

  /**
   * The state with the gradients that wait on all ranks in it, so that it can be saved. All ranks call it together; it changes
   * nothing if an update was just done.
   */
  async settle(state: Feeds): Promise<Feeds> {
    const { accumulation } = this.description;
    if (!accumulation || !this.#waits) return state;
    this.#divide(this.#parts.map((_, i) => this.#weightBefore(i, state)));
    await this.#buffer.reduceAll(this.options.collective);
    const totals = this.#buffer.tensors();
    const sums = this.#terms().map(({ value, sum }) => {
      const { dtype, dims, bytes } = totals[value]!;
      return [sum!, new Tensor(dtype, dims, bytes.slice())];
    });
    this.#waits = false;
    return record({ ...state, ...Object.fromEntries(sums) });
  }

  async release(): Promise<void> {
    await this.gradients.release();
    await this.update.release();
  }

  /** The rank whose part of a divided update alone reads a gradient: it gets the sum. A norm over all gradients reads all. */
  #onlyReader(gradient: string): number | undefined {
    const readers = this.shards.flatMap(({ model }, rank) =>
      model.graph.inputs.some(v => v.name === gradient) ? [rank] : [],
    );
    return readers.length === 1 ? readers[0] : undefined;
  }

  /** What the batches since the last update weigh in a part of the loss. */
  #weightBefore(part: number, state: Feeds): number {
    const { weight } = this.#parts[part]!;
    return weight === undefined ? 0 : state[weight]!.numbers()[0]!;
  }

  /** Makes sums that are weighted means of what these weigh. */
  #divide(weights: readonly number[]): void {
    for (const [i, { weight, terms }] of this.#parts.entries())
      if (weight !== undefined)
        for (const { value } of terms) this.#buffer.scale(value, 1 / (weights[i] || 1));
  }

  #terms(): Part['terms'] {
    return this.#parts.flatMap(part => part.terms);
  }

  /** Takes over what the state has of an update that is not due yet: rank 0 adds it. */
  #resume(state: Feeds): void {
    this.#buffer.clear();
    const counter = state[this.description.accumulation!.counter]!.numbers()[0]!;
    if (!counter || this.options.collective.rank > 0) return;
    for (const [i, { weight, terms }] of this.#parts.entries()) {
      const factor = weight === undefined ? 1 : this.#weightBefore(i, state);
      for (const { value, sum } of terms) this.#buffer.add(value, state[sum!]!, factor);
    }
  }

  /** What the first half makes of this rank's samples; undefined if it has none. */
  async #gradients(batch: Feeds, state: Feeds): Promise<Feeds | undefined> {
    const has = Object.keys(batch).length > 0;
    if (this.gradients instanceof SynchronizedGradients) {
      const samples = has ? samplesIn(batch, this.description) : 0;
      const weight = (values: Feeds, sum: string) => {
        const { divisor } = this.#parts[this.partOfSum(sum)]!;
        return divisor ? values[divisor.name]!.numbers()[0]! : samples;
      };
      return this.gradients.run(has ? { feeds: { ...state, ...batch }, weight } : undefined, this.#fetched);
    }
    if (!has) return undefined;
    const inputs = this.gradients.inputs.map(name => [name, batch[name] ?? state[name]!] as const);
    return this.gradients.run(Object.fromEntries(inputs), this.#fetched);
  }

  /** Adds the gradients of this rank, those of each part of the loss times its factor. */
  #add(own: Feeds | undefined, factors: readonly number[]): void {
    if (!own) return;
    for (const [i, { terms }] of this.#parts.entries())
      for (const { value } of terms) this.#buffer.add(value, own[value]!, factors[i]!);
  }

  /** What takes the place of gradients in a step without an update: nothing, or what makes it a step to skip. */
  #nothing(isBad: boolean): Feeds {
    return Object.fromEntries(
      Object.entries(this.#buffer.tensors()).map(([name, { dtype, dims }], i) => [
        name,
        isBad && i === 0 ? Tensor.filled(dtype, dims, Number.NaN) : Tensor.filled(dtype, dims, 0),
      ]),
    );
  }

  /** Running statistics and what else depends on the batch: means over the ranks. */
  #means(sums: Float64Array, samples: number): Feeds {
    let at = 0;
    const entries = this.#others.map(({ name, dtype, dims, size }) => {
      const values = Array.from(sums.subarray(at, at + size), x => x / samples);
      at += size;
      if (isFloat(dtype)) return [name, Tensor.ofNumbers(dtype, dims, values)];
      throw new AgdError(
        'bad-option',
        `This step cannot be distributed: its update reads '${name}' of the batch, and ranks cannot average ${dtype}.`,
      );
    });
    return Object.fromEntries(entries);
  }

  /** The rows of all ranks with their gradients. The update sums those of equal rows. */
  async #exchangeRows(own: Feeds | undefined, shares: readonly number[], state: Feeds): Promise<RowsOfAll[]> {
    const { collective } = this.options;
    const found: RowsOfAll[] = [];
    for (const { rows, states, dims, grads } of this.#lookups) {
      const { dims: shape, dtype: stored } = state[states[0]!]!;
      const count = shape[0]!;
      const numbers = own
        ? Int32Array.from(own[rows]!.numbers(), n => (n < 0 ? n + count : n))
        : new Int32Array();
      const all = (await collective.allGather(numbers)).flatMap(one => Array.from(one));
      const places = new Map<number, number>();
      const at = all.map(row => {
        if (!places.has(row)) places.set(row, places.size);
        return places.get(row)!;
      });
      const joined: Feeds = {};
      for (const { grad, part } of grads) {
        const values = own ? own[grad]!.floats() : [];
        const scaled = stored === 'float64' ? Float64Array.from(values) : Float32Array.from(values);
        for (let i = 0; i < scaled.length; i++) scaled[i]! *= shares[part]!;
        const dtype = (own?.[grad]?.dtype ?? stored) as FloatDType;
        const parts = await collective.allGather(scaled);
        joined[grad] = Tensor.ofNumbers(dtype, [all.length, ...dims], concatenated(parts));
      }
      const unique = Uint32Array.from(places.keys());
      found.push({ rows, states, joined, places: Tensor.ints(at), unique });
    }
    return found;
  }

  async #update(state: Feeds, given: Feeds, rows: readonly RowsOfAll[], isDue: boolean): Promise<Feeds> {
    const { accumulation, parameters } = this.description;
    const feeds: Feeds = { ...state, ...given };
    const results: Feeds = {};
    for (const { rows: numbers, states, joined, places, unique } of rows) {
      Object.assign(feeds, joined, { [numbers]: places });
      for (const name of states) {
        const { dtype, dims } = state[name]!;
        feeds[name] = takeRows(state[name]!, unique, dtype, [unique.length, ...dims.slice(1)], 1);
      }
      results[`${numbers}_of_run`] = Tensor.from('int32', [unique.length], Int32Array.from(unique));
    }
    // The buffer has the whole mean.
    if (accumulation && isDue) {
      const sums = [...this.#parts.map(part => part.weight), ...this.#terms().map(term => term.sum)];
      for (const name of sums) if (name !== undefined) feeds[name] = zeros(state[name]!);
    }
    // Without an update, what only it changes stays as it is, and is not copied.
    const still = new Set(
      isDue
        ? []
        : [
            ...parameters.flatMap(p => [p.name, p.carry, p.ema, ...Object.values(p.state)]),
            ...this.#terms().map(term => term.sum),
          ],
    );
    const late = this.bindings.filter(b => this.update.outputs.includes(b.value) && !still.has(b.state));
    const inputs = this.update.inputs.map(name => [name, feeds[name]!] as const);
    const updated = await this.update.run(
      Object.fromEntries(inputs),
      late.map(b => b.value),
    );
    const sent = isDue ? await this.#exchangeParameters(state, updated) : {};
    for (const { state: name, value } of this.bindings) {
      const next = updated[value] ?? given[value] ?? sent[name] ?? state[name];
      if (next) results[value] = next;
    }
    return results;
  }

  /** The parameters that other ranks have updated. */
  async #exchangeParameters(state: Feeds, updated: Feeds): Promise<Feeds> {
    const { collective } = this.options;
    const [own] = [this.shards[collective.rank]];
    if (!own) return {};
    const next = new Map(this.bindings.map(b => [b.state, b.value]));
    const bytes = concatBytes(own.parameters.map(name => updated[next.get(name)!]!.bytes));
    const parts = this.shards.map(({ parameters }) =>
      parameters.reduce((n, name) => n + state[name]!.byteLength, 0),
    );
    const all = parts.map(length => new Uint8Array(length));
    const step = Math.ceil(BUCKET_BYTES / collective.size);
    for (let at = 0; at < Math.max(...parts); at += step) {
      const pieces = await collective.allGather<Uint8Array>(bytes.subarray(at, at + step));
      for (const [rank, piece] of pieces.entries()) if (piece.length) all[rank]!.set(piece, at);
    }
    const found: Feeds = {};
    for (const [rank, { parameters }] of this.shards.entries()) {
      let at = 0;
      for (const name of parameters) {
        const { dtype, dims, byteLength } = state[name]!;
        found[name] = new Tensor(dtype, dims, all[rank]!.slice(at, at + byteLength));
        at += byteLength;
      }
    }
    return found;
  }
}

/** The model with random numbers of this rank's own, such as dropout masks. */
export function withStreamOf(
  { rank }: Collective,
  model: Model,
  { randomStream }: Pick<TrainingDescription, 'randomStream'>,
): Model {
  const own = Tensor.filled('int64', [], rank);
  return withInitializers(model, name => (name === randomStream ? own : undefined));
}

/** The terms of tables with sparse updates are not among `terms`. */
type Part = Omit<ReturnType<typeof lossPartsOf>[number], 'divisor'> & {
  divisor?: { name: string; dtype: DType };
};

/** The part of the loss of which a synchronized sum is a gradient. */
function partsOfSums({ nodes }: Graph, parts: ReturnType<typeof lossPartsOf>): (sum: string) => number {
  const written = new Map(nodes.flatMap(n => n.outputs.flatMap(v => (v ? [[v.name, v]] : []))));
  const found = new Map<string, number>();
  return sum => {
    if (!found.has(sum)) {
      const after = dependentValues(nodes, [written.get(sum)!]);
      const reaches = ({ terms }: (typeof parts)[number]) =>
        terms.some(t => after.has(written.get(t.value)!));
      found.set(sum, Math.max(0, parts.findIndex(reaches)));
    }
    return found.get(sum)!;
  };
}

/** A table with sparse updates: the value with its row numbers, its states, and a gradient of the rows per part of the loss. */
type Lookup = {
  rows: string;
  states: readonly string[];
  /** The extents of a row. */
  dims: readonly number[];
  /** `part` is the index of its part of the loss. */
  grads: readonly { grad: string; part: number }[];
};

/** The rows that ranks looked up: their gradients by name, and places among the different ones. */
type RowsOfAll = {
  rows: string;
  states: readonly string[];
  joined: Feeds;
  places: Tensor;
  unique: Uint32Array;
};

async function gradientSession(
  gradients: Model,
  { synchronized, parameters, leastBatch }: TrainingDescription,
  options: DistributedOptions,
): Promise<Session | SynchronizedGradients> {
  if (!synchronized) return Session.create(await layOut(cloneModel(gradients), options), options);
  if (parameters.some(p => p.hessianProduct !== undefined))
    throw new AgdError(
      'bad-option',
      '--sync-batch-norm cannot be combined with an optimizer that uses products of the Hessian.',
    );
  const tooFew = () => singleValue(leastBatch?.node ?? 'batch normalization');
  return SynchronizedGradients.create(gradients, synchronized, options, tooFew);
}

const pick = (feeds: Feeds, names: readonly string[]): Feeds =>
  Object.fromEntries(names.map(name => [name, feeds[name]!]));

const zeros = ({ dtype, dims }: Tensor) => Tensor.filled(dtype, dims, 0);

function concatenated(parts: readonly (Float32Array | Float64Array)[]): Float64Array {
  const all = new Float64Array(parts.reduce((n, part) => n + part.length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}

function samplesIn(batch: Feeds, { loss }: TrainingDescription): number {
  const { dims } = batch[loss.target ?? ''] ?? Object.values(batch)[0]!;
  return dims[0] ?? 1;
}

function open(name: string): AgdError {
  return new AgdError(
    'bad-option',
    `The size of '${name}' depends on the batch: such a step cannot be distributed.`,
  );
}

/** The state of rank 0, on all ranks. */
export async function sameState(collective: Collective, state: Feeds): Promise<Feeds> {
  const entries: [string, Tensor][] = [];
  for (const [name, { dtype, dims, bytes }] of Object.entries(state)) {
    const own = bytes.slice();
    await collective.broadcast(own);
    entries.push([name, new Tensor(dtype, dims, own)]);
  }
  return record(Object.fromEntries(entries));
}
