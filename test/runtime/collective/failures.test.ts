/** Ranks that die or hang in the middle of a run, under the launchers that are installed. */
import { mkdtempSync, readFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { launchers, missing, start } from './mpi.js';

const SCRIPT = join(import.meta.dirname, '../../../dist/test/runtime/collective/failing-process.js');

describe.each(launchers)('a run that $name started', launcher => {
  it('ends if a rank is killed', { timeout: 60_000 }, async () => {
    const { stdout, code } = await start(launcher, 3, [SCRIPT, 'SIGKILL', '600']);
    expect(code).not.toBe(0);
    expect(stdout).not.toContain('done');
  });

  it('ends with a message if a rank is stopped', { timeout: 60_000 }, async () => {
    const { stdout, stderr, code } = await start(launcher, 3, [SCRIPT, 'SIGSTOP', '2']);
    expect(code).toBe(1);
    expect(stderr).toMatch(
      /rank [01] of 3 \(.+\): has waited 2 s for the other ranks in allReduce: one of them is lost, hung or unreachable\./,
    );
    expect(stdout).not.toContain('done');
  });

  it('ends with a message if a rank is stopped before it closes', { timeout: 60_000 }, async () => {
    const { stderr, code } = await start(launcher, 3, [SCRIPT, 'close', '2']);
    expect(code).toBe(1);
    expect(stderr).toMatch(/rank [01] of 3 \(.+\): has waited 2 s for the other ranks in close:/);
  });

  it.each([
    ['abort', 'MPI_Abort', 5],
    ['close', 'MPI_Finalize', 2],
  ])('ends if the launcher cannot be reached: %s', { timeout: 60_000 }, async (when, call, seconds) => {
    const errors = join(mkdtempSync(join(tmpdir(), 'agd-onnx-test-')), 'errors');
    const { code } = await start(launcher, 3, [SCRIPT, `launcher-${when}`, '2'], { errors });
    expect(code).not.toBe(0);
    expect(readFileSync(errors, 'utf8')).toMatch(
      new RegExp(
        `agd-onnx: rank [01] of 3 \\(.+\\): ${call} has not returned after ${seconds} s: the launcher cannot be reached\\. This process is killed\\.`,
      ),
    );
  });

  it('ends with a message if a rank never joins', { timeout: 60_000 }, async () => {
    const { stderr, code } = await start(launcher, 3, [SCRIPT, 'absent', '2']);
    expect(code).not.toBe(0);
    expect(stderr).toMatch(/agd-onnx: rank [01] has waited 2 s for the other ranks in MPI_Init:/);
  });

  it('goes on after a warning if a rank is slow', { timeout: 60_000 }, async () => {
    const file = join(mkdtempSync(join(tmpdir(), 'agd-onnx-test-')), 'warned');
    const { stdout, stderr, code } = await start(launcher, 3, [SCRIPT, 'slow', '12', file]);
    expect(code, stderr).toBe(0);
    expect(stderr).toMatch(
      /rank 0 of 3 \(.+\) has waited 6 s for the other ranks in allReduce; the run ends after 12 s/,
    );
    expect(stdout.match(/done/g)).toHaveLength(3);
  });

  it('ends by itself if no rank fails', { timeout: 60_000 }, async () => {
    const { stdout, stderr, code } = await start(launcher, 2, [SCRIPT, 'SIGCONT', '30']);
    expect({ code, stderr: code ? stderr : '' }).toEqual({ code: 0, stderr: '' });
    expect(stdout.match(/done/g)).toHaveLength(2);
  });
});

for (const reason of missing) it.skip(reason, () => {});
