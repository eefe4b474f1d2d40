/** Two implementations of MPI, where they are installed; the processes run the build. */
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { openCollective } from '../../../src/runtime/collective/mpi.js';
import { launchers, missing, start } from './mpi.js';
import { expected } from './operations.js';

const SCRIPT = join(import.meta.dirname, '../../../dist/test/runtime/collective/mpi-process.js');

describe.each(launchers)('ranks that $name starts', launcher => {
  it.each([1, 3])('exchange arrays: %i', { timeout: 60_000 }, async ranks => {
    const { stdout, stderr } = await start(launcher, ranks, [SCRIPT]);
    const lines = stdout.split('\n').filter(line => line.startsWith('{'));
    expect(lines.length, stderr).toBe(ranks);
    for (const line of lines) {
      const { rank, size, engine, hooks, result } = JSON.parse(line);
      expect(size).toBe(ranks);
      expect(engine).toMatch(new RegExp(`^${launcher.name} \\d`));
      expect(hooks).toBe('n');
      expect(result).toEqual(JSON.parse(JSON.stringify(expected(rank, ranks))));
    }
  });

  it('are told if the library cannot be loaded', { timeout: 60_000 }, async () => {
    const { stderr, code } = await start(launcher, 1, [SCRIPT, '/nowhere/libmpi.so']);
    expect(code).not.toBe(0);
    expect(stderr).toContain('--mpi-library: /nowhere/libmpi.so cannot be loaded');
  });
});

for (const reason of missing) it.skip(reason, () => {});

it('a process of its own is told how to start', async () => {
  await expect(openCollective()).rejects.toThrow('start it with mpirun -n RANKS');
});
