import { availableParallelism } from 'node:os';
import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    globalSetup: 'test/temporary-folder.ts',
    include: ['test/**/*.test.ts'],
    testTimeout: 60_000,
    pool: 'forks',
    // Half of the time is spent waiting for command lines that tests start.
    maxWorkers: Math.max(2, availableParallelism() - 1),
    // The command line runs in processes of its own, whose lines are not counted: the floor is that of the library.
    coverage: {
      provider: 'v8',
      include: ['src/**/*.ts'],
      // What browsers run is tested in the bundle, whose lines are not counted either.
      exclude: ['src/web/**'],
      reporter: ['text-summary', 'html'],
      thresholds: { statements: 91, branches: 83, functions: 91, lines: 92 },
    },
  },
});
