import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, describe, expect, it, vi } from 'vitest';
import { withLargePages } from '../../src/runtime/large-pages.js';
import { agdOnnx, workplace } from '../cli/run.js';

const ONE = 'glibc.malloc.hugetlb=1';

afterEach(() => {
  vi.restoreAllMocks();
});

describe.runIf(process.platform === 'linux')('on Linux', () => {
  it.each([
    [undefined, ONE],
    ['glibc.malloc.check=1', `glibc.malloc.check=1:${ONE}`],
    ['glibc.malloc.hugetlb=0', 'glibc.malloc.hugetlb=0'],
  ])('beside the setting %s', (given, expected) => {
    expect(withLargePages({ A: 'b', GLIBC_TUNABLES: given })).toEqual({ A: 'b', GLIBC_TUNABLES: expected });
  });

  it('in the process that trains, and not in this one', async () => {
    const folder = await workplace();
    const tell = `import { writeFileSync } from 'node:fs';
writeFileSync('tunables-' + (process.send ? 'child' : 'parent'), process.env.GLIBC_TUNABLES ?? 'none');
`;
    writeFileSync(join(folder, 'tell.mjs'), tell);
    const given = ['train', 'model.onnx', '--loss', 'cross-entropy', '--data', 'train.npz', '--epochs', '1'];
    expect(agdOnnx(folder, ...given, '--extend', 'tell.mjs')).toMatchObject({ code: 0, err: '' });
    const told = (of: string) => readFileSync(join(folder, `tunables-${of}`), 'utf8');
    expect(told('child')).toContain(ONE);
    expect(told('parent')).toBe(process.env.GLIBC_TUNABLES ?? 'none');
  });
});

it('on other systems, nothing', () => {
  vi.spyOn(process, 'platform', 'get').mockReturnValue('darwin');
  expect(withLargePages({ A: 'b' })).toEqual({ A: 'b' });
});
