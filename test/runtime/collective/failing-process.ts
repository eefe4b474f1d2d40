/**
 * What the tests of failures start on each rank: the last one gets a signal in the middle of the run, or waits until another one
 * has written a file, which it does when it warns. With `close`, it stops before it closes; with `launcher-abort` and
 * `launcher-close`, it stops the launcher's process for 10 s, to which the library talks then. With `absent`, it never joins.
 */
import { spawn } from 'node:child_process';
import { existsSync, writeFileSync } from 'node:fs';
import { findLaunch } from '../../../src/runtime/collective/launcher.js';
import { openCollective } from '../../../src/runtime/collective/mpi.js';
import { watched } from '../../../src/runtime/collective/watched.js';

const [signal, timeout, file = ''] = process.argv.slice(2);
const warn = (message: string) => {
  process.stderr.write(`${message}\n`);
  if (file) writeFileSync(file, message);
};
const wait = () => Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 50);
if (signal === 'absent' && findLaunch()?.rank === 2) for (;;) wait();
const seconds = { timeout: Number(timeout) };
const collective = watched(await openCollective(seconds), { ...seconds, warn });
const stopLauncher = () => {
  process.kill(process.ppid, 'SIGSTOP');
  spawn('/bin/sh', ['-c', `sleep 10; kill -CONT ${process.ppid}`], { detached: true, stdio: 'ignore' });
};
try {
  for (let step = 0; step < 10; step++) {
    if (step === 3 && collective.rank === collective.size - 1) {
      if (signal === 'slow') while (!existsSync(file)) wait();
      else if (signal === 'launcher-abort') {
        stopLauncher();
        for (;;) wait();
      } else if (signal?.startsWith('SIG')) process.kill(process.pid, signal);
    }
    await collective.allReduce(new Float32Array(10));
  }
  process.stdout.write('done\n');
  if (collective.rank === collective.size - 1) {
    if (signal === 'close') process.kill(process.pid, 'SIGSTOP');
    if (signal === 'launcher-close') stopLauncher();
  }
  await collective.close();
} catch (error) {
  process.stderr.write(`${(error as Error).message}\n`);
  process.exitCode = 1;
}
