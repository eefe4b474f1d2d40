/** What is published: everything that is needed, nothing else, and how large it is. */
import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';

const ROOT = join(import.meta.dirname, '..');
const read = (path: string) => readFileSync(join(ROOT, path), 'utf8');
const manifest = JSON.parse(read('package.json'));

const { stdout } = spawnSync('npm', ['pack', '--dry-run', '--json', '--ignore-scripts'], {
  cwd: ROOT,
  encoding: 'utf8',
  shell: process.platform === 'win32',
});
const [packed] = JSON.parse(stdout) as [{ size: number; unpackedSize: number; files: { path: string }[] }];
const paths = packed.files.map(file => file.path);

describe('the package', () => {
  it('has what its manifest names', () => {
    const named = Object.values(manifest.exports)
      .flatMap(entry => (typeof entry === 'string' ? [entry] : Object.values(entry as object)))
      .concat(Object.values(manifest.bin));
    expect(named.map(path => path.replace(/^\.\//, '')).filter(path => !paths.includes(path))).toEqual([]);
  });

  it('has documentation, changes and licence', () => {
    for (const path of ['README.md', 'CHANGELOG.md', 'LICENSE']) expect(paths).toContain(path);
    expect(paths.some(path => path.startsWith('docs/'))).toBe(true);
  });

  it('has neither tests, sources, nor maps to sources that are not in it', () => {
    expect(paths.filter(path => /^(dist\/)?(test|src|bench|compare)\/.*(?<!\.d)\.ts$/.test(path))).toEqual(
      [],
    );
    expect(paths.filter(path => /^dist\/(test|cli)|\.map$/.test(path))).toEqual([]);
    expect(paths.filter(path => path.startsWith('dist/src') && !path.endsWith('.d.ts'))).toEqual([]);
    const modules = paths.filter(path => path.endsWith('.js'));
    expect(modules.filter(path => read(path).includes('sourceMappingURL='))).toEqual([]);
  });

  it('stays small', () => {
    expect(packed.size).toBeLessThan(LIMIT.packed);
    expect(packed.unpackedSize).toBeLessThan(LIMIT.unpacked);
  });

  it('is described by the first section of the changelog', () => {
    expect(/^## (\d+\.\d+\.\d+)/m.exec(read('CHANGELOG.md'))?.[1]).toBe(manifest.version);
    expect(JSON.parse(read('package-lock.json')).version).toBe(manifest.version);
  });
});

/**
 * Bytes. Most of it are the digits that `demo` trains on, and the library, which is there a second time for browsers; raise
 * these limits only for something that is worth it.
 */
const LIMIT = { packed: 4_000_000, unpacked: 8_400_000 };
