import { mkdtemp, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { loadArrays } from '../../../src/runtime/data/load.js';
import * as fixtures from './fixtures.js';

test.each([
  ['a.npz', fixtures.storedNpz, ['x', 'y']],
  ['no-extension', fixtures.storedNpz, ['x', 'y']],
  ['b.npy', fixtures.npyV2, ['b']],
  ['c.safetensors', fixtures.safetensors, ['scalar', 'ids', 'w', 'h', 'half', 'bytes', 'e4m3', 'mask']],
  ['renamed.bin', fixtures.safetensors, ['scalar', 'ids', 'w', 'h', 'half', 'bytes', 'e4m3', 'mask']],
])('%s', async (name, base64, arrays) => {
  const path = join(await mkdtemp(join(tmpdir(), 'load-')), name);
  await writeFile(path, Buffer.from(base64, 'base64'));
  expect(new Set((await loadArrays(path)).keys())).toEqual(new Set(arrays));
});

test.each([
  ['data.csv', /is not a \.npz, \.npy or \.safetensors file/],
  ['data.npz', /is not a complete zip archive/],
  ['data.safetensors', /claims a header/],
])('text in %s', async (name, message) => {
  const path = join(await mkdtemp(join(tmpdir(), 'load-')), name);
  await writeFile(path, 'x,y\n1,2\n3,4\n');
  await expect(loadArrays(path)).rejects.toThrow(message);
});
