/** What the test of the guard starts: a process that blocks its only thread for some seconds after orders to the guard. */
import { Guard } from '../../../src/runtime/collective/guard.js';

const guard = new Guard();
for (const seconds of process.argv.slice(3).map(Number))
  if (seconds) guard.set(seconds, `killed after ${seconds} s`);
  else guard.clear();
Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 1000 * Number(process.argv[2]));
process.stdout.write('done');
