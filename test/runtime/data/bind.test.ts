import { describe, expect, test } from 'vitest';
import type { DType } from '../../../src/graph/dtype.js';
import { Tensor } from '../../../src/graph/tensor.js';
import { type BindOptions, bindData, type InputSpec } from '../../../src/runtime/data/bind.js';
import { collect } from '../../sample.js';

const zeros = (dtype: DType, ...dims: number[]) => Tensor.filled(dtype, dims, 0);
const images = Tensor.filled('uint8', [6, 4, 4], 255);
const labels = Tensor.from('uint8', [6], Uint8Array.of(0, 1, 2, 3, 4, 5));
const x: InputSpec = { name: 'x', dtype: 'float32', shape: ['N', 1, 4, 4] };
const target: InputSpec = { name: 'target', dtype: 'int64', shape: ['N'] };

function bind(arrays: Record<string, Tensor>, inputs: InputSpec[], options?: BindOptions) {
  return bindData(new Map(Object.entries(arrays)), inputs, options);
}

/** The first sample of input `name`. */
async function sample(
  arrays: Record<string, Tensor>,
  inputs: InputSpec[],
  name: string,
  options?: BindOptions,
) {
  return (await collect(bind(arrays, inputs, options).batches({ batchSize: 1 })))[0]!.inputs[name]!;
}

describe('which array feeds which input', () => {
  const feeds = (dataset: ReturnType<typeof bind>) => dataset.columns.map(c => `${c.input}=${c.arrayName}`);

  test('that of the same name, or the one mapped', () => {
    const dataset = bind({ x: images, target: labels, other: labels }, [x, target], {
      map: { target: 'other' },
    });
    expect(feeds(dataset)).toEqual(['x=x', 'target=other']);
    expect(dataset.notes.filter(note => note.includes('feeds'))).toEqual([]);
  });

  test('the only one that fits, which is noted', () => {
    const dataset = bind({ images, y: labels }, [x, target]);
    expect(feeds(dataset)).toEqual(['x=images', 'target=y']);
    expect(dataset.notes).toContain("Array 'y' feeds input 'target', the only one that it fits.");
    // As one would expect: no warning.
    expect(dataset.reportOn()).toContainEqual({
      text: "Array 'y' feeds input 'target', the only one that it fits.",
    });
  });

  test('floats are no labels', () => {
    expect(() => bind({ x: images, scores: zeros('float32', 6) }, [x, target])).toThrow(/--map target=ARRAY/);
  });

  test("a choice is the user's: the error says what there is and what to write", () => {
    const arrays = { x: images, a: labels, b: zeros('int64', 6) };
    expect(() => bind(arrays, [x, target], { source: 'train.npz' })).toThrow(
      expect.objectContaining({
        code: 'missing-data',
        message:
          "No array for input 'target' (int64 [N]) in train.npz, which has 'x' uint8 [6,4,4], 'a' uint8 [6], 'b' int64 [6]; name it: --map target=a.",
      }),
    );
  });

  test('one array that two inputs could take is given to neither', () => {
    const ids: InputSpec = { name: 'ids', dtype: 'int64', shape: ['N', 'T'] };
    const next: InputSpec = { name: 'next', dtype: 'int64', shape: ['N', 'T'] };
    expect(() => bind({ a: zeros('int64', 6, 3) }, [ids, next])).toThrow(/--map ids=a --map next=ARRAY/);
  });

  test.each<[BindOptions, string, RegExp]>([
    [{ map: { z: 'x' } }, 'bad-option', /no input 'z'; the data feeds 'x', 'target'/],
    [{ map: { x: 'z' } }, 'missing-data', /the data has no array 'z', only 'x', 'target'/],
    [{ scale: { z: 2 } }, 'bad-option', /no input 'z'/],
    [{ scale: { target: 2 } }, 'bad-option', /input 'target' is int64/],
  ])('%j is refused', (options, code, message) => {
    expect(() => bind({ x: images, target: labels }, [x, target], options)).toThrow(
      expect.objectContaining({ code, message: expect.stringMatching(message) }),
    );
  });
});

describe('shape and type', () => {
  test('of a sample are those of the input', async () => {
    expect((await sample({ x: images, target: labels }, [x, target], 'x')).dims).toEqual([1, 1, 4, 4]);
    const column = Tensor.from('int32', [2, 1], Int32Array.of(3, 4));
    const labelled = await sample({ target: column }, [target], 'target');
    expect([labelled.dtype, labelled.dims, labelled.numbers()]).toEqual(['int64', [1], [3]]);
  });

  test('any shape is taken where the model names none', async () => {
    const any: InputSpec = { name: 'x', dtype: 'float32' };
    expect((await sample({ x: zeros('float64', 6, 2, 3) }, [any], 'x')).dims).toEqual([1, 2, 3]);
  });

  test.each<[string, Tensor, InputSpec, string, RegExp]>([
    [
      'other extents',
      zeros('uint8', 6, 5, 4),
      x,
      'bad-shape',
      /takes \[N,1,4,4\], but array 'x' is \[6,5,4\]/,
    ],
    ['no batch axis in the data', zeros('float32'), x, 'bad-shape', /array 'x' is \[\]/],
    ['no batch axis in the model', zeros('float32', 6), { ...x, shape: [] }, 'bad-shape', /takes \[\]/],
    [
      'fractions for integers',
      Tensor.filled('float32', [6], 0.5),
      { ...target, name: 'x' },
      'bad-dtype',
      /takes int64, but array 'x' is float32 and holds 0.5/,
    ],
    [
      'types without numbers',
      new Tensor('complex64', [1], new Uint8Array(8)),
      { ...x, shape: ['N'] },
      'bad-dtype',
      /float32, but array 'x' is complex64/,
    ],
  ])('%s are refused', (_, array, input, code, message) => {
    expect(() => bind({ x: array }, [input])).toThrow(
      expect.objectContaining({ code, message: expect.stringMatching(message) }),
    );
  });

  test('a symbol is the same extent in every input', () => {
    const ids: InputSpec = { name: 'ids', dtype: 'int64', shape: ['N', 'T'] };
    const next: InputSpec = { name: 'next', dtype: 'int64', shape: ['N', 'T'] };
    const arrays = { ids: zeros('int64', 6, 3), next: zeros('int64', 6, 4) };
    expect(() => bind(arrays, [ids, next])).toThrow(
      /'next' takes \[N,T\], T = 3, but array 'next' is \[6,4\]/,
    );
    expect(bind({ ...arrays, next: arrays.ids }, [ids, next]).length).toBe(6);
  });

  test('a fixed batch axis fixes the batch size, which is noted', async () => {
    const fixed = bind({ x: images }, [{ ...x, shape: [4, 1, 4, 4] }]);
    expect(fixed.fixedBatch).toBe(4);
    expect(fixed.notes).toContain(
      "Input 'x' fixes the batch size at 4, so that 2 samples are left out of each pass of training.",
    );
    expect(bind({ x: images }, [x]).fixedBatch).toBeUndefined();
    expect(() =>
      bind({ x: images, target: labels }, [
        { ...x, shape: [3, 1, 4, 4] },
        { ...target, shape: [2] },
      ]),
    ).toThrow(/is 3 in input 'x' but 2 in 'target'/);
  });
});

describe('scale', () => {
  const flat: InputSpec = { name: 'x', dtype: 'float32', shape: ['N', 'D'] };
  const mask: InputSpec = { name: 'mask', dtype: 'float32', shape: ['N', 4, 4] };
  const first = async (
    arrays: Record<string, Tensor>,
    inputs: InputSpec[],
    name: string,
    options?: BindOptions,
  ) => (await sample(arrays, inputs, name, options)).numbers()[0];
  const table = { x: Tensor.filled('uint8', [6, 3], 255) };

  test('of 8-bit images is 1/255 unless it is given, which is noted', async () => {
    expect(await first({ x: images }, [x], 'x')).toBe(1);
    expect(bind({ x: images }, [x]).notes).toEqual([
      "Array 'x' is taken for 8-bit images and multiplied by 1/255; --scale 1 leaves it as it is.",
    ]);
    expect(await first({ x: images }, [x], 'x', { scale: 1 })).toBe(255);
    expect(await first({ x: images }, [x], 'x', { scale: 2 })).toBe(510);
    expect(bind({ x: images }, [x]).reportOn()).toMatchObject([{ level: 'warning' }]);
    expect(bind({ x: images }, [x], { scale: 2 }).notes).toEqual([]);
  });

  test('of tables, wider integers, floats and integer inputs is 1', async () => {
    expect(await first(table, [flat], 'x')).toBe(255);
    expect(await first({ x: Tensor.filled('int32', [6, 4, 4], 255) }, [x], 'x')).toBe(255);
    expect(await first({ x: Tensor.filled('float32', [6, 4, 4], 255) }, [x], 'x')).toBe(255);
    expect(await first({ x: images }, [{ ...x, dtype: 'int64' }], 'x')).toBe(255);
  });

  test('given as a number is for integers, tables too, but not for labels', async () => {
    const arrays = { x: images, mask: Tensor.filled('uint8', [6, 4, 4], 1), t: table.x };
    const t: InputSpec = { ...flat, name: 't' };
    const options = { scale: 1 / 255, labels: ['mask'] };
    expect(await first(arrays, [x, mask, t], 'x', options)).toBe(1);
    expect(await first(arrays, [x, mask, t], 't', options)).toBe(1);
    expect(await first(arrays, [x, mask, t], 'mask', options)).toBe(1);
    expect(await first(arrays, [x, mask, t], 'mask', { labels: ['mask'] })).toBe(1);
  });

  test('given by name is for that input, floats too', async () => {
    const arrays = { x: Tensor.filled('float32', [6, 4, 4], 8), mask: images };
    expect(await first(arrays, [x, mask], 'x', { scale: { x: 0.5 } })).toBe(4);
    expect(await first(arrays, [x, mask], 'mask', { scale: { x: 0.5 } })).toBe(1);
  });

  test('that nothing takes is refused', () => {
    expect(() => bind({ x: zeros('float32', 6, 3) }, [flat], { scale: 0.5 })).toThrow(/--scale x=0.5/);
  });
});

test('rows that are not finite are told when the data are bound', () => {
  const values = Float32Array.from({ length: 12 }, (_, i) => i);
  const notes = (bad: Record<number, number>) => {
    const data = Object.assign(values.slice(), bad);
    const input: InputSpec = { name: 'x', dtype: 'float32', shape: ['N', 3] };
    return bind({ x: Tensor.from('float32', [4, 3], data) }, [input], { source: 'a.npz' }).notes;
  };
  expect(notes({})).toEqual([]);
  expect(notes({ 7: Number.NaN })).toEqual([
    "Array 'x' of a.npz is NaN or infinite in row 3 (counted from 1): --skip-missing x leaves such rows out, --on-nonfinite skip their batches.",
  ]);
  expect(notes({ 4: Infinity, 5: 1 / 0, 11: Number.NaN })[0]).toMatch(/in row 2 and 1 more/);
});

describe('what is usually the matter is named', () => {
  const image = { name: 'x', dtype: 'float32', shape: ['N', 3, 4, 5] } as const;
  const target = { name: 'target', dtype: 'int64', shape: ['N'], range: { least: 0, most: 2 } } as const;
  const of = (name: string, array: Tensor) => new Map([[name, array]]);
  test.each([
    [
      'channels last',
      [2, 4, 5, 3],
      image,
      /as in images with channels last: put its axes in the order 0, 3, 1, 2\./,
    ],
    [
      'channels first',
      [2, 3, 4, 5],
      { ...image, shape: ['N', 4, 5, 3] },
      /as in images with channels first: put its axes in the order 0, 2, 3, 1\./,
    ],
    [
      'samples last',
      [6, 2],
      { ...image, shape: ['N', 6] },
      /its samples lie along the last axis, not the first: put its axes in the order 1, 0\./,
    ],
  ] as const)('%s', (_, dims, input, message) => {
    const bind = () =>
      bindData(of('x', Tensor.filled('float32', dims, 0)), [input as InputSpec], { source: 'a.npz' });
    expect(bind).toThrow(message);
    expect(bind).toThrow("array 'x' of a.npz is");
  });
  test('one-hot classes', () => {
    const array = Tensor.from('float32', [2, 3], Float32Array.of(0, 1, 0, 1, 0, 0));
    expect(() => bindData(of('target', array), [target], { labels: ['target'] })).toThrow(
      /its rows are one-hot, and the loss takes the number of the class: give the position of the one, or use/,
    );
  });
  test('one-hot classes that a loss of numbers takes are noted, as labels alone', () => {
    const array = Tensor.from('float32', [2, 3], Float32Array.of(0, 1, 0, 1, 0, 0));
    const numbers: InputSpec = { name: 'target', dtype: 'float32', shape: ['N', 3] };
    const note = expect.stringContaining(
      "Array 'target' holds one-hot classes, which the loss takes for numbers",
    );
    const notes = (options: BindOptions, input = numbers) =>
      bindData(of('target', array), [input], options).notes;
    expect(notes({ labels: ['target'] })).toContainEqual(note);
    expect(notes({})).not.toContainEqual(note);
    expect(notes({ labels: ['target'] }, { ...numbers, range: { least: 0, most: 1 } })).not.toContainEqual(
      note,
    );
  });
  test('numbers that are not classes, and missing ones', () => {
    const bind = (x: number) => () =>
      bindData(of('target', Tensor.from('float32', [1], Float32Array.of(x))), [target], {
        labels: ['target'],
      });
    expect(bind(1.5)).toThrow(
      /holds 1\.5, which int64 cannot\. The loss takes class numbers; --loss mse, l1 and huber learn/,
    );
    expect(bind(Number.NaN)).toThrow(/holds NaN, .*leave out samples without a label/);
  });
});
