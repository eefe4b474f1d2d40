/**
 * Joins the compiled modules for Node into few: a command loads some twenty files in place of hundreds, and the library's
 * entry points share their parts with the command, so that there is one registry of what extensions define.
 */
import { rmSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { type CodeSplittingGroup, type RolldownOutput, rolldown } from 'rolldown';

const compiled = (path: string) => fileURLToPath(new URL(`../${path}.js`, import.meta.url));

/** What the package exports, and what runs as a process or thread, which lies beside what starts it. */
const ENTRIES = [
  ...['src/index', 'src/ir', 'src/extend', 'src/internal', 'cli/main', 'cli/work'],
  ...['src/runtime/train/train-process', 'src/runtime/data/pool-thread', 'src/runtime/devices/probe'],
  'src/runtime/types-process',
];

/** What a kind of process loads, by the modules that it starts from. Modules that the same kinds load become one file. */
const LOADED = [
  ['cli/supervise', 'cli/types', 'cli/failure'],
  ['cli/program', 'cli/commands/inject'],
  ['src/command/injection'],
  ['src/runtime/types-process', 'src/runtime/session'],
  ['src/runtime/data/pool-thread'],
  ['src/runtime/train/train-process'],
];

/** What stays free of modules that only others load. Modules of these alone are split by rolldown's own rule. */
const APART = [
  ['cli/main'],
  ['src/command/training'],
  ['src/passes/on-demand', 'src/ops/on-demand'],
  ['src/ir'],
  ['src/extend'],
];

const dir = fileURLToPath(new URL('../node', import.meta.url));
rmSync(dir, { recursive: true, force: true });
const built = await rolldown({
  input: Object.fromEntries(ENTRIES.map(path => [path.replace(/.*\//, ''), compiled(path)])),
  platform: 'node',
  external: id => !/^[./]|^[A-Z]:/.test(id),
  // A busy machine is no mistake in what is bundled, nor is a command's module that another one imports.
  checks: { bundlerTimings: false, ineffectiveDynamicImport: false },
  // What groups without all that they import ask for; entries are in no group.
  preserveEntrySignatures: 'allow-extension',
  onLog(_, { message }) {
    throw new Error(message);
  },
});
const names = { entryFileNames: '[name].js', chunkFileNames: '[name].js' };
await built.write({
  dir,
  ...names,
  codeSplitting: {
    includeDependenciesRecursively: false,
    groups: groupsOf((await built.generate(names)).output),
  },
});
await built.close();

/**
 * Groups of modules by who loads them, as the files of rolldown's own rule say. What a group imports is loaded by all that load
 * the group, so that no two import each other.
 */
function groupsOf(output: RolldownOutput['output']): CodeSplittingGroup[] {
  const files = new Map(output.flatMap(file => (file.type === 'chunk' ? [[file.fileName, file]] : [])));
  const loaders = new Map<string, string>();
  [...LOADED, ...APART].forEach((roots, loader) => {
    const starts = [...files.values()].filter(({ facadeModuleId }) =>
      roots.some(root => facadeModuleId === compiled(root)),
    );
    if (starts.length < roots.length) throw new Error(`One of ${roots.join()} is loaded by nothing.`);
    const loaded = new Set(starts);
    // A set is walked on to what is added meanwhile.
    for (const { imports } of loaded)
      for (const name of imports) if (files.has(name)) loaded.add(files.get(name)!);
    for (const { moduleIds } of loaded)
      for (const id of moduleIds) loaders.set(id, `${loaders.get(id) ?? ''} ${loader}`);
  });
  for (const entry of ENTRIES) loaders.delete(compiled(entry));
  return [...new Set(loaders.values())]
    .filter(some => Number.parseInt(some, 10) < LOADED.length)
    .map(some => ({ name: 'part', test: id => loaders.get(id) === some }));
}
