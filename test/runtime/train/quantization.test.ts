import { expect, it } from 'vitest';
import type { Model } from '../../../src/graph/ir.js';
import { fit as fitModel, Tensor } from '../../../src/internal.js';
import { dataFrom } from '../../../src/runtime/data/from-values.js';
import { mlp, mlpData, Sketch } from '../../sample.js';

const [TRAIN, VAL] = [mlpData(64, 1), mlpData(32, 2)];
const OPTIONS = { loss: 'cross-entropy', qat: { weights: 'int8' }, lr: 1e-2, batchSize: 16 } as const;
const typesIn = ({ graph }: Model) => [...graph.initializers].map(([v, t]) => `${v.name} ${t.dtype}`);
const weight = ({ graph }: Model, name: string) =>
  [...graph.initializers].find(([v]) => v.name === name)![1].numbers();

it('learns from a teacher, in floating point or quantized, which stays as it is', async () => {
  const teacher = await fitModel(mlp(), TRAIN, { ...OPTIONS, qat: undefined, epochs: 4 });
  const integers = await fitModel(mlp(), TRAIN, { ...OPTIONS, epochs: 4 });
  for (const { model: teacherModel } of [teacher, integers]) {
    const { model, history } = await fitModel(mlp(), TRAIN, {
      ...OPTIONS,
      ...{ teacherModel, distill: ['kl:T=2,alpha=0.5'], epochs: 2 },
    });
    expect(typesIn(model)).toContain('fc1.weight_quantized int8');
    expect(typesIn(model).some(name => name.includes('teacher::'))).toBe(false);
    expect(history.losses.at(-1)).toBeLessThan(history.losses[0]!);
  }
});

it('trains the head only', async () => {
  for (const method of ['ema', 'lsq'] as const) {
    const qat = { weights: 'int8', method } as const;
    const s = new Sketch();
    const h = s.add(
      'Relu',
      [s.add('Gemm', [s.input('x', ['n', 4]), s.weight('w', [4, 8]), s.weight('b', [8])], 'g')],
      'h',
    );
    const source = s.model([s.add('Gemm', [h, s.weight('head', [8, 3]), s.weight('bias', [3])], 'y')]);
    const { state } = await fitModel(source, TRAIN, { ...OPTIONS, qat, freeze: ['backbone'] });
    const before = [...source.graph.initializers].map(([v, t]) => [v.name, t.numbers()] as const);
    for (const [name, numbers] of before)
      expect([name, weight(state, name).some((n, i) => n !== numbers[i])]).toEqual([
        name,
        /^(head|bias)$/.test(name),
      ]);
  }
});

it('calibrates on samples to train on alone', async () => {
  const split = { valSplit: 0.25, seed: 3 };
  const specs = [
    { name: 'x', dtype: 'float32' },
    { name: 'target', dtype: 'int64' },
  ] as const;
  const data = await dataFrom(TRAIN, 'samples', split);
  const held = (await data.validation(specs, { labels: ['target'] }))!.rows!;
  const qat = { weights: 'int8', method: 'fixed' } as const;
  const scale = async (held: Iterable<number>) => {
    const numbers = TRAIN.get('x')!.numbers();
    for (const row of held) numbers[4 * row] = 100;
    const changed = new Map([...TRAIN, ['x', Tensor.ofNumbers('float32', [64, 4], numbers)]]);
    const { model } = await fitModel(mlp(), changed, { ...OPTIONS, ...split, qat });
    return weight(model, 'x_scale');
  };
  expect(held).toHaveLength(16);
  expect(await scale(held)).toEqual(await scale([]));
});

it('calibrates a model of batch 1 with as many samples as others', async () => {
  const source = mlp();
  source.graph.inputs[0]!.type = { kind: 'tensor', dtype: 'float32', shape: [1, 4] };
  const { model } = await fitModel(source, TRAIN, { ...OPTIONS, freeBatch: ['x'], validation: VAL });
  const wanted = await fitModel(mlp(), TRAIN, { ...OPTIONS, validation: VAL });
  expect(weight(model, 'fc1.weight_quantized')).toEqual(weight(wanted.model, 'fc1.weight_quantized'));
});

it('trains an embedding that is the transposed weight of the last layer', async () => {
  for (const [isStored, method] of [
    [true, 'ema'],
    [false, 'ema'],
    [true, 'lsq'],
  ] as const) {
    const s = new Sketch();
    const table = s.weight('table', [6, 4]);
    const numbers = s.graph.initializers.get(table)!.numbers();
    const other = Array.from({ length: 24 }, (_, i) => numbers[(i % 6) * 4 + Math.floor(i / 6)]!);
    const transposed = isStored
      ? s.weight('head', Tensor.ofNumbers('float32', [4, 6], other))
      : s.add('Transpose', [table], 'head', { perm: [1, 0] });
    const h = s.add('Gather', [table, s.input('ids', ['n', 3], 'int64')], 'h');
    const m = s.add('MatMul', [h, s.weight('w', [4, 4])], 'm');
    const source = s.model([s.add('MatMul', [m, transposed], 'logits')]);
    const ids = Tensor.from(
      'int64',
      [16, 3],
      BigInt64Array.from({ length: 48 }, (_, i) => BigInt(i % 6)),
    );
    const { model } = await fitModel(
      source,
      new Map([
        ['ids', ids],
        ['target', ids],
      ]),
      { ...OPTIONS, qat: { weights: 'int8', method } },
    );
    expect(typesIn(model)).toContain('w_quantized int8');
    expect(typesIn(model)).toContain('table float32');
    expect(typesIn(model)).toContain('head_quantized int8');
  }
});
