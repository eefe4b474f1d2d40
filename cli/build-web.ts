/** Builds sources for browsers, `agd-onnx/web` first of all: with what browsers have in place of Node's modules. */
import { rmSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { type InputOptions, type OutputChunk, type OutputOptions, rolldown } from 'rolldown';
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
  'v8',
  'worker_threads',
  'zlib',
];
const STAND_INS = {
  'node:fs': source('node/fs'),
  'node:fs/promises': source('node/fs-promises'),
  'node:path': 'pathe',
  'node:util': source('node/util'),
  'onnxruntime-node': source('runtime'),
  jiti: source('node/small'),
  koffi: source('node/small'),
  long: source('long'),
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
  /\/dist\/src\/(passes\/(options|stages)\/[\w-]+|(ops\/optimizers|runtime\/metrics)\/[\w-]+)\.js$/;

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

const GLOBALS = ['process', 'setImmediate'];

const options = (input: InputOptions['input']) =>
  ({
    input,
    platform: 'browser',
    preserveEntrySignatures: 'allow-extension',
    resolve: { alias: STAND_INS },
    transform: {
      inject: Object.fromEntries(GLOBALS.map(name => [name, [source('node/globals'), name]])),
      define: { 'import.meta.url': '"file:///agd-onnx/"' },
      target: 'es2023',
    },
    plugins: [
      {
        name: 'stand-ins',
        resolveId: id => {
          const [, name] = /\/(probe-apart|inflate)\.js$/.exec(id) ?? [];
          return name && source(name);
        },
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
  }) satisfies InputOptions;

/** Writes an entry, a compiled module, and what it loads into a folder, in place of what is there. */
async function write(input: Record<string, string>, dir: string, output: OutputOptions): Promise<void> {
  rmSync(dir, { recursive: true, force: true });
  const built = await rolldown(options(input));
  await built.write({ dir, minify: true, ...output });
  await built.close();
}

/** One script and the parts that it loads when they are needed. */
export const bundle = (entry: string, dir: string): Promise<void> => write({ index: entry }, dir, {});

const FILES = ['files', 'loadModel', 'saveModel', 'setRuntime'];
/** What pages use, in the order of what they load at first. */
const PAGES = {
  errors: ['AgdError'],
  files: FILES,
  inject: ['inject', ...FILES],
  trainer: ['Trainer', ...FILES],
  fit: ['fit', ...FILES],
};

/** Modules by path, with those that each imports when it is loaded, those with an `import()`, and what these load. */
type Imports = { imports: Map<string, readonly string[]>; later: Set<string>; onDemand: Set<string> };

/** The modules that a page with these exports loads at first; `found` receives the imports of all. */
async function firstLoad(names: readonly string[], found: Imports): Promise<Set<string>> {
  const page = options('page');
  const built = await rolldown({
    ...page,
    plugins: [
      ...page.plugins,
      {
        name: 'page',
        resolveId: id => (id === 'page' ? id : undefined),
        load: id =>
          id === 'page' ? `export { ${names} } from ${JSON.stringify(source('index'))}` : undefined,
        buildEnd() {
          for (const id of this.getModuleIds()) {
            const { importedIds, dynamicallyImportedIds } = this.getModuleInfo(id)!;
            found.imports.set(id, importedIds);
            if (dynamicallyImportedIds.length) found.later.add(id);
            for (const other of dynamicallyImportedIds) found.onDemand.add(other);
          }
        },
      },
    ],
  });
  const { output } = await built.generate();
  await built.close();
  const chunks = new Map(output.map(chunk => [chunk.fileName, chunk as OutputChunk]));
  const seen = new Set([output[0].fileName]);
  for (const file of seen) for (const other of chunks.get(file)!.imports) seen.add(other);
  return new Set([...seen].flatMap(file => chunks.get(file)!.moduleIds));
}

/**
 * The pages in whose file a module is, for those that are joined. Bundlers make a script of each set of modules that the same
 * parts of a page share, and many small scripts compress badly; a file of ours stays whole. So modules that pages load at
 * first are joined with those that the same pages need. A module that leads to an `import()` stays apart: as part of a
 * larger file, it would make bundlers keep what it loads. A package that is loaded by one stays apart too.
 */
async function joinedModules(): Promise<Map<string, string>> {
  const found: Imports = { imports: new Map(), later: new Set(), onDemand: new Set() };
  const pages = Object.entries(PAGES);
  const loads = await Promise.all(pages.map(([, names]) => firstLoad(names, found)));
  const apart = found.later;
  for (let before = -1; before < apart.size; ) {
    before = apart.size;
    for (const [id, imported] of found.imports) if (imported.some(other => apart.has(other))) apart.add(id);
  }
  const joined = new Map<string, string>();
  // With all that it imports, used or not, so that no file imports one of a later page.
  const add = (id: string, page: string): void => {
    const imported = found.imports.get(id) ?? [];
    if (joined.has(id) || apart.has(id)) return;
    // With imports of its own, it could import a file that imports it.
    if (found.onDemand.has(id) && !imported.length) return;
    joined.set(id, page);
    for (const other of imported) add(other, page);
  };
  for (const [i, [page]] of pages.entries()) for (const id of loads[i]!) add(id, page);
  return joined;
}

/** A module's path below ours; npm leaves folders of the name node_modules out of a package. */
const pathOf = (id: string) =>
  id
    .replace(`${ROOT}dist/src/`, '')
    .replace(ROOT, '')
    .replaceAll('node_modules', 'packages')
    .replace(/\.\w+$/, '');

/**
 * A file for each module, except for those that are joined, so that a page's bundler takes those that the page uses, and splits
 * them as it needs.
 */
async function buildLibrary(dir: string): Promise<void> {
  const joined = await joinedModules();
  const index = source('index');
  const fileOf = (id: string) => {
    if (id === index || id.startsWith('\0')) return null;
    const page = joined.get(id);
    return page ? `first/${page}` : pathOf(id);
  };
  await write({ index }, dir, {
    chunkFileNames: '[name].js',
    codeSplitting: { includeDependenciesRecursively: false, groups: [{ name: fileOf }] },
  });
}

if (process.argv[1] === fileURLToPath(import.meta.url))
  await buildLibrary(fileURLToPath(new URL('../web', import.meta.url)));
