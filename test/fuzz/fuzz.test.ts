import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { expect, it } from 'vitest';

const FUZZ = join(import.meta.dirname, '../../dist/test/fuzz/main.js');

it('2,000 damaged files of each format are refused in a line, or read as what they say', () => {
  const limits = { timeout: 280_000, killSignal: 'SIGKILL' as const, encoding: 'utf8' as const };
  const { status, stdout } = spawnSync(process.execPath, ['--max-old-space-size=1024', FUZZ, '2000'], limits);
  expect(stdout).toMatch(/\n0 failures\n$/);
  expect(status).toBe(0);
}, 290_000);
