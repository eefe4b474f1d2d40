/** Rank 0 reads and writes files while the others wait: they must hear from it, however long a file takes. */
import { existsSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import { saveModel } from '../../../src/graph/files.js';
import type { Collective } from '../../../src/runtime/collective/collective.js';
import { localCollectives } from '../../../src/runtime/collective/local.js';
import { writeSafetensors } from '../../../src/runtime/data/safetensors.js';
import { runTrainJob, type TrainJob } from '../../../src/runtime/train/train-job.js';
import { mlp, mlpData } from '../../sample.js';

const STATE = 'run.agd.onnx';

/** Waits until the other rank has got some more messages: forever if rank 0 does not say that it works. */
const slow = vi.hoisted(() => ({ wait: async () => {}, files: [] as string[] }));

vi.mock('../../../src/graph/state-file.js', async original => {
  const module = await original<typeof import('../../../src/graph/state-file.js')>();
  const saveState: typeof module.saveState = async (...given) => {
    slow.files.push('state');
    await slow.wait();
    return module.saveState(...given);
  };
  const checkState: typeof module.checkState = async (...given) => {
    // All ranks check the model that they begin with.
    if (!given[1].endsWith(STATE)) return module.checkState(...given);
    slow.files.push('check');
    await slow.wait();
    return module.checkState(...given);
  };
  return { ...module, saveState, checkState };
});
vi.mock('../../../src/runtime/export.js', async original => {
  const module = await original<typeof import('../../../src/runtime/export.js')>();
  const exportFile: typeof module.exportFile = async (...given) => {
    slow.files.push('model');
    await slow.wait();
    return module.exportFile(...given);
  };
  return { ...module, exportFile };
});

let folder: string;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'agd-onnx-test-'));
  slow.files = [];
});
afterEach(() => rm(folder, { recursive: true, force: true }));

async function job(): Promise<TrainJob & { output: string; state: string }> {
  const at = (name: string) => join(folder, name);
  await saveModel(mlp(), at('mlp.onnx'));
  await writeSafetensors(at('data.safetensors'), mlpData(16));
  return {
    ...{
      model: at('mlp.onnx'),
      data: at('data.safetensors'),
      output: at('out.onnx'),
      state: at(STATE),
    },
    ...{ inject: { loss: { kind: 'cross-entropy' } }, epochs: 2, batchSize: 8, saveEvery: '1steps' },
  };
}

async function onTwoRanks(wanted: TrainJob) {
  const ranks = localCollectives(2);
  const heard = vi.spyOn(ranks[1]!, 'broadcast');
  slow.wait = async () => {
    const before = heard.mock.calls.length;
    await vi.waitUntil(() => heard.mock.calls.length > before + 2, { timeout: 5000 });
  };
  return Promise.allSettled(
    ranks.map(async (collective: Collective) => {
      try {
        await runTrainJob({ ...wanted, collective, threads: 1 }, () => {});
      } catch (error) {
        collective.abort(String(error));
        throw error;
      }
    }),
  );
}

it('says that it works while it saves states and the model, and reads a state', async () => {
  const wanted = await job();
  const done = [{ status: 'fulfilled' }, { status: 'fulfilled' }];
  expect(await onTwoRanks(wanted)).toMatchObject(done);
  expect(slow.files).toEqual(['state', 'state', 'state', 'state', 'model']);
  expect(existsSync(wanted.output)).toBe(true);
  slow.files = [];
  expect(await onTwoRanks({ ...wanted, epochs: 3 })).toMatchObject(done);
  expect(slow.files).toEqual(['check', 'state', 'state', 'model']);
});

it('says that it works while it saves the state before a loss that is not finite', async () => {
  const wanted = await job();
  const inject = { ...wanted.inject, optimizer: { name: 'sgd', lr: 1e38 } } as const;
  const results = await onTwoRanks({ ...wanted, inject, saveEvery: undefined });
  for (const result of results)
    expect(result).toMatchObject({ status: 'rejected', reason: { code: 'non-finite' } });
  // After the first epoch, and that before the bad step.
  expect(slow.files).toEqual(['state', 'state']);
  expect(existsSync(wanted.state)).toBe(true);
});
