/** What the tests of failures start on each rank: the last one gets a signal in the middle of the run. */
import { openCollective } from '../../../src/runtime/collective/mpi.js';
import { watched } from '../../../src/runtime/collective/watched.js';

const [signal, timeout] = process.argv.slice(2);
const collective = watched(await openCollective(), { timeout: Number(timeout) });
try {
  for (let step = 0; step < 10; step++) {
    if (step === 3 && collective.rank === collective.size - 1) process.kill(process.pid, signal);
    await collective.allReduce(new Float32Array(10));
  }
  process.stdout.write('done\n');
  await collective.close();
} catch (error) {
  process.stderr.write(`${(error as Error).message}\n`);
  process.exitCode = 1;
}
