/** Samples that are not in memory: their order, and that they are what they would be in memory. */
import { writeFileSync } from 'node:fs';
import { mkdtemp } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { Tensor } from '../../../src/graph/tensor.js';
import { inject } from '../../../src/passes/inject.js';
import { dataOf } from '../../../src/runtime/data/arrays.js';
import type { InputSpec } from '../../../src/runtime/data/bind.js';
import type { Data, DataOptions } from '../../../src/runtime/data/data.js';
import type { BatchOptions, Dataset } from '../../../src/runtime/data/dataset.js';
import { datasetFrom } from '../../../src/runtime/data/from-values.js';
import { openData } from '../../../src/runtime/data/open.js';
import { blockwise, inBlocks, weighted } from '../../../src/runtime/data/order.js';
import { foldRows, splitRows } from '../../../src/runtime/data/split.js';
import { sessionShapes } from '../../../src/runtime/session.js';
import { Trainer } from '../../../src/runtime/train/trainer.js';
import { trainingLoop } from '../../../src/runtime/train/training-loop.js';
import { collect, mlp } from '../../sample.js';

const ROWS = 9000;
/** Three classes, of which the last is rare. */
const classOf = (i: number) => (i % 30 === 7 ? 2 : i % 2);
const inputs: InputSpec[] = [
  { name: 'x', dtype: 'float32', shape: ['N', 2] },
  { name: 'target', dtype: 'int64', shape: ['N'] },
];
const labels = ['target'];
let folder: string;
const opened: Data[] = [];

/** A table of several blocks: with long comments, as blocks have a megabyte. */
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'samples-'));
  const lines = Array.from(
    { length: ROWS },
    (_, i) => `${i},${i / 4},c${classOf(i)},${'.'.repeat(500)},${(i % 3) + 1}`,
  );
  writeFileSync(join(folder, 'big.csv'), `a,b,kind,comment,weight\n${lines.join('\n')}\n`);
});
afterAll(() => Promise.all(opened.map(data => data.close())));

async function table(options: DataOptions = {}): Promise<Dataset> {
  return (await openTable(options)).bind(inputs, { labels });
}

async function openTable(options: DataOptions = {}): Promise<Data> {
  const columns = { x: ['a:none', 'b:none'] };
  const data = await openData(join(folder, 'big.csv'), { columns, label: 'kind', ...options });
  opened.push(data);
  return data;
}

/** The number of each row, batch by batch. */
const rowsOf = async (data: Dataset, options: BatchOptions) =>
  (await collect(data.batches(options))).map(({ inputs: { x } }) =>
    x!.numbers().filter((_, i) => i % 2 === 0),
  );

describe('a table that is read in blocks', () => {
  test('has the same samples as in memory', async () => {
    const [whole, parts] = await Promise.all([table(), table({ shuffleBuffer: 2000 })]);
    const [a, b] = await Promise.all([whole, parts].map(data => collect(data.batches({ batchSize: 700 }))));
    expect(b).toEqual(a);
    expect(a![0]!.inputs.target!.numbers().slice(0, 9)).toEqual(
      Array.from({ length: 9 }, (_, i) => classOf(i)),
    );
  });

  test('has each sample once an epoch, in another order each, which is that of the seed', async () => {
    const data = await table({ shuffleBuffer: 4500 });
    const options = { batchSize: 512, shuffle: 3 };
    const first = await rowsOf(data, options);
    const again = await rowsOf(await table({ shuffleBuffer: 4500 }), options);
    const second = await rowsOf(data, { ...options, epoch: 1 });
    expect(again).toEqual(first);
    expect(second.flat()).not.toEqual(first.flat());
    for (const order of [first, second])
      expect(order.flat().toSorted((a, b) => a - b)).toEqual(Array.from({ length: ROWS }, (_, i) => i));
    // Of several blocks at a time.
    const spread = Math.max(...first[0]!) - Math.min(...first[0]!);
    expect(spread).toBeGreaterThan(2200);
  });

  test('goes on in the middle of an epoch as it would have', async () => {
    const data = await table({ shuffleBuffer: 2500 });
    const options = { batchSize: 100, shuffle: 1, epoch: 2 };
    expect(await rowsOf(data, { ...options, skip: 61 })).toEqual((await rowsOf(data, options)).slice(61));
  });

  test('cannot be drawn by weight', async () => {
    await expect(table({ shuffleBuffer: 100, sampler: 'weighted' })).rejects.toThrow(
      /raise --shuffle-buffer/,
    );
  });

  test('says where a value is wrong when its block is read', async () => {
    const path = join(folder, 'bad.csv');
    const lines = Array.from(
      { length: 5000 },
      (_, i) => `${i === 4321 ? '' : i},${'.'.repeat(500)},${classOf(i)}`,
    );
    writeFileSync(path, `a,comment,target\n${lines.join('\n')}\n`);
    const data = await openData(path, { columns: { x: ['a:none', 'a:none'] }, shuffleBuffer: 1000 });
    opened.push(data);
    const train = await data.bind(inputs, { labels });
    await expect(collect(train.batches({ batchSize: 500 }))).rejects.toThrow(
      /column 'a', row 4322: the value is missing/,
    );
  });
});

describe('validation samples', () => {
  test.each([undefined, 2000])(
    'are a share of each class, the same for the same seed (buffer %s)',
    async shuffleBuffer => {
      const parts = async (seed: number) => {
        const data = await openTable({ valSplit: 0.2, seed, shuffleBuffer });
        const [train, validation] = [
          await data.bind(inputs, { labels }),
          await data.validation(inputs, { labels }),
        ];
        return Promise.all([train, validation!].map(async part => (await rowsOf(part, {})).flat()));
      };
      const [train, validation] = await parts(5);
      expect([...train!, ...validation!].toSorted((a, b) => a - b)).toEqual(
        Array.from({ length: ROWS }, (_, i) => i),
      );
      const count = (rows: number[], c: number) => rows.filter(i => classOf(i) === c).length;
      for (const c of [0, 1, 2])
        expect(count(validation!, c)).toBe(Math.round(0.2 * (count(validation!, c) + count(train!, c))));
      expect(await parts(5)).toEqual([train, validation]);
      expect((await parts(6))[1]).not.toEqual(validation);
    },
  );

  test('have no part in what is fitted', async () => {
    const data = await openTable({ valSplit: 0.5, seed: 1, columns: { x: ['a:standardize', 'b:none'] } });
    const train = await data.bind(inputs, { labels });
    const values = (await collect(train.batches({ batchSize: 50_000 })))[0]!.inputs
      .x!.numbers()
      .filter((_, i) => i % 2 === 0);
    expect(values.reduce((a, b) => a + b, 0) / values.length).toBeCloseTo(0, 5);
    expect(values.reduce((a, b) => a + b * b, 0) / values.length).toBeCloseTo(1, 4);
  });

  test('of arrays are rows of each class too', async () => {
    const arrays = new Map([
      [
        'x',
        Tensor.from(
          'float32',
          [60, 2],
          Float32Array.from({ length: 120 }, (_, i) => i >> 1),
        ),
      ],
      [
        'target',
        Tensor.from(
          'int64',
          [60],
          BigInt64Array.from({ length: 60 }, (_, i) => BigInt(i < 50 ? 0 : 1)),
        ),
      ],
    ]);
    const data = dataOf(arrays, 'a.npz', { valSplit: 0.2 });
    const validation = (await data.validation(inputs, { labels }))!;
    const rows = (await rowsOf(validation, {})).flat();
    expect([rows.filter(i => i < 50).length, rows.filter(i => i >= 50).length]).toEqual([10, 2]);
    expect((await data.bind(inputs, { labels })).length).toBe(48);
  });

  test.each([0, 1, -0.1])('cannot be a share of %s', share => {
    expect(() => splitRows(10, share, 0)).toThrow(expect.objectContaining({ code: 'bad-option' }));
  });

  test('leave a sample for training, and are refused where a part would be empty', () => {
    expect(splitRows(2, 0.9, 0).train).toHaveLength(1);
    expect(() => splitRows(1, 0.5, 0)).toThrow('--val-split 0.5 of 1 samples leaves none for validation.');
    // A sample of each class: none can be held out.
    expect(() => splitRows(3, 0.5, 0, Int32Array.of(0, 1, 2))).toThrow('leaves none for validation.');
  });

  test('in folds are each sample once, classes spread evenly', () => {
    const classes = Int32Array.from({ length: 103 }, (_, i) => (i < 20 ? 1 : 0));
    const folds = foldRows(103, 5, 2, classes);
    expect(folds.flatMap(fold => Array.from(fold)).sort((a, b) => a - b)).toEqual(
      Array.from({ length: 103 }, (_, i) => i),
    );
    for (const fold of folds) expect(fold.filter(i => i < 20).length).toBe(4);
    expect(() => foldRows(3, 4, 0)).toThrow(/cannot be divided into 4 folds/);
  });
});

describe('weights', () => {
  test('draw samples with replacement, in proportion', () => {
    const weights = Float64Array.of(1, 0, 3, ...new Array(99_997).fill(4e-5));
    const drawn = weighted(weights, 1, 0).rows(0, weights.length);
    const share = (i: number) => drawn.filter(row => row === i).length / drawn.length;
    expect(share(1)).toBe(0);
    // Three standard deviations of a binomial distribution.
    expect(Math.abs(share(0) - 1 / 8)).toBeLessThan(3 * Math.sqrt((0.125 * 0.875) / 1e5));
    expect(Math.abs(share(2) - 3 / 8)).toBeLessThan(3 * Math.sqrt((0.375 * 0.625) / 1e5));
  });

  test('of classes make them equally likely', async () => {
    const data = await table({ sampler: 'weighted' });
    const drawn = (await collect(data.batches({ shuffle: 4, batchSize: 1000 }))).flatMap(b =>
      b.inputs.target!.numbers(),
    );
    for (const c of [0, 1, 2])
      expect(Math.abs(drawn.filter(x => x === c).length / ROWS - 1 / 3)).toBeLessThan(0.016);
  });

  test('may be a column', async () => {
    const data = await table({ sampleWeights: 'weight' });
    const drawn = (await rowsOf(data, { shuffle: 4, batchSize: 1000 })).flat();
    for (const w of [1, 2, 3])
      expect(Math.abs(drawn.filter(i => (i % 3) + 1 === w).length / ROWS - w / 6)).toBeLessThan(0.016);
    await expect(table({ sampleWeights: 'comment' })).rejects.toThrow(/no column 'comment' of numbers/);
  });
});

test('an order of blocks is had in parts', () => {
  const order = blockwise([3, 0, 5, 2, 7, 1], { buffer: 8 }, 1, 0);
  const all = Array.from(order.rows(0, 18));
  expect(all.toSorted((a, b) => a - b)).toEqual(Array.from({ length: 18 }, (_, i) => i));
  for (const [from, to] of [
    [0, 1],
    [4, 13],
    [7, 18],
    [17, 18],
  ] as const)
    expect(Array.from(order.rows(from, to))).toEqual(all.slice(from, to));
  expect(inBlocks([2, 3, 4]).blocks!(4)).toEqual([1, 2]);
});

describe('a dataset', () => {
  const arrays = new Map([
    [
      'x',
      Tensor.from(
        'float32',
        [10, 2],
        Float32Array.from({ length: 20 }, (_, i) => i >> 1),
      ),
    ],
  ]);
  const bound = () => dataOf(arrays, 'a').bind([inputs[0]!]);

  test('has parts that share its arrays, parts of parts too', async () => {
    const part = (await bound()).subset([9, 3, 5]).subset([2, 0]);
    expect(await rowsOf(part, {})).toEqual([[5, 9]]);
    expect(() => part.subset([2])).toThrow(/Sample 2 is not one of the 2 samples/);
  });

  test('is split, and divided into folds', async () => {
    const data = await bound();
    const [train, validation] = data.split(0.3, { seed: 1 });
    expect([train.length, validation.length]).toEqual([7, 3]);
    const folds = data.folds(5);
    expect(folds.map(f => [f.train.length, f.validation.length])).toEqual(new Array(5).fill([8, 2]));
    const [first] = await rowsOf(folds[0]!.validation, {});
    expect((await rowsOf(folds[0]!.train, {}))[0]).not.toContain(first![0]);
  });

  test('is mapped batch by batch', async () => {
    const doubled = (await bound()).map(({ inputs: { x }, size }, { rows, pass }) => {
      expect([rows.length, pass]).toEqual([size, { seed: 2, epoch: 0 }]);
      const data = (x!.data as Float32Array).map(v => 2 * v);
      return { inputs: { x: Tensor.from('float32', x!.dims, data) }, size };
    });
    const twice = doubled.map(batch => batch);
    expect((await rowsOf(twice, { shuffle: 2 })).flat().toSorted((a, b) => a - b)).toEqual([
      0, 2, 4, 6, 8, 10, 12, 14, 16, 18,
    ]);
  });
});

describe('a sequence', () => {
  const sample = (i: number) => ({ x: [i, 2 * i], target: i % 3 });
  async function* batches() {
    for (const from of [0, 4, 8]) {
      const rows = [0, 1, 2, 3].map(i => sample(from + i));
      yield {
        inputs: { x: rows.map(row => row.x), target: BigInt64Array.from(rows, row => BigInt(row.target)) },
      };
    }
  }

  test('of samples or of batches is a dataset', async () => {
    const samples = Array.from({ length: 12 }, (_, i) => sample(i));
    for (const data of [samples, samples.values(), batches()]) {
      const bound = await datasetFrom(data, inputs, { labels });
      const [whole] = await collect(bound.batches());
      expect(whole!.inputs.x!.numbers()).toEqual(samples.flatMap(({ x }) => x));
      expect(whole!.inputs.target!.numbers()).toEqual(samples.map(({ target }) => target));
    }
  });

  test('trains in the loop without being bound before', async () => {
    const { model } = await inject(mlp(), { loss: { kind: 'cross-entropy' } }, sessionShapes);
    const [trainer, other] = [await Trainer.create(model), await Trainer.create(model)];
    const rows = Array.from({ length: 32 }, (_, i) => ({ x: [i % 3, i % 5, i % 7, 1], target: i % 3 }));
    const options = { epochs: 1, batchSize: 8, validation: rows };
    const events = await collect(trainingLoop(trainer, rows.values(), options));
    const bound = await datasetFrom(rows, other.inputs, { labels });
    const expected = await collect(trainingLoop(other, bound, { ...options, validation: bound }));
    const losses = (all: typeof events) => all.flatMap(e => (e.type === 'step' ? [e.loss] : []));
    expect(losses(events)).toEqual(losses(expected));
    expect(events.at(-1)).toMatchObject({ type: 'epoch', validation: { samples: 32 } });
    await Promise.all([trainer.release(), other.release()]);
  });

  test('of samples and batches is refused', async () => {
    const data = [sample(0), { inputs: { x: [[1, 2]], target: [0] } }];
    await expect(datasetFrom(data, inputs)).rejects.toThrow(/mixes samples with batches/);
  });
});

test('a category that only validation has does not change the width of an input', async () => {
  const file = join(folder, 'rare.csv');
  const rows = Array.from({ length: 40 }, (_, i) => `${i},${i ? 'xy'[i % 2] : 'rare'},${i % 3}`);
  writeFileSync(file, ['n,c,kind', ...rows].join('\n'));
  for (let seed = 0; seed < 6; seed++) {
    const data = await openData(file, { columns: { x: ['n', 'c'] }, label: 'kind', valSplit: 0.5, seed });
    const inputs = [
      { name: 'x', dtype: 'float32', shape: ['n', 4] },
      { name: 'target', dtype: 'int64', shape: ['n'], range: { least: 0, most: 2 } },
    ] as const;
    // Throws where the columns give another width than 4.
    await data.bind(inputs, { labels: ['target'] });
    await data.close();
  }
});
