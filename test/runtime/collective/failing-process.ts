/**
 * What the tests of failures start on each rank: the last one gets a signal in the middle of the run, or waits until another one
 * has written a file, which it does when it warns.
 */
import { existsSync, writeFileSync } from 'node:fs';
import { openCollective } from '../../../src/runtime/collective/mpi.js';
import { watched } from '../../../src/runtime/collective/watched.js';

const [signal, timeout, file = ''] = process.argv.slice(2);
const warn = (message: string) => {
  process.stderr.write(`${message}\n`);
  if (file) writeFileSync(file, message);
};
const collective = watched(await openCollective(), { timeout: Number(timeout), warn });
const wait = () => Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 50);
try {
  for (let step = 0; step < 10; step++) {
    if (step === 3 && collective.rank === collective.size - 1) {
      if (signal === 'slow') while (!existsSync(file)) wait();
      else process.kill(process.pid, signal);
    }
    await collective.allReduce(new Float32Array(10));
  }
  process.stdout.write('done\n');
  await collective.close();
} catch (error) {
  process.stderr.write(`${(error as Error).message}\n`);
  process.exitCode = 1;
}
