/** The MPI implementations of this machine, and how tests start ranks with them. */
import { execFile, spawnSync } from 'node:child_process';
import { promisify } from 'node:util';

export type Launcher = { name: 'Open MPI' | 'MPICH'; command: string; args: readonly string[] };

const KNOWN: readonly Launcher[] = [
  {
    name: 'Open MPI',
    command: 'mpirun.openmpi',
    args: ['--allow-run-as-root', '--oversubscribe', '--mca', 'btl', 'self,vader,tcp'],
  },
  { name: 'MPICH', command: 'mpirun.mpich', args: [] },
];

/** Those that start processes here. */
export const launchers = KNOWN.filter(({ command }) => {
  const { status } = spawnSync(command, ['--version'], { stdio: 'ignore' });
  return status === 0;
});

/** Why tests of the others are skipped. */
export const missing = KNOWN.filter(known => !launchers.includes(known)).map(
  ({ name, command }) => `${name} is not installed here: there is no ${command}`,
);

const run = promisify(execFile);

/**
 * Runs Node on each rank; resolves with what they printed, also if they failed. Their errors go to the file `errors` if it is
 * given: a launcher that was stopped may end without passing on what ranks wrote.
 */
export async function start(
  { command, args }: Launcher,
  ranks: number,
  script: readonly string[],
  { cwd, errors }: { cwd?: string; errors?: string } = {},
): Promise<{ stdout: string; stderr: string; code: number }> {
  // One rank must not take the cores of another.
  const env = { ...process.env, OMPI_MCA_rmaps_base_oversubscribe: '1', UCX_LOG_LEVEL: 'error' };
  const node = [process.execPath, ...script];
  const rank = errors ? ['/bin/sh', '-c', `exec "$@" 2>>'${errors}'`, 'sh', ...node] : node;
  const all = [...args, '-n', `${ranks}`, ...rank];
  try {
    return { ...(await run(command, all, { env, cwd })), code: 0 };
  } catch (error) {
    return error as { stdout: string; stderr: string; code: number };
  }
}
