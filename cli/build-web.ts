/** Builds sources for browsers, `agd-onnx/web` first of all: with what browsers have in place of Node's modules. */
import { rmSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { type OutputOptions, rolldown } from 'rolldown';
import { parseSync, Visitor } from 'rolldown/utils';

const ROOT = fileURLToPath(new URL('../..', import.meta.url));
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
const STAND_INS = {
  'node:fs': source('node/fs'),
  'node:fs/promises': source('node/fs-promises'),
  'node:path': 'pathe',
  'onnxruntime-node': source('runtime'),
  jiti: source('node/small'),
  koffi: source('node/small'),
  sharp: source('images'),
  ...Object.fromEntries(small.map(name => [`node:${name}`, source('node/small')])),
};
/** What the tables of options and passes hold for the command line and the documentation alone. */
export const FOR_COMMANDS: readonly string[] = [
  'alias',
  'commands',
  'does',
  'expert',
  'group',
  'help',
  'parse',
  'parseAll',
  'shown',
];
const TABLES =
  /\/dist\/src\/(passes\/(options\/[\w-]+|pipeline)|(ops\/optimizers|runtime\/metrics)\/[\w-]+)\.js$/;

/** The code without properties of these names in its objects, and without the help text of `option(type, value, help)`. */
function withoutTexts(code: string, names: readonly string[]): string {
  let rest = '';
  let at = 0;
  new Visitor({
    CallExpression({ callee, arguments: [, value, help] }) {
      if (callee.type !== 'Identifier' || callee.name !== 'option' || !help) return;
      rest += code.slice(at, value!.end);
      at = help.end;
    },
    ObjectExpression({ properties }) {
      for (const property of properties) {
        const { type, start, end } = property;
        if (type !== 'Property' || property.key.type !== 'Identifier' || start < at) continue;
        if (!names.includes(property.key.name)) continue;
        rest += code.slice(at, start);
        at = end + /^\s*,?/.exec(code.slice(end))![0].length;
      }
    },
  }).visit(parseSync('table.js', code).program);
  return rest + code.slice(at);
}

const GLOBALS = ['Buffer', 'process', 'setImmediate'];

/** Writes an entry, a compiled module, and what it loads into a folder, in place of what is there. */
async function write(input: Record<string, string>, dir: string, output: OutputOptions): Promise<void> {
  rmSync(dir, { recursive: true, force: true });
  const built = await rolldown({
    input,
    platform: 'browser',
    resolve: { alias: STAND_INS },
    transform: {
      inject: Object.fromEntries(GLOBALS.map(name => [name, [source('node/globals'), name]])),
      define: { 'import.meta.url': '"file:///agd-onnx/"' },
      target: 'es2023',
    },
    plugins: [
      {
        name: 'stand-ins',
        resolveId: id => (id.endsWith('/probe-apart.js') ? source('probe-apart') : undefined),
      },
      {
        name: 'tables',
        transform: (code, id) => (TABLES.test(id) ? withoutTexts(code, FOR_COMMANDS) : null),
      },
    ],
    // A busy machine is no mistake in what is bundled.
    checks: { bundlerTimings: false },
    onLog(_, { message }) {
      throw new Error(message);
    },
  });
  await built.write({ dir, minify: true, ...output });
  await built.close();
}

/** One script and the parts that it loads when they are needed. */
export const bundle = (entry: string, dir: string): Promise<void> => write({ index: entry }, dir, {});

/** A module for each of ours, so that a page's bundler takes those that the page uses, and splits them as it needs. */
const buildLibrary = (dir: string): Promise<void> =>
  write({ index: source('index') }, dir, {
    preserveModules: true,
    preserveModulesRoot: `${ROOT}dist/src`,
    // npm leaves folders of the name node_modules out of a package.
    entryFileNames: ({ name }) => `${name.replaceAll('node_modules', 'packages')}.js`,
  });

if (process.argv[1] === fileURLToPath(import.meta.url))
  await buildLibrary(fileURLToPath(new URL('../web', import.meta.url)));
