/** The bundlers that pages are made with take `agd-onnx/web` as it is: nothing of Node is left in it, and it is small. */
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { build as esbuild } from 'esbuild';
import { build as vite } from 'vite';
import { expect, it } from 'vitest';
import webpack from 'webpack';

const ROOT = join(import.meta.dirname, '../..');

/** What a page loads at first: the library is to leave room beside the runtime. */
const LIMIT = 380_000;

const folder = mkdtempSync(join(tmpdir(), 'agd-onnx-page-'));
mkdirSync(join(folder, 'node_modules'));
symlinkSync(ROOT, join(folder, 'node_modules/agd-onnx'), 'dir');
writeFileSync(join(folder, 'package.json'), '{ "type": "module" }');
writeFileSync(join(folder, 'index.html'), '<script type="module" src="page.js"></script>');
writeFileSync(
  join(folder, 'page.js'),
  "import { files, fit, inject, saveModel, setRuntime } from 'agd-onnx/web';\nconsole.log(files, fit, inject, saveModel, setRuntime);\n",
);

const BUNDLERS: Record<string, (outdir: string) => Promise<unknown>> = {
  esbuild: outdir =>
    esbuild({
      ...{ entryPoints: [join(folder, 'page.js')], outdir, bundle: true, splitting: true, minify: true },
      ...{ format: 'esm', logLevel: 'silent' },
    }),
  vite: outDir => vite({ root: folder, logLevel: 'silent', build: { outDir, emptyOutDir: true } }),
  webpack: path =>
    new Promise((resolve, reject) =>
      webpack(
        {
          context: folder,
          entry: './page.js',
          output: { path },
          mode: 'production',
          optimization: { minimize: false },
        },
        (error, stats) =>
          error || stats?.hasErrors()
            ? reject(error ?? new Error(stats!.toString('errors-only')))
            : resolve(stats),
      ),
    ),
};

it.each(Object.keys(BUNDLERS))('%s', { timeout: 120_000 }, async name => {
  const out = join(folder, name);
  await BUNDLERS[name]!(out);
  const scripts = readdirSync(out, { recursive: true, encoding: 'utf8' }).filter(file =>
    /\.m?js$/.test(file),
  );
  const texts = scripts.map(file => readFileSync(join(out, file), 'utf8'));
  expect(texts.filter(text => /["']node:\w+["']|require\(/.test(text))).toEqual([]);
  // Minifying takes webpack a minute: it shows only that it understands the package.
  if (name !== 'webpack') expect(first(out, scripts)).toBeLessThan(LIMIT);
});

/** The gzipped bytes of the scripts that the first one loads at once, itself among them. */
function first(out: string, scripts: readonly string[]): number {
  const start = scripts.find(file => /(^|\/)(page|index-[\w-]+|main)\.js$/.test(file))!;
  const seen = new Set<string>();
  const visit = (file: string): number => {
    if (seen.has(file)) return 0;
    seen.add(file);
    const text = readFileSync(join(out, file), 'utf8');
    const imported = [...text.matchAll(/(?:from|import)\s*["']\.\/([^"']+)["']/g)].map(([, name]) =>
      join(file, '..', name!),
    );
    return gzipSync(text).length + imported.reduce((n, name) => n + visit(name), 0);
  };
  return visit(start);
}
