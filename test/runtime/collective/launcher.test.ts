import { describe, expect, it } from 'vitest';
import { findLaunch } from '../../../src/runtime/collective/launcher.js';

describe('the environment of a launcher', () => {
  it.each([
    [
      'Open MPI',
      { OMPI_COMM_WORLD_RANK: '1', OMPI_COMM_WORLD_SIZE: '4', PMIX_RANK: '1' },
      { launcher: 'mpirun', rank: 1, size: 4, library: 'Open MPI' },
    ],
    ['MPICH', { PMI_RANK: '0', PMI_SIZE: '2' }, { launcher: 'mpirun', rank: 0, size: 2, library: 'MPICH' }],
    [
      'Slurm with PMIx',
      { PMIX_RANK: '3', SLURM_PROCID: '3', SLURM_STEP_NUM_TASKS: '8' },
      { launcher: 'srun', rank: 3, size: 8, library: 'Open MPI' },
    ],
    [
      'Slurm without PMI',
      { SLURM_PROCID: '2', SLURM_STEP_NUM_TASKS: '3' },
      { launcher: 'srun', rank: 2, size: 3, library: undefined },
    ],
    [
      'Slurm with PMI-2',
      { PMI_RANK: '1', PMI_SIZE: '2', PMI_FD: '13', SLURM_PROCID: '1', SLURM_STEP_NUM_TASKS: '2' },
      { launcher: 'srun', rank: 1, size: 2, library: 'MPICH' },
    ],
    [
      'MPICH in a job of Slurm',
      { PMI_RANK: '1', PMI_SIZE: '2', SLURM_NTASKS: '2', SLURM_PROCID: '0', SLURM_STEP_NUM_TASKS: '1' },
      { launcher: 'mpirun', rank: 1, size: 2, library: 'MPICH' },
    ],
    [
      'Open MPI in a job of Slurm',
      { OMPI_COMM_WORLD_RANK: '1', OMPI_COMM_WORLD_SIZE: '2', PMIX_RANK: '1', SLURM_PROCID: '0' },
      { launcher: 'mpirun', rank: 1, size: 2, library: 'Open MPI' },
    ],
    [
      'a batch script of Slurm',
      { SLURM_PROCID: '0', SLURM_NTASKS: '4', SLURM_NPROCS: '4', SLURM_LOCALID: '0' },
      undefined,
    ],
    ['none', { PATH: '/bin' }, undefined],
  ])('is that of %s', (_, env, launch) => {
    expect(findLaunch(env)).toEqual(launch);
  });
});
