/** The entry points of the package: what each promises, and that its types stand on their own. */
import { execFileSync } from 'node:child_process';
import {
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { expect, it } from 'vitest';

const ROOT = join(import.meta.dirname, '..');
const DOORS = ['index', 'ir', 'extend'] as const;

/** The names that the module exports, types too. */
function namesOf(door: string): string[] {
  const text = readFileSync(join(ROOT, `src/${door}.ts`), 'utf8');
  const lists = [...text.matchAll(/^export (?:type )?\{([^}]*)\}/gm)].flatMap(([, list]) =>
    list!.split(',').map(item =>
      item
        .trim()
        .replace(/^type /, '')
        .replace(/^.* as /, ''),
    ),
  );
  const others = [...text.matchAll(/^export (?:\* as|async function|function|const|type|class) (\w+)/gm)].map(
    ([, name]) => name!,
  );
  return [...lists.filter(Boolean), ...others].sort();
}

/** What changes here changes a promise: see the page on stability, and say it in the changelog. */
it.each(DOORS)('%s exports what it promises', async door => {
  const module: object = await import(`../src/${door}.ts`);
  expect(namesOf(door)).toEqual(expect.arrayContaining(Object.keys(module)));
  expect(namesOf(door)).toMatchSnapshot();
});

it('package.json has a door for each, with types', () => {
  const { exports } = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8'));
  const at = (door: string) => ({ types: `./dist/src/${door}.d.ts`, default: `./dist/node/${door}.js` });
  expect(exports).toEqual({
    '.': at('index'),
    './ir': at('ir'),
    './extend': at('extend'),
    './web': { types: './dist/src/web/index.d.ts', default: './dist/web/index.js' },
    './internal': at('internal'),
    './config.schema.json': './docs/reference/config.schema.json',
    './events.schema.json': './docs/reference/events.schema.json',
    './package.json': './package.json',
  });
});

it('the built doors share their modules with the command, and export what the sources do', async () => {
  const folder = join(ROOT, 'dist/node');
  const text = (name: string) => readFileSync(join(folder, name), 'utf8');
  const scripts = readdirSync(folder).filter(name => name.endsWith('.js'));
  const modules = scripts.flatMap(name => text(name).match(/^\/\/ dist\/.*\.js$/gm) ?? []);
  expect(modules.length).toBeGreaterThan(200);
  expect(modules).toEqual([...new Set(modules)]);
  for (const door of [...DOORS, 'internal']) {
    const [built, source] = await Promise.all([
      import(/* @vite-ignore */ pathToFileURL(join(folder, `${door}.js`)).href),
      import(`../src/${door}.ts`),
    ]);
    expect(Object.keys(built).sort()).toEqual(Object.keys(source).sort());
  }
});

it('the types of every door compile where libraries are checked', { timeout: 120_000 }, () => {
  const folder = mkdtempSync(join(tmpdir(), 'agd-consumer-'));
  mkdirSync(join(folder, 'node_modules'));
  symlinkSync(ROOT, join(folder, 'node_modules/agd-onnx'), 'dir');
  symlinkSync(join(ROOT, 'node_modules/@types'), join(folder, 'node_modules/@types'), 'dir');
  const compilerOptions = {
    target: 'ES2023',
    lib: ['ES2023'],
    module: 'NodeNext',
    types: ['node'],
    strict: true,
    skipLibCheck: false,
    noEmit: true,
  };
  writeFileSync(join(folder, 'tsconfig.json'), JSON.stringify({ compilerOptions, files: ['consumer.ts'] }));
  writeFileSync(join(folder, 'package.json'), '{ "type": "module" }');
  writeFileSync(
    join(folder, 'consumer.ts'),
    `import { defineConfig, type InjectOptions, inject, loadModel, type Model } from 'agd-onnx';
import { defineLoss, defineOptimizer, lrOption, option, types, weightDecayOption } from 'agd-onnx/extend';
import * as internal from 'agd-onnx/internal';
import { Graph, Node, Value } from 'agd-onnx/ir';

const half = defineLoss('half', { target: 'values', terms: (y, t) => ({ loss: y.sub(t).square().mul(0.5) }) });
const plain = defineOptimizer({
  name: 'plain',
  options: { lr: lrOption(0.1), weightDecay: weightDecayOption(), gain: option(types.positive, 1, 'Gain') },
  states: () => [],
  scalars: (_step, lr, { gain }: { lr: number; weightDecay: number; gain: number }) => ({ lr: lr.mul(gain) }),
  update: (_w, g, _state, { lr }) => ({ step: g.mul(lr!), state: {} }),
});
const options: InjectOptions = { loss: half(), optimizer: plain({ gain: 2 }) };
export default defineConfig({ loss: 'mse', optimizer: { name: 'agd', delta: 1e-6 }, epochs: 3 });
export const model: Promise<{ model: Model }> = loadModel('x.onnx').then(m => inject(m, options));
export const graph = [new Graph('g'), new Node('Relu', [], [new Value('y')]), internal.Session];
`,
  );
  try {
    const tsc = join(ROOT, 'node_modules/typescript/bin/tsc');
    execFileSync(process.execPath, [tsc, '-p', folder], { encoding: 'utf8' });
  } catch (error) {
    expect((error as { stdout: string }).stdout).toBe('');
    throw error;
  } finally {
    rmSync(folder, { recursive: true });
  }
});
