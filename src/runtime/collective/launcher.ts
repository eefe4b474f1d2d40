/** What `mpirun`, `mpiexec` and `srun` tell the processes that they start. */

/** `size` is unknown to some launchers before the library is initialized. */
export type Launch = {
  launcher: 'mpirun' | 'srun';
  rank: number;
  size?: number;
  library: 'Open MPI' | 'MPICH' | undefined;
};

type Environment = Readonly<Record<string, string | undefined>>;

/** How this process was started as one of several; undefined if it was not. */
export function findLaunch(env: Environment = process.env): Launch | undefined {
  const number = (name: string) => (/^\d+$/.test(env[name] ?? '') ? Number(env[name]) : undefined);
  const first = (names: readonly string[]) => names.map(number).find(n => n !== undefined);
  // A batch script of Slurm has SLURM_PROCID too; only what srun starts has the number of tasks of its step.
  const tasks = number('SLURM_STEP_NUM_TASKS');
  const rank = first([
    'OMPI_COMM_WORLD_RANK',
    'PMIX_RANK',
    'PMI_RANK',
    ...(tasks === undefined ? [] : ['SLURM_PROCID']),
  ]);
  if (rank === undefined) return undefined;
  const size = first(['OMPI_COMM_WORLD_SIZE', 'PMI_SIZE']) ?? tasks;
  // In a job of Slurm, mpirun has srun start a process of its own on each host.
  const launcher = tasks === undefined || tasks !== size ? 'mpirun' : 'srun';
  const isOpenMpi = number('OMPI_COMM_WORLD_RANK') !== undefined || number('PMIX_RANK') !== undefined;
  const library = isOpenMpi ? 'Open MPI' : number('PMI_RANK') === undefined ? undefined : 'MPICH';
  return { launcher, rank, size, library };
}
