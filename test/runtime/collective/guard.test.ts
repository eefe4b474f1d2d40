import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';

const SCRIPT = join(import.meta.dirname, '../../../dist/test/runtime/collective/guard-process.js');

/** Launchers leave ranks pipes of such numbers, which Node passes on to what it starts. */
const PIPES = ['ignore', 'pipe', 'pipe', ...Array(15).fill('ignore'), 'pipe'];

/** What becomes of a process that blocks for so many seconds; the pipes are closed when nothing of it is left. */
function guarded(blocks: number, ...orders: number[]) {
  const args = [SCRIPT, `${blocks}`, ...orders.map(String)];
  const { status, signal, stdout, stderr, error } = spawnSync(process.execPath, args, {
    ...{ encoding: 'utf8', stdio: PIPES, timeout: 20_000 },
  });
  return { status, signal, stdout, stderr, error };
}

describe.skipIf(process.platform === 'win32')('a guarded process', () => {
  const ends = { status: 0, signal: null, stdout: 'done', stderr: '', error: undefined };

  it('is killed at the deadline, with the message', () => {
    const killed = { status: null, signal: 'SIGKILL', stdout: '', stderr: 'killed after 1 s\n' };
    expect(guarded(30, 1)).toEqual(killed);
    expect(guarded(30, 600, 0, 1)).toEqual(killed);
  });

  it('lives where it has no deadline any more, and leaves no process behind', () => {
    expect(guarded(2, 1, 0)).toEqual(ends);
    expect(guarded(2, 1, 600)).toEqual(ends);
    expect(guarded(0)).toEqual(ends);
    // Deadlines that go as they come.
    expect(guarded(0, ...Array(300).fill([600, 0]).flat())).toEqual(ends);
  });
});
