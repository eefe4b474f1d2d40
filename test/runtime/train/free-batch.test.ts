/** Models that were exported with one batch, trained on batches of another size. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { loadModel, saveModel } from '../../../src/graph/files.js';
import type { Dim, Model } from '../../../src/graph/ir.js';
import { Tensor } from '../../../src/graph/tensor.js';
import { inject } from '../../../src/passes/inject.js';
import { writeSafetensors } from '../../../src/runtime/data/safetensors.js';
import { sessionShapes } from '../../../src/runtime/session.js';
import { runTrainJob } from '../../../src/runtime/train/train-job.js';
import { spread } from '../../ops/vjp.js';
import { Sketch } from '../../sample.js';

const LOSS = { kind: 'cross-entropy' } as const;

/** `n` is the batch that an exporter writes down: a number, or free, where it computes extents from the input. */
type Make = (n: number | undefined) => Model;

const ints = (s: Sketch, name: string, data: number[]) => s.weight(name, Tensor.ints(data));

/** Convolution, then a Reshape to [n, 32]. */
const convolution: Make = n => {
  const s = new Sketch();
  const h = s.add('Conv', [s.input('x', [n ?? 'n', 1, 4, 6]), s.weight('k', [4, 1, 3, 3])], 'h');
  const flat = s.add('Reshape', [h, ints(s, 'to', [n ?? -1, 32])], 'flat');
  return s.model([s.add('MatMul', [flat, s.weight('w', [32, 3])], 'y')]);
};

/** Attention of two heads: the batch is merged with the steps, split from them, and moved. */
const attention: Make = n => {
  const s = new Sketch();
  const x = s.input('x', [n ?? 'n', 4, 6]);
  const rows = s.add('Reshape', [x, ints(s, 'rows', [n ? n * 4 : -1, 6])], 'r');
  const projected = s.add('MatMul', [rows, s.weight('w1', [6, 6])], 'p');
  const heads = s.add('Reshape', [projected, ints(s, 'heads', [n ?? -1, 4, 2, 3])], 'h');
  const q = s.add('Transpose', [heads], 'q', { perm: [0, 2, 1, 3] });
  const k = s.add('Transpose', [heads], 'k', { perm: [0, 2, 3, 1] });
  const a = s.add('Softmax', [s.add('MatMul', [q, k], 'scores')], 'a', { axis: -1 });
  const mixed = s.add('Transpose', [s.add('MatMul', [a, q], 'mixed')], 'm', { perm: [0, 2, 1, 3] });
  const joined = s.add('Reshape', [mixed, ints(s, 'joined', [n ?? -1, 24])], 'j');
  return s.model([s.add('MatMul', [joined, s.weight('w2', [24, 3])], 'y')]);
};

/** A recurrent network with the initial state of one batch in the file, over a first step that is learnt. */
const recurrent: Make = n => {
  const s = new Sketch();
  // A Sketch's own weights differ by how many there are.
  const weight = (name: string, dims: number[]) =>
    s.weight(name, spread(dims, [-0.5, 0.5], name.charCodeAt(0)));
  const x = s.input('x', [n ?? 'n', 4, 6]);
  const first = s.weight('first', spread([1, 1, 6], [-1, 1], 4));
  const count = n ? ints(s, 'count', [n, 1, 1]) : undefined;
  const shape =
    count ??
    s.add('Concat', [s.add('Shape', [x], 'n', { end: 1 }), ints(s, 'ones', [1, 1])], 'c', { axis: 0 });
  const each = s.add('Expand', [first, shape], 'each');
  const all = s.add('Concat', [each, x], 'all', { axis: 1 });
  const steps = s.add('Transpose', [all], 'steps', { perm: [1, 0, 2] });
  const state = n ? s.weight('state', Tensor.zeros('float32', [1, n, 5])) : null;
  const inputs = [steps, weight('w', [1, 5, 6]), weight('r', [1, 5, 5]), null, null, state];
  const h = s.add('RNN', inputs, 'h', { hidden_size: 5 });
  const last = s.add('Gather', [h, s.weight('at', Tensor.from('int64', [], BigInt64Array.of(-1n)))], 'last', {
    axis: 0,
  });
  const flat = s.add('Squeeze', [last, ints(s, 'axis', [0])], 'flat');
  return s.model([s.add('Gemm', [flat, weight('o', [5, 3])], 'y')]);
};

/** Each sample less the mean of its batch. */
const centred: Make = n => {
  const s = new Sketch();
  const x = s.input('x', [n ?? 'n', 4]);
  const mean = s.add('ReduceMean', [x, ints(s, 'axis', [0])], 'mean');
  return s.model([s.add('MatMul', [s.add('Sub', [x, mean], 'd'), s.weight('w', [4, 3])], 'y')]);
};

describe('a fixed batch', () => {
  let folder: string;
  beforeEach(async () => {
    folder = await mkdtemp(join(tmpdir(), 'agd-onnx-test-'));
  });
  afterEach(() => rm(folder, { recursive: true, force: true }));

  /** Trains for two epochs; the batch size is that of the arguments of `train`. */
  async function trained(model: Model, sample: Dim[], batchSize?: number) {
    const [file, data, output] = ['model.onnx', 'data.safetensors', 'trained.onnx'].map(f => join(folder, f));
    await saveModel(model, file!);
    const classes = Float32Array.from({ length: 16 }, (_, i) => i % 3);
    const target = Tensor.from('int64', [16], BigInt64Array.from([...classes].map(BigInt)));
    await writeSafetensors(
      data!,
      new Map([
        ['x', spread([16, ...(sample as number[])], [-1, 1], 1)],
        ['target', target],
      ]),
    );
    const notes: string[] = [];
    const losses: number[] = [];
    await runTrainJob(
      {
        model: file!,
        data: data!,
        validation: data!,
        output: output!,
        inject: { loss: LOSS },
        epochs: 2,
        batchSize,
      },
      event => {
        if (event.type === 'note') notes.push(event.text);
        if (event.type === 'step') losses.push(event.loss);
        if (event.type === 'epoch') losses.push(event.validation!.loss);
      },
    );
    const { graph } = await loadModel(output!);
    const weights = [...graph.initializers].filter(([v, t]) => t.dtype === 'float32' && v.name !== 'state');
    const values = new Map(weights.map(([v, t]) => [v.name, t.numbers()]));
    return { notes, losses, values, input: graph.inputs[0]!.shape };
  }

  const CASES: [string, Make, number[], number][] = [
    ['a convolution', convolution, [1, 4, 6], 1],
    ['a convolution, exported with 2', convolution, [1, 4, 6], 2],
    ['attention', attention, [4, 6], 1],
    ['attention, exported with 2', attention, [4, 6], 2],
    ['a recurrent network', recurrent, [4, 6], 1],
    ['a recurrent network, exported with 4', recurrent, [4, 6], 4],
  ];
  it.each(CASES)('is free for training: %s', async (_, make, sample, n) => {
    const free = await trained(make(undefined), sample, 8);
    const fixed = await trained(make(n), sample, 8);
    expect(fixed.losses).toHaveLength(6);
    const close = (a: readonly number[], b: readonly number[]) =>
      expect(Math.max(...a.map((x, i) => Math.abs(x - b[i]!)))).toBeLessThan(1e-5);
    close(fixed.losses, free.losses);
    expect([...fixed.values.keys()]).toEqual(expect.arrayContaining([...free.values.keys()]));
    for (const [name, values] of free.values) close(fixed.values.get(name)!, values);
    expect(fixed.input?.[0]).toBe(n);
    expect(fixed.notes.join()).toContain(`fixes the batch size at ${n}: made dynamic for training`);
  });

  it('of one sample is free where no batch size is asked for, one of more is kept', async () => {
    expect((await trained(convolution(1), [1, 4, 6])).losses).toHaveLength(4);
    expect((await trained(convolution(4), [1, 4, 6])).losses).toHaveLength(10);
  });

  it('stays where the samples of a batch depend on each other', async () => {
    await expect(trained(centred(1), [4], 8)).rejects.toThrow(
      "Input 'x' fixes the batch size at 1, and batches of 8 are not possible: output 'y' of a sample depends on the others of its batch, or is random. Export the model with a dynamic batch axis, or leave out --batch-size.",
    );
    expect((await trained(centred(4), [4])).losses).toHaveLength(10);
  });

  it('is free in an injected model where that is asked for', async () => {
    const { model } = await inject(convolution(1), { loss: LOSS, freeBatch: ['x'] }, sessionShapes);
    expect(model.graph.inputs.find(v => v.name === 'x')!.shape).toEqual(['batch', 1, 4, 6]);
    expect(model.graph.inputs.find(v => v.name === 'target')!.shape![0]).not.toBe(1);
    const wrong = inject(convolution(1), { loss: LOSS, freeBatch: ['z'] }, sessionShapes);
    await expect(wrong).rejects.toThrow(
      "The first axis of input 'z' is not a fixed batch: leave it out of --free-batch.",
    );
  });
});
