import { describe, expect, test } from 'vitest';
import type { DType } from '../../../src/graph/dtype.js';
import { Tensor } from '../../../src/graph/tensor.js';
import { withBatchAxes } from '../../../src/runtime/data/batch-axis.js';
import { type BindOptions, bindData, type InputSpec } from '../../../src/runtime/data/bind.js';
import { moveAxis } from '../../../src/runtime/data/convert.js';
import { collect } from '../../sample.js';

const floats = (dims: number[]) => {
  const size = dims.reduce((n, d) => n * d, 1);
  return Tensor.from(
    'float32',
    dims,
    Float32Array.from({ length: size }, (_, i) => i),
  );
};
const spec = (name: string, shape: InputSpec['shape'], dtype: DType = 'float32'): InputSpec => ({
  name,
  dtype,
  shape,
});
const target = (...shape: NonNullable<InputSpec['shape']>) => spec('target', shape);
const labels = (n: number) => Tensor.filled('int64', [n], 0);

function bind(arrays: Record<string, Tensor>, inputs: InputSpec[], options: BindOptions = {}) {
  return bindData(new Map(Object.entries(arrays)), inputs, { labels: ['target'], ...options });
}

describe('the axis of the samples', () => {
  test.each<[string, InputSpec['shape'], InputSpec['shape'], number | null]>([
    ['is the first', ['N', 4], ['N'], 0],
    ['is the first where nothing is known of the target', ['N', 4], undefined, 0],
    ['is that of the same symbol', ['seq', 'n', 3], ['n'], 1],
    [
      'is that called batch, the target in that order too',
      ['seq', 'batch_size', 3],
      ['seq', 'batch_size'],
      1,
    ],
    ['is that called batch, where the target has a symbol of its own', [1, 'batch', 8], ['unk'], 1],
    ['is not a product of which batch is a factor', ['batch*seq', 4], ['N'], 0],
    ['is that of the same number', [5, 2, 3], [2], 1],
    ['is the first with that number', [3, 2, 2], [2], 1],
    ['is the first where none has the number', [1, 3, 3], [2], 0],
    ['is the first where the target has an unknown extent', ['seq', null, 3], [null], 0],
    ['is none in a scalar', [], ['N'], null],
  ])('%s', (_, shape, of, axis) => {
    const inputs = [spec('x', shape), { ...spec('target', of) }];
    expect(withBatchAxes(inputs, 'target')[0]!.batchAxis).toBe(axis);
  });

  test('is none where the caller says so', () => {
    expect(withBatchAxes([spec('x', ['N', 4])], undefined, ['x'])[0]!.batchAxis).toBe(null);
  });
});

test('moves an axis to another place, and back', () => {
  const array = floats([2, 3, 4]);
  const moved = moveAxis(array, 0, 2);
  expect(moved.dims).toEqual([3, 4, 2]);
  expect(moved.numbers().slice(0, 4)).toEqual([0, 12, 1, 13]);
  expect(moveAxis(array, 1, 0).numbers().slice(0, 8)).toEqual([0, 1, 2, 3, 12, 13, 14, 15]);
  for (const [from, to] of [
    [0, 1],
    [0, 2],
    [2, 1],
  ] as const)
    expect(moveAxis(moveAxis(array, from, to), to, from).numbers()).toEqual(array.numbers());
});

describe('samples along another axis than the first', () => {
  const x = spec('x', ['seq', 'n', 2]);
  const inputs = [x, spec('target', ['n'], 'int64')];
  /** Sample i holds i in all places. */
  const rows = Tensor.from(
    'float32',
    [4, 3, 2],
    Float32Array.from({ length: 24 }, (_, i) => Math.floor(i / 6)),
  );

  test.each([
    ['from the rows of an array', rows],
    ['from an array in that layout', moveAxis(rows, 0, 1)],
  ])('are taken %s', async (_, array) => {
    const data = bind({ x: array, target: labels(4) }, inputs);
    const [batch] = await collect(data.batches({ batchSize: 2 }));
    expect(batch!.inputs.x!.dims).toEqual([3, 2, 2]);
    expect(batch!.inputs.x!.numbers()).toEqual([0, 0, 1, 1, 0, 0, 1, 1, 0, 0, 1, 1]);
    const [chunk] = await collect(data.chunks({ batchSize: 2 }, () => 2));
    expect(chunk!.inputs.x!.dims).toEqual([2, 3, 2, 2]);
    expect(chunk!.inputs.x!.numbers().slice(12)).toEqual([2, 2, 3, 3, 2, 2, 3, 3, 2, 2, 3, 3]);
    expect(data.notes.join()).toContain("Input 'x' has its samples on axis 1");
  });

  test('are refused where the array has as many neither there nor in front', () => {
    expect(() => bind({ x: floats([3, 5, 2]), target: labels(4) }, inputs)).toThrow(
      /takes \[seq,n,2\].*is \[3,5,2\]; the 4 samples lie along its axis 1, and along that or the first/,
    );
  });

  test('fix the batch where the axis is a number', async () => {
    const data = bind({ x: rows, target: labels(4) }, [spec('x', [3, 2, 2]), spec('target', [2], 'int64')]);
    expect(data.fixedBatch).toBe(2);
    expect((await collect(data.batches())).map(b => b.inputs.x!.dims)).toEqual([
      [3, 2, 2],
      [3, 2, 2],
    ]);
  });
});

describe('arrays without samples', () => {
  const inputs = [spec('x', ['N', 2]), spec('mask', [3, 'T'], 'int64'), target('N')];
  const arrays = { x: floats([4, 2]), mask: Tensor.filled('int32', [3, 5], 7), target: floats([4]) };

  test('are fed whole at every step where the caller says so', async () => {
    const [chunk] = await collect(
      bind(arrays, inputs, { whole: ['mask'] }).chunks({ batchSize: 2 }, () => 2),
    );
    expect(chunk!.inputs.x!.dims).toEqual([2, 2, 2]);
    expect(chunk!.inputs.mask!.dims).toEqual([2, 3, 5]);
    expect(new Set(chunk!.inputs.mask!.numbers())).toEqual(new Set([7]));
    expect(chunk!.inputs.mask!.dtype).toBe('int64');
  });

  test('are named by the error with what to write', () => {
    expect(() => bind(arrays, inputs)).toThrow(/'x' has 4 rows, but 'mask' has 3;.*--whole mask\./);
    expect(() => bind(arrays, inputs, { whole: ['other'] })).toThrow(/--whole other: no input 'other'/);
    expect(() => bind({ ...arrays, mask: floats([2, 5]) }, inputs, { whole: ['mask'] })).toThrow(
      /takes \[3,T\], but array 'mask' is \[2,5\]; it is fed whole/,
    );
  });

  test('are scalars without being told', async () => {
    const scalar = [spec('x', ['N', 2]), spec('t', []), target('N')];
    const data = bind({ ...arrays, t: Tensor.filled('float32', [1], 3) }, scalar);
    const [batch] = await collect(data.batches({ batchSize: 2 }));
    expect([batch!.inputs.t!.dims, batch!.inputs.t!.numbers()]).toEqual([[], [3]]);
    expect(() => bind({ ...arrays, t: floats([4]) }, scalar)).toThrow(/a scalar is one number for all/);
  });

  test('that number the rows of others take these along, in their order', async () => {
    const edges: InputSpec = { ...spec('edges', [2, 'E'], 'int64'), numbersRows: true };
    const graph = { ...arrays, edges: Tensor.filled('int64', [2, 9], 0) };
    const data = bind(graph, [inputs[0]!, edges, target('N')], { whole: ['edges'] });
    expect(data.length).toBe(1);
    const [batch] = await collect(data.batches({ shuffle: 1 }));
    expect(batch!.inputs.x!.numbers()).toEqual([0, 1, 2, 3, 4, 5, 6, 7]);
    expect(batch!.inputs.edges!.dims).toEqual([2, 9]);
    expect(data.notes.join()).toContain("Input 'edges' numbers rows of other inputs");
  });
});

test('the array named as the target was to be feeds it where a value of the model has that name', () => {
  const inputs = [spec('x', ['N', 2]), spec('other', ['N', 2]), spec('target_1', ['N', 2])];
  const array = floats([4, 2]);
  const arrays = { x: array, other: array, target: array, spare: array };
  const data = bind(arrays, inputs, { labels: ['target_1'] });
  expect(data.columns.map(c => c.arrayName)).toEqual(['x', 'other', 'target']);
});
