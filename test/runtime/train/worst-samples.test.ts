import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { saveModel } from '../../../src/graph/files.js';
import { Tensor } from '../../../src/graph/tensor.js';
import { writeNpz } from '../../../src/runtime/data/npz.js';
import { predict } from '../../../src/runtime/evaluate/predict.js';
import type { EndEvent, EpochEvent, TrainEvent } from '../../../src/runtime/train/events.js';
import { fit as fitModel } from '../../../src/runtime/train/fit.js';
import { runTrainJob, type TrainJob } from '../../../src/runtime/train/train-job.js';
import { backbone, withImages } from '../../docs/images.js';
import { mlp, mlpData, Sketch } from '../../sample.js';

let folder: string;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'agd-onnx-test-'));
});
afterEach(() => rm(folder, { recursive: true, force: true }));

const at = (name: string) => join(folder, name);

async function train(job: Partial<TrainJob>) {
  const events: TrainEvent[] = [];
  const whole: TrainJob = {
    ...{ model: at('model.onnx'), output: at('out.onnx'), data: at('train.npz'), epochs: 2 },
    inject: { loss: { kind: 'cross-entropy' } },
    worstSamples: 3,
    ...job,
  };
  await runTrainJob(whole, event => events.push(event));
  const end = events.find((event): event is EndEvent => event.type === 'end')!;
  return { end, epochs: events.filter((event): event is EpochEvent => event.type === 'epoch') };
}

it('the last event has the samples on which the best model does worst, and epochs have a confusion matrix', async () => {
  await saveModel(mlp(), at('model.onnx'));
  await writeNpz(at('train.npz'), mlpData(64, 1));
  const held = mlpData(40, 2);
  await writeNpz(at('val.npz'), held);
  const { end, epochs } = await train({ validation: at('val.npz'), metrics: undefined, batchSize: 16 });
  const { probabilities } = await predict(at('out.onnx'), held, { loss: { kind: 'cross-entropy' } });
  const targets = [...held.values()][1]!.numbers();
  const all = probabilities!.numbers();
  const losses = targets.map((target, row) => ({ row, loss: -Math.log(all[3 * row + target]!) }));
  const wanted = losses.sort((a, b) => b.loss - a.loss).slice(0, 3);
  expect(end.worst!.map(({ row }) => row)).toEqual(wanted.map(({ row }) => row));
  for (const [i, { loss }] of wanted.entries()) {
    const sample = end.worst![i]!;
    expect(sample.loss).toBeCloseTo(loss, 4);
    expect(sample.target).toBe(String(targets[sample.row]));
    const scores = all.slice(3 * sample.row, 3 * sample.row + 3);
    expect(sample.prediction).toBe(String(scores.indexOf(Math.max(...scores))));
  }
  const { matrix } = epochs[0]!.validation!.confusion!;
  expect(matrix.flat().reduce((a, b) => a + b)).toBe(40);
});

it('fit tells them too, of arrays and of files', async () => {
  await saveModel(mlp(), at('model.onnx'));
  await writeNpz(at('val.npz'), mlpData(40, 2));
  await writeNpz(at('train.npz'), mlpData(64, 1));
  const { end } = await train({ validation: at('val.npz') });
  const given = { loss: 'cross-entropy', epochs: 2, worstSamples: 3 } as const;
  for (const validation of [mlpData(40, 2), at('val.npz')]) {
    const ends: EndEvent[] = [];
    const callbacks = { onEnd: (event: EndEvent) => void ends.push(event) };
    await fitModel(mlp(), mlpData(64, 1), { ...given, validation, callbacks });
    expect(ends[0]!.worst).toEqual(end.worst);
  }
});

it('images are shown as they were decoded, with the names of their classes', async () => {
  await withImages(folder);
  await saveModel(backbone(32), at('model.onnx'));
  const { end } = await train({ data: at('pets/train'), valSplit: 0.5, batchSize: 2 });
  expect(end.worst).toHaveLength(3);
  for (const { target, prediction, image, row } of end.worst!) {
    expect(['birds', 'cats', 'dogs']).toContain(target);
    expect(['birds', 'cats', 'dogs']).toContain(prediction);
    expect(target).toBe(['birds', 'cats', 'dogs'][Math.floor(row / 4)]);
    expect(image).toMatchObject({ width: 32, height: 32, channels: 3 });
    const colors = { birds: [0xd0, 0xa0, 0x10], cats: [0x80, 0x60, 0x60], dogs: [0x40, 0x30, 0x20] };
    const pixel = [...Buffer.from(image!.pixels, 'base64').subarray(0, 3)];
    for (const [i, value] of colors[target as 'cats'].entries())
      expect(Math.abs(pixel[i]! - value), `${target}: ${pixel}`).toBeLessThan(6);
  }
});

it('arrays that are images are shown from their least to their largest number', async () => {
  const values = Float32Array.from({ length: 2 * 3 * 32 * 32 }, (_, i) => (i % 3072 ? -2 : 5));
  const arrays = { x: Tensor.from('float32', [2, 3, 32, 32], values), target: Tensor.ints([0, 1]) };
  const ends: EndEvent[] = [];
  const callbacks = { onEnd: (event: EndEvent) => void ends.push(event) };
  const options = {
    loss: 'cross-entropy',
    epochs: 1,
    validation: arrays,
    worstSamples: 1,
    callbacks,
  } as const;
  await fitModel(backbone(32), arrays, options);
  const image = ends[0]!.worst![0]!.image!;
  expect(image).toMatchObject({ width: 32, height: 32, channels: 3 });
  expect([...Buffer.from(image.pixels, 'base64').subarray(0, 4)]).toEqual([255, 0, 0, 0]);
});

it('texts are shown as the data have them', async () => {
  const s = new Sketch();
  const ids = s.input('ids', ['N', 8], 'int64');
  const embedded = s.add('Gather', [s.weight('table', [256, 4]), ids], 'embedded');
  const axes = s.weight('axes', Tensor.from('int64', [1], BigInt64Array.of(1n)));
  const mean = s.add('ReduceMean', [embedded, axes], 'mean', { keepdims: 0 });
  const logits = s.add('Gemm', [mean, s.weight('w', [4, 2]), s.weight('b', [2])], 'logits');
  await saveModel(s.model([logits]), at('model.onnx'));
  const texts = ['good', 'bad, so "bad"', 'fine', 'awful', 'nice', 'poor'];
  const rows = texts.map((text, i) => `"${text.replaceAll('"', '""')}",${i % 2 ? 'no' : 'yes'}`);
  await writeFile(at('train.csv'), `text,label\n${rows.join('\n')}\n`);
  const columns = { ids: 'text:bytes(length=8)' };
  const files = { data: at('train.csv'), validation: at('train.csv') };
  const { end } = await train({ ...files, columns, label: 'label', worstSamples: 6 });
  expect(end.worst).toHaveLength(6);
  for (const { row, text, target } of end.worst!) {
    expect(text).toBe(texts[row]);
    expect(target).toBe(row % 2 ? 'no' : 'yes');
  }
});
