/** The example programs are compiled against the package's types, and run on small data. */
import { spawnSync } from 'node:child_process';
import { cpSync, mkdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { workplace } from '../cli/run.js';
import { launchers, missing, start } from '../runtime/collective/mpi.js';

const ROOT = join(import.meta.dirname, '../..');
const EXAMPLES = join(ROOT, 'examples/library');

let folder: string;
/** The programs in a folder that has the package among its modules. */
beforeAll(async () => {
  folder = await workplace();
  cpSync(EXAMPLES, folder, { recursive: true });
  mkdirSync(join(folder, 'node_modules/@types'), { recursive: true });
  symlinkSync(ROOT, join(folder, 'node_modules/agd-onnx'), 'junction');
  symlinkSync(join(ROOT, 'node_modules/@types/node'), join(folder, 'node_modules/@types/node'), 'junction');
  writeFileSync(join(folder, 'package.json'), '{ "type": "module" }');
  const options = [
    '--strict',
    '--target',
    'ES2023',
    '--module',
    'NodeNext',
    '--types',
    'node',
    '--skipLibCheck',
  ];
  const files = ['custom-loop.ts', 'k-fold.ts', 'callbacks.ts', 'own-loss.ts', 'distributed.ts'];
  const tsc = join(ROOT, 'node_modules/typescript/lib/tsc.js');
  const result = spawnSync(process.execPath, [tsc, ...options, ...files], { cwd: folder, encoding: 'utf8' });
  expect(result.stdout + result.stderr).toBe('');
}, 120_000);
afterAll(() => rmSync(folder, { recursive: true, force: true }));

it.each([
  ['custom-loop', [/epoch 1: loss \d\.\d+, then \d\.\d+, accuracy 0\.\d+/, /epoch 3: /]],
  ['k-fold', [/fold 4: validation loss \d\.\d+ in epoch \d/, /mean \d\.\d+, standard deviation \d\.\d+/]],
  [
    'callbacks',
    [/192 samples, 6 steps an epoch/, /ended by callback after \d+ steps/, /weights of epoch \d+/],
  ],
  ['own-loss', [/loss \d\.\d+, after \d+ steps \d\.\d+/]],
])(
  '%s runs',
  (name, lines) => {
    const program = join(folder, `${name}.js`);
    const { stdout, stderr, status } = spawnSync(process.execPath, [program], {
      cwd: folder,
      encoding: 'utf8',
    });
    expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
    for (const line of lines) expect(stdout).toMatch(line);
  },
  60_000,
);

describe.each(launchers)('distributed, by $name', launcher => {
  it('has the same loss on 1 and 2 ranks', { timeout: 120_000 }, async () => {
    const program = join(folder, 'distributed.js');
    const files = [join(folder, 'model.onnx'), join(folder, 'train.npz')];
    const results = [];
    for (const ranks of [1, 2]) {
      const { stdout, stderr, code } = await start(launcher, ranks, [program, ...files]);
      expect(code, stderr).toBe(0);
      results.push([...stdout.matchAll(/loss (\d\.\d+)/g)].map(([, loss]) => Number(loss)));
    }
    const [one, two] = results;
    expect(one).toHaveLength(3);
    one!.forEach((loss, i) => {
      expect(two![i]).toBeCloseTo(loss, 5);
    });
  });
});

for (const reason of missing) it.skip(`distributed: ${reason}`, () => {});
