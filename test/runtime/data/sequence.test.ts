/** Samples that a program gives one after the other: sequences, and functions that give one for each epoch. */
import { describe, expect, it } from 'vitest';
import { encodeModel } from '../../../src/graph/proto/codec.js';
import { datasetFrom, fit as fitModel, inject, Tensor } from '../../../src/index.js';
import type { Dataset } from '../../../src/runtime/data/dataset.js';
import { dataFrom } from '../../../src/runtime/data/from-values.js';
import { passSamples, readSequence, type Sample } from '../../../src/runtime/data/sequence.js';
import { Trainer } from '../../../src/runtime/train/trainer.js';
import { trainingLoop } from '../../../src/runtime/train/training-loop.js';
import { mlp, mlpData } from '../../sample.js';

const INPUTS = [
  { name: 'x', dtype: 'float32', shape: ['n', 2] },
  { name: 'target', dtype: 'int64', shape: ['n'] },
] as const;
const sampleOf = (i: number): Sample => ({ x: [i, i % 7 ? 0.5 : 1], target: i % 3 });

async function* numbers(count: number) {
  for (let i = 0; i < count; i++) yield sampleOf(i);
}

const firsts = (inputs: Readonly<Record<string, Tensor>>) =>
  inputs.x!.numbers().filter((_, i) => i % 2 === 0);

async function rowsOf(data: Dataset, options: object): Promise<number[]> {
  const rows: number[] = [];
  for await (const { inputs } of data.batches({ batchSize: 10, ...options })) rows.push(...firsts(inputs));
  return rows;
}

const ascending = (rows: readonly number[]) => rows.toSorted((a, b) => a - b);
const all = (count: number) => Array.from({ length: count }, (_, i) => i);

describe('a function that gives a sequence for each epoch', () => {
  const openStream = (make: (epoch: number) => never, options = {}) =>
    dataFrom(make as never, 'the data', { shuffleBuffer: 100, ...options }).then(data =>
      data.bind(INPUTS, { labels: ['target'] }),
    );

  it('is asked for every epoch, and shuffled within the buffer', async () => {
    const epochs: number[] = [];
    const data = await openStream(((epoch: number) => {
      epochs.push(epoch);
      return numbers(1000);
    }) as never);
    expect(data.length).toBe(1000);
    const [first, second] = [
      await rowsOf(data, { shuffle: 5, epoch: 0 }),
      await rowsOf(data, { shuffle: 5, epoch: 1 }),
    ];
    expect(epochs).toEqual([0, 0, 1]);
    expect(await rowsOf(data, { shuffle: 5, epoch: 0 })).toEqual(first);
    expect(second).not.toEqual(first);
    for (const rows of [first, second])
      for (let i = 0; i < 1000; i += 100) {
        expect(rows.slice(i, i + 100)).not.toEqual(all(100).map(j => i + j));
        expect(ascending(rows.slice(i, i + 100))).toEqual(all(100).map(j => i + j));
      }
    expect(await rowsOf(data, {})).toEqual(all(1000));
    expect(await rowsOf(data, { shuffle: 5, epoch: 1, skip: 37 })).toEqual(second.slice(370));
  });

  it('is not read further than the buffer reaches', async () => {
    let read = 0;
    const data = await openStream(async function* () {
      for await (const sample of numbers(5000)) {
        read++;
        yield sample;
      }
    } as never);
    read = 0;
    let taken = 0;
    for await (const { size } of data.batches({ batchSize: 10, shuffle: 1 })) {
      taken += size;
      // The window under way and the next, the part that is being filled, and the batches that are prepared.
      expect(read - taken).toBeLessThan(2 * 100 + 256 + 50);
    }
    expect(read).toBe(5000);
  });

  it('has the same number of samples of the same types every time', async () => {
    const fewer = await openStream(((epoch: number) => numbers(epoch ? 90 : 100)) as never);
    await expect(rowsOf(fewer, { shuffle: 1, epoch: 1 })).rejects.toThrow(
      'The data of epoch 2 end after 90 samples, and the first pass over them had 100: each has to give as many.',
    );
    const more = await openStream(((epoch: number) => numbers(epoch ? 1000 : 100)) as never);
    await expect(rowsOf(more, { shuffle: 1, epoch: 1 })).rejects.toThrow(
      /The data of epoch 2 have at least \d+ samples, and the first pass over them had 100: each has to give as many\./,
    );
    const oneMore = await openStream(((epoch: number) => numbers(epoch ? 257 : 256)) as never);
    await expect(rowsOf(oneMore, { shuffle: 1, epoch: 1 })).rejects.toThrow('at least 257 samples');
    const other = await openStream(((epoch: number) => [
      { x: Float32Array.of(1, 2), target: 0 },
      { x: epoch ? Float64Array.of(1, 2) : Float32Array.of(1, 2), target: 0 },
    ]) as never);
    await expect(
      (async () => {
        for await (const _ of other.batches({ batchSize: 1, shuffle: 1, epoch: 1 }));
      })(),
    ).rejects.toThrow(/epoch 2, samples 0 to 1: /);
    await expect(passSamples((() => 7) as never)).rejects.toThrow(
      'The function that gives the data returned 7',
    );
    await expect(passSamples(() => [])).rejects.toThrow('The data has no samples.');
  });

  it('cannot be split, or drawn by weight', async () => {
    const make = () => numbers(100);
    const data = await dataFrom(make, 'the data', { valSplit: 0.2 });
    await expect(data.bind(INPUTS, { labels: ['target'] })).rejects.toThrow('give validation data apart');
    const stream = await openStream(make as never);
    expect(() => stream.weighted(new Float64Array(100).fill(1))).toThrow('read in order');
  });

  it.each([{ sampler: 'weighted' }, { sampler: 'poisson' }, { sampleWeights: 'x' }] as const)(
    'cannot be drawn from with %o',
    async options => {
      await expect(openStream((() => numbers(100)) as never, options)).rejects.toThrow(
        /^The samples of a function are read in order, so --(sampler|sample-weights).* cannot draw from them/,
      );
    },
  );

  it('trains with the same bits when it is resumed, and its generators are ended', async () => {
    const [x, target] = ['x', 'target'].map(name => mlpData(96, 1).get(name)!.numbers());
    let open = 0;
    async function* samples() {
      open++;
      try {
        for (let i = 0; i < 96; i++) yield { x: x!.slice(4 * i, 4 * i + 4), target: target![i]! };
      } finally {
        open--;
      }
    }
    const options = { loss: 'cross-entropy', batchSize: 8, shuffleBuffer: 32, seed: 2 } as const;
    const whole = await fitModel(mlp(), samples, { ...options, epochs: 3, validation: samples });
    const { state } = await fitModel(mlp(), samples, { ...options, epochs: 1, validation: samples });
    const { loss: _, ...rest } = options;
    const resumed = await fitModel(state, samples, { ...rest, epochs: 3, validation: samples });
    expect(Buffer.from(encodeModel(resumed.model)).equals(Buffer.from(encodeModel(whole.model)))).toBe(true);
    const { model } = await inject(mlp(), { loss: { kind: 'cross-entropy' } });
    const trainer = await Trainer.create(model);
    for await (const event of trainingLoop(trainer, samples, { epochs: 2, batchSize: 8, seed: 2 }))
      if (event.type === 'step' && event.epoch === 2) break;
    await trainer.release();
    expect(open).toBe(0);
  });
});

describe('a sequence that does not fit in memory', () => {
  it('is kept in a temporary file, with the same samples', async () => {
    const found = await readSequence(numbers(3000), { memory: 10_000, shuffleBuffer: 500 });
    if (!('samples' in found)) throw new Error('it is in memory');
    const { samples } = found;
    const kept = (await readSequence(numbers(3000))) as { arrays: Map<string, Tensor> };
    const rows = Uint32Array.of(2999, 0, 256, 255, 1500);
    const taken = await samples.take(rows);
    for (const [name, array] of kept.arrays) {
      const width = array.size / 3000;
      const wanted = Array.from(rows, row => array.numbers().slice(row * width, (row + 1) * width)).flat();
      expect(taken.get(name)!.dtype).toBe(array.dtype);
      expect(taken.get(name)!.numbers()).toEqual(wanted);
    }
    await found.close();
    await found.close();
  });

  it('has whole numbers and others in one array', async () => {
    const mixed = all(600).map(i => ({ x: [i, i < 300 ? 1 : 0.5], target: 0 }));
    for (const memory of [1, 2 ** 20]) {
      const found = await readSequence(mixed, { memory });
      const x =
        'arrays' in found
          ? found.arrays.get('x')!
          : (await found.samples.take(Uint32Array.from(all(600)))).get('x')!;
      expect(x.dtype).toBe('float64');
      expect(x.numbers()).toEqual(mixed.flatMap(sample => sample.x));
      if ('close' in found) await found.close();
    }
  });
});

it('tensors may be values of samples, and rows that differ are named', async () => {
  const row = (...values: number[]) => Tensor.from('float32', [values.length], Float32Array.from(values));
  const data = await datasetFrom(
    [
      { x: row(1, 2), target: 0 },
      { x: row(3, 4), target: 1 },
    ],
    INPUTS,
    { labels: ['target'] },
  );
  expect((await data.take(Uint32Array.of(1))).inputs.x!.numbers()).toEqual([3, 4]);
  await expect(datasetFrom([{ x: row(1, 2) }, { x: row(1) }], INPUTS)).rejects.toThrow(
    "Array 'x' has rows of different shapes: float32 [2] and float32 [1].",
  );
  for (const sample of [null, [1, 2], 7])
    await expect(datasetFrom([sample] as never, INPUTS)).rejects.toThrow(
      'Sample 0 is not an object of values by name',
    );
  const late = all(300).map(i => ({ x: i < 256 ? [1, 2] : [1, 2, 3], target: 0 }));
  await expect(datasetFrom(late, INPUTS)).rejects.toThrow(
    "samples 256 to 299: array 'x' is int64 [3], but int64 [2] before.",
  );
});

describe.each([
  [
    'arrays',
    () => ({
      x: [
        [1, 2],
        [Number.NaN, 4],
        [5, 6],
      ],
      target: [0, 1, 2],
    }),
  ],
  ['samples', () => [sampleOf(1), { x: [Number.NaN, 4], target: 1 }, sampleOf(5)]],
])('options of %s in memory', (_, make) => {
  it('leave out rows that are not finite', async () => {
    const data = await dataFrom(make(), 'the data', { skipMissing: ['x'] });
    expect(await rowsOf(await data.bind(INPUTS, { labels: ['target'] }), {})).toEqual([1, 5]);
    await expect(dataFrom(make(), 'the data', { skipMissing: ['nope'] })).rejects.toThrow(
      "array of rows 'nope'",
    );
  });

  it.each([{ columns: { x: ['nope'] } }, { label: 'nope' }, { skipDamaged: true }])(
    'refuse %o',
    async options => {
      await expect(dataFrom(make(), 'the data', options)).rejects.toThrow(
        /^'(columns|label|skipDamaged)' is for files/,
      );
    },
  );
});
