/** Ranks within one process: for tests, and to try a distributed loop without a launcher. */
import { AgdError } from '../../graph/errors.js';
import type { Collective, Numbers, ReduceOp } from './collective.js';

/** Collectives of `size` ranks of this process, which are to be driven concurrently. Sums are computed in the order of the ranks. */
export function localCollectives(size: number): Collective[] {
  const meeting = new Meeting(size);
  return Array.from({ length: size }, (_, rank) => new LocalCollective(rank, meeting));
}

/** A promise that is settled from outside. */
class Deferred {
  resolve!: (all: readonly Numbers[]) => void;
  reject!: (error: AgdError) => void;
  readonly promise = new Promise<readonly Numbers[]>((resolve, reject) => {
    Object.assign(this, { resolve, reject });
  });
}

type Arrived = { operation: string; data: Numbers };

/** Where the ranks meet: an operation is done when the last one has come. */
class Meeting {
  #arrived: (Arrived | undefined)[];
  #next = new Deferred();
  #failure: AgdError | undefined;

  constructor(readonly size: number) {
    this.#arrived = Array(size);
  }

  /** The arrays that all ranks bring to an operation. They are not to be changed. */
  async join(rank: number, operation: string, data: Numbers): Promise<readonly Numbers[]> {
    if (this.#failure) throw this.#failure;
    const { promise } = this.#next;
    this.#arrived[rank] = { operation, data: copyOf(data) };
    const all = this.#arrived.filter(one => one !== undefined);
    const other = all.find(one => one.operation !== operation);
    if (other) this.fail(`rank ${rank} called ${operation} while another rank called ${other.operation}`);
    else if (all.length === this.size) {
      const done = this.#next;
      this.#arrived = Array(this.size);
      this.#next = new Deferred();
      done.resolve(all.map(one => one.data));
    }
    return promise;
  }

  fail(reason: string): void {
    this.#failure ??= new AgdError('collective', `The distributed run failed: ${reason}.`);
    // Nobody may be waiting.
    this.#next.promise.catch(() => {});
    this.#next.reject(this.#failure);
  }
}

class LocalCollective implements Collective {
  readonly engine = 'in-process';
  readonly host = 'localhost';

  constructor(
    readonly rank: number,
    private readonly meeting: Meeting,
  ) {}

  get size(): number {
    return this.meeting.size;
  }

  async allReduce(data: Exclude<Numbers, Uint8Array>, op: ReduceOp = 'sum'): Promise<void> {
    const all = await this.meeting.join(this.rank, `allReduce ${op} ${describe(data)}`, data);
    reduce(all, data, op);
  }

  async allGather<T extends Numbers>(data: T): Promise<T[]> {
    const all = await this.meeting.join(this.rank, `allGather ${nameOf(data)}`, data);
    return all.map(one => copyOf(one) as T);
  }

  async allToAll(parts: readonly Uint8Array[]): Promise<Uint8Array[]> {
    const own = new Uint8Array(parts.reduce((n, part) => n + part.length, 0));
    const lengths = Float64Array.from(parts, part => part.length);
    let at = 0;
    for (const part of parts) {
      own.set(part, at);
      at += part.length;
    }
    const all = await this.meeting.join(this.rank, 'allToAll', own);
    const counts = await this.meeting.join(this.rank, 'allToAll lengths', lengths);
    return all.map((bytes, i) => {
      const start = Array.from(counts[i]!)
        .slice(0, this.rank)
        .reduce((n, count) => n + count, 0);
      return bytes.slice(start, start + counts[i]![this.rank]!) as Uint8Array;
    });
  }

  async reduceScatter<T extends Float32Array | Float64Array>(data: T, counts: readonly number[]): Promise<T> {
    const all = await this.meeting.join(this.rank, `reduceScatter ${describe(data)} [${counts}]`, data);
    const sum = data.slice();
    reduce(all, sum, 'sum');
    const start = counts.slice(0, this.rank).reduce((n, count) => n + count, 0);
    return sum.slice(start, start + counts[this.rank]!) as T;
  }

  async broadcast(data: Numbers, root = 0): Promise<void> {
    const all = await this.meeting.join(this.rank, `broadcast ${root} ${describe(data)}`, data);
    data.set(all[root]!);
  }

  async barrier(): Promise<void> {
    await this.meeting.join(this.rank, 'barrier', new Uint8Array());
  }

  abort(reason: string): void {
    this.meeting.fail(reason);
  }

  async close(): Promise<void> {}
}

/** The slice of a Buffer is not a copy. */
const copyOf = (data: Numbers) => (data instanceof Uint8Array ? new Uint8Array(data) : data.slice());
const nameOf = (data: Numbers) => (data instanceof Uint8Array ? 'Uint8Array' : data.constructor.name);
const describe = (data: Numbers) => `${nameOf(data)}(${data.length})`;

function reduce(all: readonly Numbers[], into: Numbers, op: ReduceOp): void {
  const [first, ...others] = all;
  into.set(first!);
  for (const other of others)
    for (let i = 0; i < into.length; i++)
      into[i] = op === 'sum' ? into[i]! + other[i]! : Math.max(into[i]!, other[i]!);
}
