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
    ['a batch script of Slurm', { SLURM_PROCID: '0', SLURM_NTASKS: '4' }, undefined],
    ['none', { PATH: '/bin' }, undefined],
  ])('is that of %s', (_, env, launch) => {
    expect(findLaunch(env)).toEqual(launch);
  });
});
