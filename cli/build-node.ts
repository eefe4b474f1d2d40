/**
 * Joins the compiled modules for Node into few: a command loads some twenty files in place of hundreds, and the library's
 * entry points share their parts with the command, so that there is one registry of what extensions define.
 */
import { rmSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { rolldown } from 'rolldown';

const compiled = (path: string) => fileURLToPath(new URL(`../${path}.js`, import.meta.url));

/** What the package exports, and what runs as a process or thread, which lies beside what starts it. */
const ENTRIES = [
  ...['src/index', 'src/ir', 'src/extend', 'src/internal', 'cli/main', 'cli/work'],
  ...['src/runtime/train/train-process', 'src/runtime/data/pool-thread', 'src/runtime/devices/probe'],
  'src/runtime/types-process',
];

const dir = fileURLToPath(new URL('../node', import.meta.url));
rmSync(dir, { recursive: true, force: true });
const built = await rolldown({
  input: Object.fromEntries(ENTRIES.map(path => [path.replace(/.*\//, ''), compiled(path)])),
  platform: 'node',
  external: id => !/^[./]|^[A-Z]:/.test(id),
  // A busy machine is no mistake in what is bundled.
  checks: { bundlerTimings: false },
  onLog(_, { message }) {
    throw new Error(message);
  },
});
await built.write({ dir, entryFileNames: '[name].js', chunkFileNames: '[name].js' });
await built.close();
