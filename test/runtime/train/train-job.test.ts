import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { mkdir, mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import { AgdError } from '../../../src/graph/errors.js';
import { loadModel, saveModel } from '../../../src/graph/files.js';
import { readSafetensors, writeSafetensors } from '../../../src/runtime/data/safetensors.js';
import { runTrainJob, type TrainJob } from '../../../src/runtime/train/train-job.js';
import { Trainer } from '../../../src/runtime/train/trainer.js';
import { spread } from '../../ops/vjp.js';
import { mlp, mlpData, Sketch } from '../../sample.js';

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
  const path = /The progress is saved in (\S+): agd-onnx export extracts the model\.$/.exec(message)![1]!;
  const trainer = await Trainer.create(await loadModel(path));
  expect(trainer.stepCount).toBe(4);
  await trainer.release();
  await rm(dirname(path), { recursive: true });
});

it('keeps what was learnt where the rest of the model was overwritten', async () => {
  const s = new Sketch();
  const x = s.input('x', ['batch', 4]);
  const wide = s.add('MatMul', [x, s.weight('frozen', spread([4, 5000], [-1, 1]))], 'wide');
  const model = s.model([s.add('MatMul', [wide, s.weight('head', spread([5000, 3], [-1, 1]))], 'logits')]);
  const wanted = await job();
  await saveModel(model, wanted.model);
  const inject = { loss: { kind: 'cross-entropy' }, freeze: ['frozen'] } as const;
  const failing = runTrainJob({ ...wanted, inject }, async event => {
    if (event.type === 'epoch' && event.epoch === 2)
      writeFileSync(wanted.model, readFileSync(wanted.model).fill(1));
  });
  const { message } = await failing.then(
    () => new Error('nothing failed'),
    (e: Error) => e,
  );
  expect(message).toContain(`${wanted.model} was overwritten`);
  const [, path] =
    /The progress is saved in (\S+): to continue from there, use the original model with --resume-pytorch/.exec(
      message,
    )!;
  const { tensors } = await readSafetensors(path!);
  expect(tensors.get('head')!.dims).toEqual([5000, 3]);
  expect(tensors.get('head')!.at(0)).not.toBe(spread([5000, 3], [-1, 1]).at(0));
  await saveModel(model, wanted.model);
  const steps: unknown[] = [];
  await runTrainJob({ ...wanted, inject, epochs: 1, resumePytorch: path }, event => {
    if (event.type === 'note') steps.push(event.text);
  });
  expect(steps.join()).toContain('after 4 updates');
  await rm(dirname(path!), { recursive: true });
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

it('expects more memory of a whole run than its trial takes', async () => {
  let expected = 0;
  await runTrainJob({ ...(await job()), dryRun: true }, event => {
    if (event.type === 'plan') expected = event.memory.peak;
  });
  expect(expected).toBeGreaterThan(process.resourceUsage().maxRSS * 1024);
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
