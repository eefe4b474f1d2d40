/** Bundles sources for browsers, `agd-onnx/web` first of all: with what browsers have in place of Node's modules. */
import { rmSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';

const source = (path: string) => fileURLToPath(new URL(`../src/web/${path}.js`, import.meta.url));

const small = [
  'buffer',
  'child_process',
  'crypto',
  'module',
  'os',
  'stream/promises',
  'url',
  'util',
  'v8',
  'worker_threads',
  'zlib',
];
/** Writes `<name>.js` and its chunks for each entry, a compiled module, in place of what is in the folder. */
export async function bundle(entryPoints: Record<string, string>, outdir: string): Promise<void> {
  rmSync(outdir, { recursive: true, force: true });
  await build({
    entryPoints,
    outdir,
    bundle: true,
    splitting: true,
    format: 'esm',
    target: 'es2023',
    platform: 'browser',
    minify: true,
    legalComments: 'linked',
    inject: [source('node/globals')],
    define: { 'import.meta.url': '"file:///agd-onnx/"' },
    alias: {
      'node:fs': source('node/fs'),
      'node:fs/promises': source('node/fs-promises'),
      'node:path': 'pathe',
      'onnxruntime-node': source('runtime'),
      jiti: source('node/small'),
      koffi: source('node/small'),
      sharp: source('images'),
      ...Object.fromEntries(small.map(name => [`node:${name}`, source('node/small')])),
    },
    plugins: [
      {
        name: 'stand-ins',
        setup({ onResolve }) {
          onResolve({ filter: /\/probe-apart\.js$/ }, () => ({ path: source('probe-apart') }));
        },
      },
    ],
    logLevel: 'warning',
  });
}

if (process.argv[1] === fileURLToPath(import.meta.url))
  await bundle({ index: source('index') }, fileURLToPath(new URL('../web', import.meta.url)));
