import { mkdtemp, open, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { getHeapStatistics } from 'node:v8';
import { expect, it } from 'vitest';
import { nameLarge } from '../../cli/supervise.js';

it('a model of more than a thousandth of the memory of a process is large, in any argument but the output', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'supervise-'));
  const most = Math.floor(getHeapStatistics().heap_size_limit / 1000);
  const [small, large] = await Promise.all(
    [most, most + 1].map(async size => {
      const file = await open(join(folder, `${size}.onnx`), 'w');
      await file.truncate(size);
      await file.close();
      return join(folder, `${size}.onnx`);
    }),
  );
  expect(await nameLarge(['inspect', small!])).toBe(false);
  expect(await nameLarge(['inject', small!, '--lora', large!])).toBe(true);
  expect(await nameLarge(['inject', small!, '-o', large!])).toBe(false);
  expect(await nameLarge(['inject', small!, '--out', large!])).toBe(false);
  expect(await nameLarge(['inspect', join(folder, 'missing.onnx')])).toBe(false);
  await rm(folder, { recursive: true });
});
