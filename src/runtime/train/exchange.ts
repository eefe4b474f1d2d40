/** How gradients travel between the ranks of a distributed run. */
import type { FloatDType } from '../../graph/dtype.js';
import { Tensor } from '../../graph/tensor.js';
import { type Collective, partOfRank } from '../collective/collective.js';

/** How numbers are rounded on the way; those of other types travel as float32, and float64 as it is. */
export type Compression = 'fp16';

/** Bytes of a message: large ones use the network well, and need a buffer of their size. */
export const BUCKET_BYTES = 25 * 10 ** 6;

/** A tensor to sum, of which the ranks add shares: for the rank `owner` alone, or for all if not given. */
export type Summed = { name: string; dtype: FloatDType; dims: readonly number[]; owner?: number };

/** Tensors with owners come first, in their order: `parts` are the numbers of each rank, `common` those of all. */
type Bucketed = { all: Reals; parts: readonly Reals[]; common: Reals };
type Reals = Float32Array | Float64Array;

/**
 * A buffer with a place for each of some tensors, which ranks fill with their shares and sum, in messages of 25 MB. Tensors of
 * float64 are in a buffer of their own. `ranks` is the number of ranks, where tensors have owners.
 */
export class GradientBuffer {
  readonly #places = new Map<string, { tensor: Summed; values: Reals }>();
  readonly #buffers: readonly Bucketed[];

  constructor(tensors: readonly Summed[], ranks = 0) {
    const sizeOf = ({ dims }: Summed) => dims.reduce((n, d) => n * d, 1);
    const total = (list: readonly Summed[]) => list.reduce((n, t) => n + sizeOf(t), 0);
    this.#buffers = ([Float32Array, Float64Array] as const).map(Numbers => {
      const mine = tensors.filter(t => (t.dtype === 'float64') === (Numbers === Float64Array));
      const byOwner = Array.from({ length: ranks }, (_, rank) => mine.filter(t => t.owner === rank));
      const groups = [...byOwner, mine.filter(t => t.owner === undefined)];
      const all = new Numbers(total(mine));
      let at = 0;
      const sections = groups.map(list => {
        const start = at;
        for (const tensor of list) {
          const values = all.subarray(at, at + sizeOf(tensor));
          this.#places.set(tensor.name, { tensor, values });
          at += values.length;
        }
        return all.subarray(start, at);
      });
      return { all, parts: sections.slice(0, ranks), common: sections[ranks]! };
    });
  }

  clear(): void {
    for (const { all } of this.#buffers) all.fill(0);
  }

  /** Adds `factor` times the tensor to its place. What is not finite stays so with a factor of 0. */
  add(name: string, tensor: Tensor, factor: number): void {
    const { values } = this.#places.get(name)!;
    const more = tensor.floats();
    for (let i = 0; i < values.length; i++) values[i]! += factor * more[i]!;
  }

  scale(name: string, factor: number): void {
    const { values } = this.#places.get(name)!;
    for (let i = 0; i < values.length; i++) values[i]! *= factor;
  }

  /**
   * Sums over the ranks. All of them get the same bits; tensors with an owner have the sum on that rank only, and on the others
   * what these have added.
   */
  async reduce(collective: Collective, compress?: Compression): Promise<void> {
    for (const { parts, common } of this.#buffers) {
      await reduceParts(collective, parts, compress);
      await reduceToAll(collective, common, compress);
    }
  }

  /** Sums over the ranks, of tensors with an owner too. All ranks get the same bits. */
  async reduceAll(collective: Collective): Promise<void> {
    for (const { all } of this.#buffers) await reduceToAll(collective, all);
  }

  /** The tensors in it, each of its own type; those of 32 and 64 bits share its memory. */
  tensors(): Record<string, Tensor> {
    const entries = [...this.#places].map(
      ([
        name,
        {
          tensor: { dtype, dims },
          values,
        },
      ]) => [
        name,
        dtype === 'float32' || dtype === 'float64'
          ? Tensor.from(dtype, dims, values)
          : Tensor.ofNumbers(dtype, dims, values),
      ],
    );
    return Object.fromEntries(entries);
  }
}

async function reduceToAll(collective: Collective, data: Reals, compress?: Compression): Promise<void> {
  const step = BUCKET_BYTES / data.BYTES_PER_ELEMENT;
  for (let i = 0; i < data.length; i += step) {
    const bucket = data.subarray(i, i + step);
    if (compress) await reduceHalves(collective, bucket);
    else await collective.allReduce(bucket);
  }
}

/** Each rank gets the sum of its part: half of what an all-reduce sends. Each message has some of every part. */
async function reduceParts(
  collective: Collective,
  parts: readonly Reals[],
  compress?: Compression,
): Promise<void> {
  const longest = Math.max(0, ...parts.map(part => part.length));
  const step = Math.ceil(BUCKET_BYTES / (parts[0]?.BYTES_PER_ELEMENT ?? 1) / parts.length);
  for (let i = 0; i < longest; i += step) {
    const pieces = parts.map(part => part.subarray(i, i + step));
    const own = pieces[collective.rank]!;
    if (compress) own.set(fromHalves(toHalves(await sumOfHalves(collective, pieces))));
    else
      own.set(
        await collective.reduceScatter(
          joined(pieces),
          pieces.map(piece => piece.length),
        ),
      );
  }
}

function joined(pieces: readonly Reals[]): Reals {
  const length = pieces.reduce((n, piece) => n + piece.length, 0);
  const all = pieces[0] instanceof Float64Array ? new Float64Array(length) : new Float32Array(length);
  let at = 0;
  for (const piece of pieces) {
    all.set(piece, at);
    at += piece.length;
  }
  return all;
}

/**
 * The sum of numbers that are rounded to float16 on the way: each rank sums a part in float32 and sends it to all, so that half
 * as many bytes travel as in float32.
 */
async function reduceHalves(collective: Collective, data: Reals): Promise<void> {
  const { size } = collective;
  const parts = Array.from({ length: size }, (_, rank) =>
    data.subarray(...partOfRank(data.length, { rank, size })),
  );
  const all = await collective.allGather(toHalves(await sumOfHalves(collective, parts)));
  all.forEach((one, rank) => {
    parts[rank]!.set(fromHalves(one));
  });
}

/** The sum in float32 of this rank's part, of which the others send theirs as float16. */
async function sumOfHalves(collective: Collective, parts: readonly Reals[]): Promise<Float32Array> {
  const received = await collective.allToAll(parts.map(toHalves));
  const sum = new Float32Array(parts[collective.rank]!.length);
  for (const one of received) {
    const values = fromHalves(one);
    for (let i = 0; i < sum.length; i++) sum[i]! += values[i]!;
  }
  return sum;
}

const toHalves = (values: ArrayLike<number>) => Tensor.ofNumbers('float16', [values.length], values).bytes;
const fromHalves = (bytes: Uint8Array) => new Tensor('float16', [bytes.length / 2], bytes).numbers();
