import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';

const SCRIPT = join(import.meta.dirname, '../../../dist/test/runtime/collective/guard-process.js');

/** What becomes of a process that blocks for so many seconds; both streams are closed when nothing of it is left. */
function guarded(blocks: number, ...orders: number[]) {
  const args = [SCRIPT, `${blocks}`, ...orders.map(String)];
  const { status, signal, stdout, stderr } = spawnSync(process.execPath, args, { encoding: 'utf8' });
  return { status, signal, stdout, stderr };
}

describe.skipIf(process.platform === 'win32')('a guarded process', () => {
  const ends = { status: 0, signal: null, stdout: 'done', stderr: '' };

  it('is killed at the deadline, with the message', () => {
    const killed = { status: null, signal: 'SIGKILL', stdout: '', stderr: 'killed after 1 s\n' };
    expect(guarded(30, 1)).toEqual(killed);
    expect(guarded(30, 600, 0, 1)).toEqual(killed);
  });

  it('lives where it has no deadline any more, and leaves no process behind', () => {
    expect(guarded(2, 1, 0)).toEqual(ends);
    expect(guarded(2, 1, 600)).toEqual(ends);
    expect(guarded(0)).toEqual(ends);
  });
});
