import { writeSync } from 'node:fs';
import { setTimeout } from 'node:timers/promises';
import { type AgdError, findLaunch, oneLine, printable } from '../src/command/startup.js';

/** A command line that cannot be understood. */
export class UsageError extends Error {}

/**
 * Ends the program for this reason: a user's mistake is one line with its code and exit status 1, a bug of ours keeps
 * its stack and exits with 70.
 */
export function report(error: unknown): void {
  process.exitCode = 1;
  if (error instanceof UsageError)
    process.stderr.write(
      `agd-onnx: ${oneLine(error.message).replace(/(?<![.?])$/, '.')} See agd-onnx --help.\n`,
    );
  else if (error instanceof Error && error.name === 'AgdError') {
    const { code, details } = error as AgdError;
    process.stderr.write(`agd-onnx: ${oneLine(error.message)} [${code}]\n${details ? `${details}\n` : ''}`);
  } else {
    process.exitCode = 70;
    const stack = (error instanceof Error && error.stack) || String(error);
    process.stderr.write(`agd-onnx: a bug of ours: ${stack.split('\n').map(printable).join('\n')}\n`);
  }
}

/**
 * Tells the launcher that this process has failed, so that it ends the others. That of MPICH does not notice a rank that ends
 * before MPI_Init, in which the others then wait; there is no MPI_Abort either by then, so this speaks the launcher's protocol
 * (PMI 1, as mpirun speaks it; that of srun is another). It then drops what it has not passed on yet, so it gets time for that.
 */
export async function abortLaunch(): Promise<void> {
  const { PMI_FD } = process.env;
  if (!PMI_FD || findLaunch()?.launcher !== 'mpirun') return;
  await setTimeout(500);
  try {
    writeSync(Number(PMI_FD), 'cmd=abort exitcode=1\n');
  } catch {
    // It is gone.
  }
}
