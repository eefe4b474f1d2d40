/** The bundlers that pages are made with take `agd-onnx/web` as it is: nothing of Node is left in it, and it is small. */
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { build as esbuild } from 'esbuild';
import { build as vite } from 'vite';
import { describe, expect, it } from 'vitest';
import webpack from 'webpack';
import { FOR_COMMANDS } from '../../cli/build-web.js';
import { OPTIMIZERS } from '../../src/ops/optimizers/index.js';
import { OPTIONS } from '../../src/passes/options.js';

const ROOT = join(import.meta.dirname, '../..');

const BUNDLERS: Record<string, (folder: string) => Promise<unknown>> = {
  esbuild: folder =>
    esbuild({
      ...{ entryPoints: [join(folder, 'page.js')], outdir: join(folder, 'dist'), bundle: true, minify: true },
      ...{ format: 'esm', logLevel: 'silent' },
    }),
  vite: folder => vite({ root: folder, logLevel: 'silent' }),
  webpack: folder =>
    new Promise((resolve, reject) =>
      webpack(
        // Minifying takes webpack a minute.
        {
          ...{ context: folder, entry: './page.js', output: { path: join(folder, 'dist') } },
          ...{ mode: 'production', optimization: { minimize: false } },
        },
        (error, stats) =>
          error || stats?.hasErrors()
            ? reject(error ?? new Error(stats!.toString('errors-only')))
            : resolve(stats),
      ),
    ),
};

/** The scripts of a page that uses these exports, by name. */
async function scriptsOf(bundler: string, ...names: string[]): Promise<Map<string, string>> {
  const folder = mkdtempSync(join(tmpdir(), 'agd-onnx-page-'));
  mkdirSync(join(folder, 'node_modules'));
  symlinkSync(ROOT, join(folder, 'node_modules/agd-onnx'), 'dir');
  writeFileSync(join(folder, 'package.json'), '{ "type": "module" }');
  writeFileSync(join(folder, 'index.html'), '<script type="module" src="page.js"></script>');
  writeFileSync(
    join(folder, 'page.js'),
    `import { ${names} } from 'agd-onnx/web';\nconsole.log(${names});\n`,
  );
  await BUNDLERS[bundler]!(folder);
  const files = readdirSync(join(folder, 'dist'), { recursive: true, encoding: 'utf8' });
  const scripts = files.filter(file => /\.m?js$/.test(file));
  return new Map(scripts.map(file => [file, readFileSync(join(folder, 'dist', file), 'utf8')]));
}

/** The scripts that the first one loads at once, itself among them, and their gzipped bytes. */
function first(scripts: ReadonlyMap<string, string>): { files: string[]; bytes: number } {
  const start = [...scripts.keys()].find(file => /(^|\/)(page|index-[\w-]+|main)\.js$/.test(file))!;
  const seen = new Set<string>();
  const visit = (file: string): number => {
    if (seen.has(file)) return 0;
    seen.add(file);
    const text = scripts.get(file)!;
    const imported = [...text.matchAll(/(?:from|import)\s*["']\.\/([^"']+)["']/g)].map(([, name]) =>
      join(file, '..', name!),
    );
    return gzipSync(text).length + imported.reduce((n, name) => n + visit(name), 0);
  };
  const bytes = visit(start);
  return { files: [...seen], bytes };
}

it.each(Object.keys(BUNDLERS))('%s', { timeout: 120_000 }, async name => {
  const scripts = await scriptsOf(name, 'files', 'fit', 'inject', 'saveModel', 'setRuntime');
  const texts = [...scripts.values()];
  expect(texts.filter(text => /["']node:\w+["']|require\(/.test(text))).toEqual([]);
});

it.each(Object.keys(BUNDLERS))('%s leaves out what a page does not use', { timeout: 120_000 }, async name => {
  const scripts = await scriptsOf(name, 'AgdError');
  const bytes = [...scripts.values()].reduce((n, text) => n + text.length, 0);
  expect(bytes).toBeLessThan(40_000);
});

/** What a page loads at first with Vite, in gzipped bytes beside the runtime, and in how many scripts. */
describe('the first load', () => {
  it.each([
    ['adapt', 80_300, 1],
    // 180 bytes join small matrices by rows: up to a third of the nodes less, and a twelfth of the time.
    ['inject', 137_800, 4],
    ['Trainer', 166_700, 7],
    ['fit', 202_600, 13],
  ])('of a page with %s', { timeout: 120_000 }, async (name, limit, count) => {
    const scripts = await scriptsOf('vite', name, 'files', 'loadModel', 'saveModel', 'setRuntime');
    const { files, bytes } = first(scripts);
    expect(bytes).toBeLessThan(limit);
    expect(files.length).toBeLessThanOrEqual(count);
    // The checks of a recipe come with the first one.
    expect(files.filter(file => scripts.get(file)!.includes('the widths of the columns'))).toEqual([]);
  });
});

it('leaves out no option because of its name', () => {
  const names = [OPTIONS, ...Object.values(OPTIMIZERS).map(o => o.options)].flatMap(o => Object.keys(o));
  expect(names).toContain('lr');
  expect(names.filter(name => FOR_COMMANDS.includes(name))).toEqual([]);
});
