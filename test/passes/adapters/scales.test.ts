/** IA3 of every form of layer: gradients beside finite differences, and merged weights beside vectors left apart. */
import { mkdtempSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { checkGraph } from '../../../src/graph/check-graph.js';
import { loadModel } from '../../../src/graph/files.js';
import type { Model, Value } from '../../../src/graph/ir.js';
import { decodeModel, encodeModel } from '../../../src/graph/proto/codec.js';
import { Tensor } from '../../../src/graph/tensor.js';
import { applyAdapters } from '../../../src/passes/adapters/apply-adapters.js';
import { mergeAdapters } from '../../../src/passes/adapters/merge-adapters.js';
import { readScales } from '../../../src/passes/adapters/scale-record.js';
import { inject } from '../../../src/passes/inject.js';
import { checkGradients } from '../../../src/runtime/check-gradients.js';
import { exportFile } from '../../../src/runtime/export.js';
import { gradients } from '../../../src/runtime/gradients.js';
import { Session, sessionShapes } from '../../../src/runtime/session.js';
import { Trainer } from '../../../src/runtime/train/trainer.js';
import { spread } from '../../ops/vjp.js';
import { mlp, Sketch } from '../../sample.js';

type Form = { make: () => Model; x: readonly number[]; merges: boolean };

function linear(write: (s: Sketch, x: Value) => Value, merges = true): Form {
  return {
    make: () => {
      const s = new Sketch();
      const model = s.model([write(s, s.input('x', ['batch', 8]))]);
      model.opsetImports.set('com.microsoft', 1);
      return model;
    },
    x: [4, 8],
    merges,
  };
}

const FORMS: Record<string, Form> = {
  MatMul: linear((s, x) => s.add('MatMul', [x, s.weight('w', [8, 3])], 'y')),
  'MatMul with a sum': linear((s, x) =>
    s.add('Add', [s.add('MatMul', [x, s.weight('w', [8, 3])], 'h'), s.weight('bias', [3])], 'y'),
  ),
  'Gemm with transB and alpha': linear((s, x) =>
    s.add('Gemm', [x, s.weight('w', [3, 8]), s.weight('bias', [3])], 'y', {
      transB: 1,
      alpha: { type: 'float', value: 0.5 },
    }),
  ),
  'MatMul by a transposed weight that another node reads': linear((s, x) => {
    const t = s.add('Transpose', [s.weight('w', [3, 8])], 't', { perm: [1, 0] });
    const most = s.add('ReduceMax', [t], 'm', { keepdims: 0 });
    return s.add('Add', [s.add('MatMul', [x, t], 'h'), most], 'y');
  }),
  'Gemm with a bias that another node reads': linear((s, x) => {
    const bias = s.weight('bias', [3]);
    return s.add('Mul', [s.add('Gemm', [x, s.weight('w', [8, 3]), bias], 'h'), bias], 'y');
  }),
  'MatMul behind DequantizeLinear': linear((s, x) => {
    const levels = new Tensor(
      'int8',
      [8, 3],
      Uint8Array.from({ length: 24 }, (_, i) => (97 * i + 31) % 256),
    );
    const scale = s.weight('w.scale', Tensor.filled('float32', [], 0.01));
    return s.add('MatMul', [x, s.add('DequantizeLinear', [s.weight('w', levels), scale], 'd')], 'y');
  }, false),
  Conv: {
    make: () => {
      const s = new Sketch();
      const inputs = [s.input('x', ['batch', 2, 5, 5]), s.weight('w', [3, 2, 3, 3]), s.weight('bias', [3])];
      return s.model([s.add('Conv', inputs, 'y', { strides: [2, 2], pads: [1, 1, 1, 1] })]);
    },
    x: [2, 2, 5, 5],
    merges: true,
  },
};

async function outputOf(model: Model, x: Tensor): Promise<Tensor> {
  const session = await Session.create(decodeModel(encodeModel(model)));
  const { y } = await session.run({ x });
  await session.release();
  return y!;
}

const farthest = (a: Tensor, b: Tensor) => {
  const others = b.numbers();
  return Math.max(...a.numbers().map((v, i) => Math.abs(v - others[i]!)));
};

/** With values that are not one. */
function scaled(model: Model, feedforward: boolean): Model {
  const result = applyAdapters(model, { ia3: [{ match: 'w', feedforward }] });
  const [value] = [...result.graph.initializers.keys()].filter(v => v.name === 'w.ia3_l');
  result.graph.initializers.set(value!, spread(result.graph.initializers.get(value!)!.dims, [0.5, 2], 5));
  return result;
}

const both = Object.entries(FORMS).flatMap(([name, form]) =>
  [false, true].map(feedforward => [name, feedforward ? 'inputs' : 'outputs', form, feedforward] as const),
);

describe.each(both)('of %s, scaled %s', (_, __, { make, x: dims, merges }, feedforward) => {
  const x = spread(dims, [-1, 1], 3);

  it('start as ones', async () => {
    const model = applyAdapters(make(), { ia3: [{ match: 'w', feedforward }] });
    checkGraph(model.graph);
    expect(farthest(await outputOf(model, x), await outputOf(make(), x))).toBe(0);
  });

  it('have the gradients of finite differences', async () => {
    const ia3 = [{ match: 'w', feedforward }];
    const options = { cotangents: ['y'], ia3, wrt: ['*.ia3_l'] };
    const fed = { x, y_cotangent: spread([...(await outputOf(make(), x)).dims], [-1, 1], 7) };
    const checks = await checkGradients(make(), options, fed, await gradients(make(), options, fed));
    expect(checks.map(c => c.unchecked ?? c.passed)).toEqual([true]);
  });

  it('are merged where the weight is in floating point', async () => {
    const apart = scaled(make(), feedforward);
    const { model, merged, kept } = mergeAdapters(apart);
    checkGraph(model.graph);
    expect({ merged: merged.length, kept }).toEqual(
      merges ? { merged: 1, kept: [] } : { merged: 0, kept: ['w'] },
    );
    const [before, beside, after] = [
      await outputOf(make(), x),
      await outputOf(apart, x),
      await outputOf(model, x),
    ];
    expect(farthest(before, beside)).toBeGreaterThan(0.05);
    expect(farthest(beside, after)).toBeLessThan(1e-5);
    expect(readScales(model).length).toBe(merges ? 0 : 1);
  });
});

describe.each(both)('beside LoRA of %s, scaled %s', (name, _, { make, x: dims, merges }, feedforward) => {
  const x = spread(dims, [-1, 1], 3);
  const methods = { lora: [{ match: 'w', r: 2 }], ia3: [{ match: 'w', feedforward }] };
  const isOwn = /\.(lora_[AB]|ia3_l)$/;
  const apart = (): Model => {
    const result = applyAdapters(make(), methods);
    for (const [value, { dims }] of [...result.graph.initializers])
      if (isOwn.test(value.name)) result.graph.initializers.set(value, spread(dims, [0.5, 2], 5));
    return result;
  };

  it('have the gradients of finite differences', async () => {
    const options = { cotangents: ['y'], wrt: ['*.ia3_l', '*.lora_[AB]'] };
    const fed = { x, y_cotangent: spread([...(await outputOf(make(), x)).dims], [-1, 1], 7) };
    const checks = await checkGradients(apart(), options, fed, await gradients(apart(), options, fed));
    expect(checks.map(c => c.unchecked ?? c.passed)).toEqual([true, true, true]);
  });

  it('are merged into what both compute', async () => {
    const { model, merged, kept } = mergeAdapters(apart());
    checkGraph(model.graph);
    expect({ name, merged: merged.length, kept }).toEqual({
      ...{ name, merged: merges ? 2 : 0 },
      kept: merges ? [] : ['w', 'w'],
    });
    const [before, beside, after] = [
      await outputOf(make(), x),
      await outputOf(apart(), x),
      await outputOf(model, x),
    ];
    expect(farthest(before, beside)).toBeGreaterThan(0.05);
    expect(farthest(beside, after)).toBeLessThan(2e-5 * Math.max(1, ...beside.numbers().map(Math.abs)));
  });
});

it('train alone', async () => {
  const loss = { kind: 'cross-entropy' } as const;
  const ia3 = [{ match: 'fc1' }, { match: 'fc2', feedforward: true }];
  const { report } = await inject(mlp(), { loss, ia3 }, sessionShapes);
  const trained = report.parameters.filter(p => p.trains).map(p => `${p.value.name} ${p.value.shape}`);
  expect(trained).toEqual(['fc1.weight.ia3_l 8', 'fc2.weight.ia3_l 8']);
});

it('of two layers with one weight are merged with the biases that trained beside them', async () => {
  const s = new Sketch();
  const w = s.weight('w', [8, 8]);
  const h = s.add('Gemm', [s.input('x', ['batch', 8]), w, s.weight('b1', [8])], 'h');
  const source = s.model([s.add('Gemm', [s.add('Tanh', [h], 't'), w, s.weight('b2', [8])], 'y')]);
  const options = { loss: { kind: 'mse' }, ia3: [{ match: 'w' }], train: ['b1', 'b2'] } as const;
  const { model } = await inject(source, options, sessionShapes);
  const trainer = await Trainer.create(model);
  const x = spread([4, 8], [-1, 1], 3);
  for (let i = 0; i < 3; i++) await trainer.step({ x, target: spread([4, 8], [-1, 1], 9) }, { lr: 0.1 });
  const state = trainer.snapshot();
  await trainer.release();
  const trained = new Map([...state.graph.initializers].map(([v, t]) => [v.name, t]));
  const apart = applyAdapters(source, { ia3: [{ match: 'w' }] });
  for (const value of apart.graph.initializers.keys())
    apart.graph.initializers.set(value, trained.get(value.name)!);
  const file = join(mkdtempSync(join(tmpdir(), 'agd-onnx-test-')), 'y.onnx');
  await exportFile(state, file);
  const exported = await loadModel(file);
  expect(farthest(await outputOf(exported, x), await outputOf(apart, x))).toBeLessThan(1e-5);
  expect(farthest(await outputOf(exported, x), await outputOf(source, x))).toBeGreaterThan(0.05);
});

it.each([
  [
    { match: 'fc9' },
    "--ia3 'fc9' matches no layer that multiplies with a weight; there are 'fc1' (Gemm, 4 to 8)",
  ],
])('%j is refused', (spec, message) => {
  expect(() => applyAdapters(mlp(), { ia3: [spec] })).toThrow(message);
});

it('refuses an embedding', () => {
  const s = new Sketch();
  const model = s.model([s.add('Gather', [s.weight('w', [5, 8]), s.input('ids', ['n'], 'int64')], 'y')]);
  expect(() => applyAdapters(model, { ia3: [{ match: 'w' }] })).toThrow(
    "No IA3 vector for layer 'w' (Gather, 5 to 8): an embedding.",
  );
});

it('does not merge a vector that was moved', () => {
  const model = applyAdapters(mlp(), { ia3: [{ match: 'fc1' }] });
  const { scale } = readScales(model)[0]!;
  for (const value of model.graph.initializers.keys()) if (value.name === scale) value.name = 'other';
  expect(() => mergeAdapters(model)).toThrow(
    `The IA3 vector of layer 'fc1' was changed: '${scale}' scales no layer.`,
  );
});
