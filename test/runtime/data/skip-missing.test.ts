import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { Tensor } from '../../../src/graph/tensor.js';
import { writeNpz } from '../../../src/runtime/data/npz.js';
import { openData } from '../../../src/runtime/data/open.js';

let folder: string;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'agd-onnx-test-'));
});
afterEach(() => rm(folder, { recursive: true, force: true }));

it('rows of arrays that are not finite are left out where that is asked for', async () => {
  const path = join(folder, 'a.npz');
  const x = Float32Array.from({ length: 12 }, (_, i) => i);
  x[7] = Number.NaN;
  const y = Float32Array.from([1, 2, 3, Infinity]);
  const edges = Tensor.from('float32', [2], Float32Array.from([5, 6]));
  await writeNpz(
    path,
    new Map([
      ['x', Tensor.from('float32', [4, 3], x)],
      ['y', Tensor.from('float32', [4], y)],
      ['edges', edges],
    ]),
  );
  const inputs = [
    { name: 'x', dtype: 'float32', shape: ['n', 3] },
    { name: 'y', dtype: 'float32', shape: ['n'] },
  ] as const;
  const open = async (...skipMissing: string[]) => (await openData(path, { skipMissing })).bind(inputs);
  expect((await open()).length).toBe(4);
  const some = await open('x');
  expect(some.length).toBe(3);
  expect(some.notes[0]).toBe(`Left out 1 of 4 rows of ${path}, in which x is NaN or infinite.`);
  const both = await open('x', 'y');
  const { inputs: fed } = await both.take(Uint32Array.from([0, 1]));
  expect([fed.x!.numbers(), fed.y!.numbers()]).toEqual([
    [0, 1, 2, 3, 4, 5],
    [1, 2],
  ]);
  expect((await (await openData(path, { skipMissing: ['x'], valSplit: 0.4 })).bind(inputs)).length).toBe(2);
  await expect(open('z')).rejects.toThrow("has no array of rows 'z', only 'x', 'y', 'edges'");
});
