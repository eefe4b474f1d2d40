/** What the MPI tests start on each rank. */
import { openCollective } from '../../../src/runtime/collective/mpi.js';
import { operate } from './operations.js';

const collective = await openCollective({ library: process.argv[2] });
const { rank, size, engine } = collective;
const result = await operate(collective);
// One write, so that the lines of ranks do not mix.
process.stdout.write(
  `${JSON.stringify({ rank, size, engine, hooks: process.env.UCX_MEM_EVENTS, result })}\n`,
);
await collective.close();
