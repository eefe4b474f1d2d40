import { rmSync } from 'node:fs';
import { mkdir, mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import { AgdError } from '../../../src/graph/errors.js';
import { loadModel, saveModel } from '../../../src/graph/files.js';
import { writeSafetensors } from '../../../src/runtime/data/safetensors.js';
import { runTrainJob, type TrainJob } from '../../../src/runtime/train/train-job.js';
import { Trainer } from '../../../src/runtime/train/trainer.js';
import { mlp, mlpData } from '../../sample.js';

let folder: string;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'agd-onnx-test-'));
});
afterEach(() => rm(folder, { recursive: true, force: true }));

async function job(): Promise<TrainJob & { output: string }> {
  const [model, data, out] = ['mlp.onnx', 'data.safetensors', 'out'].map(name => join(folder, name));
  await saveModel(mlp(), model!);
  await writeSafetensors(data!, mlpData(16));
  await mkdir(out!);
  const inject = { loss: { kind: 'cross-entropy' } } as const;
  return {
    model: model!,
    data: data!,
    output: join(out!, 'mlp.trained.onnx'),
    inject,
    epochs: 2,
    batchSize: 8,
  };
}

it('keeps what was learnt where the trained model cannot be written', async () => {
  const wanted = await job();
  const failing = runTrainJob(wanted, event => {
    if (event.type === 'epoch' && event.epoch === 2) rmSync(dirname(wanted.output), { recursive: true });
  });
  const error = await failing.then(
    () => undefined,
    (e: unknown) => e,
  );
  expect(error).toBeInstanceOf(AgdError);
  const { code, message } = error as AgdError;
  expect(code).toBe('io');
  expect(message).toContain(wanted.output);
  const path = /What was learnt is in (\S+): agd-onnx export takes the model out of it\.$/.exec(message)![1]!;
  const trainer = await Trainer.create(await loadModel(path));
  expect(trainer.stepCount).toBe(4);
  await trainer.release();
  await rm(dirname(path), { recursive: true });
});

it.each(['dryRun', 'findLr'] as const)('writes nothing with %s, whatever is to be saved', async mode => {
  const { output, ...wanted } = await job();
  const data = join(folder, 'data.csv');
  const rows = Array.from({ length: 16 }, (_, i) => `${i},1,0,${-i},${i % 3}`);
  await writeFile(data, `a,b,c,d,kind\n${rows.join('\n')}\n`);
  const to = (name: string) => join(dirname(output), name);
  const saved = { state: to('s.agd.onnx'), recipeOut: to('recipe.json'), saveEvery: '500steps', keepLast: 2 };
  const columns = { columns: { x: ['a', 'b', 'c', 'd'] }, label: 'kind', valSplit: 0.25, keepBest: 1 };
  const events: string[] = [];
  await runTrainJob({ ...wanted, ...columns, ...saved, data, output, [mode]: true }, event => {
    events.push(event.type);
  });
  expect(events.at(-1)).toBe(mode === 'dryRun' ? 'plan' : 'rates');
  expect(await readdir(dirname(output))).toEqual([]);
});

it('saves the state where a sample cannot be read in the middle of a run', async () => {
  const wanted = { ...(await job()), state: join(folder, 's.agd.onnx') };
  const evaluate = vi
    .spyOn(Trainer.prototype, 'evaluate')
    .mockRejectedValue(new AgdError('bad-data', 'Row 3.'));
  await expect(runTrainJob({ ...wanted, trainMetrics: true }, () => {})).rejects.toThrow('Row 3.');
  evaluate.mockRestore();
  const trainer = await Trainer.create(await loadModel(wanted.state));
  expect(trainer.stepCount).toBe(2);
  await trainer.release();
});
