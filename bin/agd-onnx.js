#!/usr/bin/env node
// A package brings its build along; a fresh clone makes it on first use.
import { existsSync } from 'node:fs';

const main = new URL('../dist/node/main.js', import.meta.url);
if (!existsSync(main)) await build();
await import(main);

async function build() {
  const { execFileSync } = await import('node:child_process');
  const { fileURLToPath } = await import('node:url');
  const root = fileURLToPath(new URL('..', import.meta.url));
  const tsc = fileURLToPath(new URL('../node_modules/typescript/bin/tsc', import.meta.url));
  for (const args of [[tsc, '-p', 'tsconfig.build.json'], ['dist/cli/build-node.js']])
    execFileSync(process.execPath, args, { cwd: root, stdio: ['ignore', 2, 2] });
}
