/** How gradients travel between the ranks of a distributed run. */
import type { FloatDType } from '../../graph/dtype.js';
import { Tensor } from '../../graph/tensor.js';
import { type Collective, partOfRank } from '../collective/collective.js';

/** How numbers are rounded on the way; those of other types travel as float32, and float64 as it is. */
export type Compression = 'fp16';

/** Bytes of a message: large ones use the network well, and need a buffer of their size. */
export const BUCKET_BYTES = 25 * 10 ** 6;

/** A tensor to sum, of which the ranks add shares. */
export type Summed = { name: string; dtype: FloatDType; dims: readonly number[] };

/**
 * A buffer with a place for each of some tensors, which ranks fill with their shares and sum, in messages of 25 MB. Tensors of
 * float64 are in a buffer of their own.
 */
export class GradientBuffer {
  readonly #places = new Map<string, { tensor: Summed; values: Float32Array | Float64Array }>();
  readonly #buffers: readonly (Float32Array | Float64Array)[];

  constructor(tensors: readonly Summed[]) {
    const sizeOf = ({ dims }: Summed) => dims.reduce((n, d) => n * d, 1);
    const wide = tensors.filter(t => t.dtype === 'float64');
    const narrow = tensors.filter(t => t.dtype !== 'float64');
    const total = (list: readonly Summed[]) => list.reduce((n, t) => n + sizeOf(t), 0);
    this.#buffers = [new Float32Array(total(narrow)), new Float64Array(total(wide))];
    [narrow, wide].forEach((list, i) => {
      let at = 0;
      for (const tensor of list) {
        const values = this.#buffers[i]!.subarray(at, at + sizeOf(tensor));
        this.#places.set(tensor.name, { tensor, values });
        at += values.length;
      }
    });
  }

  clear(): void {
    for (const buffer of this.#buffers) buffer.fill(0);
  }

  /** Adds `factor` times the tensor to its place. What is not finite stays so with a factor of 0. */
  add(name: string, tensor: Tensor, factor: number): void {
    const { values } = this.#places.get(name)!;
    const more = tensor.floats();
    for (let i = 0; i < values.length; i++) values[i]! += factor * more[i]!;
  }

  scale(factor: number): void {
    for (const buffer of this.#buffers) for (let i = 0; i < buffer.length; i++) buffer[i]! *= factor;
  }

  /** Sums over the ranks. All of them get the same bits. */
  async reduce(collective: Collective, compress?: Compression): Promise<void> {
    for (const buffer of this.#buffers) {
      const step = BUCKET_BYTES / buffer.BYTES_PER_ELEMENT;
      for (let i = 0; i < buffer.length; i += step) {
        const bucket = buffer.subarray(i, i + step);
        if (compress) await reduceHalves(collective, bucket);
        else await collective.allReduce(bucket);
      }
    }
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

/**
 * The sum of numbers that are rounded to float16 on the way: each rank sums a part in float32 and sends it to all, so that half
 * as many bytes travel as in float32.
 */
async function reduceHalves(collective: Collective, data: Float32Array | Float64Array): Promise<void> {
  const { size } = collective;
  const parts = Array.from({ length: size }, (_, rank) =>
    data.subarray(...partOfRank(data.length, { rank, size })),
  );
  const received = await collective.allToAll(parts.map(toHalves));
  const sum = new Float32Array(parts[collective.rank]!.length);
  for (const one of received) {
    const values = fromHalves(one);
    for (let i = 0; i < sum.length; i++) sum[i]! += values[i]!;
  }
  const all = await collective.allGather(toHalves(sum));
  all.forEach((one, rank) => {
    parts[rank]!.set(fromHalves(one));
  });
}

const toHalves = (values: ArrayLike<number>) => Tensor.ofNumbers('float16', [values.length], values).bytes;
const fromHalves = (bytes: Uint8Array) => new Tensor('float16', [bytes.length / 2], bytes).numbers();
