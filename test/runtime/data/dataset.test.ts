import { describe, expect, test } from 'vitest';
import { Tensor } from '../../../src/graph/tensor.js';
import { type BatchOptions, type Column, Dataset } from '../../../src/runtime/data/dataset.js';
import { collect } from '../../sample.js';

/** Column `x`: row i holds i and 100 + i. */
function column(rows: number, name = 'x'): Column {
  const data = Int32Array.from({ length: rows * 2 }, (_, i) => (i % 2) * 100 + (i >> 1));
  const array = Tensor.from('int32', [rows, 2], data);
  return { input: name, arrayName: `${name}s`, array, dtype: 'float32', dims: [2, 1], scale: 1 };
}

const firsts = async (dataset: Dataset, options: BatchOptions) =>
  (await collect(dataset.batches(options))).map(b => b.inputs.x!.numbers().filter(v => v < 100));

describe('batches', () => {
  test('in the order of the file, the last one smaller', async () => {
    const dataset = new Dataset([column(5)]);
    expect(await firsts(dataset, { batchSize: 2 })).toEqual([[0, 1], [2, 3], [4]]);
    expect(await firsts(dataset, { batchSize: 2, dropLast: true })).toEqual([
      [0, 1],
      [2, 3],
    ]);
    expect([
      dataset.batchCount({ batchSize: 2 }),
      dataset.batchCount({ batchSize: 2, dropLast: true }),
    ]).toEqual([3, 2]);
  });

  test('carry every input, with the batch in front, and their size', async () => {
    const [first] = await collect(new Dataset([column(3), column(3, 'y')]).batches({ batchSize: 2 }));
    expect(Object.keys(first!.inputs)).toEqual(['x', 'y']);
    expect([first!.size, first!.inputs.y!.dtype, first!.inputs.y!.dims]).toEqual([2, 'float32', [2, 2, 1]]);
    expect(first!.inputs.y!.data).toEqual(Float32Array.of(0, 100, 1, 101));
  });

  test('in chunks that are put where the last one was, if they have room there', async () => {
    const dataset = new Dataset([column(300), column(300, 'y')]);
    const [fresh, reused, buffers]: [number[][], number[][], unknown[]] = [[], [], []];
    const options = { batchSize: 8, shuffle: 3 };
    const steps = (first: number) => (first === 0 ? 2 : 10);
    for await (const { inputs } of dataset.chunks(options, steps))
      fresh.push(inputs.x!.numbers(), inputs.y!.numbers());
    for await (const { inputs } of dataset.chunks(options, steps, new Map())) {
      reused.push(inputs.x!.numbers(), inputs.y!.numbers());
      buffers.push(inputs.x!.bytes.buffer);
      // What it held is not seen again.
      inputs.x!.bytes.fill(255);
    }
    expect(reused).toEqual(fresh);
    // The first is too small for those that follow; the last one has less than is there.
    expect(buffers.map(buffer => buffer === buffers[1])).toEqual([false, true, true, true, true, true]);
  });

  test('as they are stored, in the order of a seed, where nothing is to be augmented or mixed', async () => {
    const passes: unknown[] = [];
    const dataset = new Dataset([column(4)]).map((batch, { pass }) => {
      passes.push(pass);
      return batch;
    });
    const order = { batchSize: 4, shuffle: 5 };
    const stored = await firsts(dataset, { ...order, asStored: true });
    expect(stored).toEqual(await firsts(dataset, order));
    expect(passes).toEqual([undefined, { seed: 5, epoch: 0 }]);
  });

  test('shuffled by seed and epoch, all inputs alike, each sample once', async () => {
    const dataset = new Dataset([column(8), column(8, 'y')]);
    const order = async (shuffle: number, epoch?: number) =>
      (await firsts(dataset, { batchSize: 3, shuffle, epoch })).flat();
    expect(await order(42)).toEqual([4, 2, 5, 0, 6, 7, 1, 3]);
    expect(await order(42, 1)).toEqual([7, 2, 1, 3, 5, 6, 4, 0]);
    expect(await order(42)).toEqual(await order(42, 0));
    expect((await order(42)).toSorted()).toEqual([0, 1, 2, 3, 4, 5, 6, 7]);
    for await (const { inputs } of dataset.batches({ shuffle: 42 }))
      expect(inputs.x!.data).toEqual(inputs.y!.data);
  });

  test('go on in the middle of a pass as they would have', async () => {
    const dataset = new Dataset([column(8)]);
    const options = { batchSize: 3, shuffle: 1 };
    expect(await firsts(dataset, { ...options, skip: 2 })).toEqual((await firsts(dataset, options)).slice(2));
    expect(dataset.batchCount({ ...options, skip: 2 })).toBe(3);
  });

  test('of a fixed size are all of that size', async () => {
    const dataset = new Dataset([column(5)], { fixedBatch: 2 });
    expect(await firsts(dataset, {})).toEqual([
      [0, 1],
      [2, 3],
    ]);
    expect([dataset.batchSize(), dataset.batchCount()]).toEqual([2, 2]);
  });

  test('are fresh memory', async () => {
    const dataset = new Dataset([{ ...column(2), dtype: 'int32' }]);
    const [first] = await collect(dataset.batches());
    first!.inputs.x!.data.fill(9 as never);
    expect(await firsts(dataset, {})).toEqual([[0, 1]]);
  });

  test.each<[string, Dataset, BatchOptions, RegExp]>([
    [
      'a size of 0',
      new Dataset([column(5)]),
      { batchSize: 0 },
      /batch size must be a whole number of at least 1, not 0/,
    ],
    ['a fractional size', new Dataset([column(5)]), { batchSize: 1.5 }, /batch size must be .* not 1\.5/],
    [
      'a fractional seed',
      new Dataset([column(5)]),
      { shuffle: 0.5 },
      /seed must be a whole number, not 0\.5/,
    ],
    [
      'a size the model does not take',
      new Dataset([column(5)], { fixedBatch: 2 }),
      { batchSize: 3 },
      /exactly 2 samples, not 3/,
    ],
    [
      'no full batch',
      new Dataset([column(5)], { fixedBatch: 8 }),
      {},
      /5 samples, fewer than one batch of 8/,
    ],
  ])('%s is refused', async (_, dataset, options, message) => {
    await expect(collect(dataset.batches(options))).rejects.toThrow(
      expect.objectContaining({ code: 'bad-option', message: expect.stringMatching(message) }),
    );
  });
});

test('arrays of different length are refused, with both', () => {
  expect(() => new Dataset([column(3), column(4, 'y')])).toThrow(/'xs' has 3 rows, but 'ys' has 4/);
});

test('no samples are refused', () => {
  expect(() => new Dataset([column(0)])).toThrow(expect.objectContaining({ code: 'bad-data' }));
  expect(() => new Dataset([])).toThrow(expect.objectContaining({ code: 'bad-data' }));
});
