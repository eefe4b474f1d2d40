import { describe, expect, it } from 'vitest';
import { checkGraph } from '../../../src/graph/check-graph.js';
import type { Model } from '../../../src/graph/ir.js';
import { decodeModel, encodeModel } from '../../../src/graph/proto/codec.js';
import { Tensor } from '../../../src/graph/tensor.js';
import { adapt } from '../../../src/index.js';
import { readAdapters } from '../../../src/passes/adapters/adapter-record.js';
import { addAdapters } from '../../../src/passes/adapters/add-adapters.js';
import { mergeAdapters } from '../../../src/passes/adapters/merge-adapters.js';
import { inject } from '../../../src/passes/inject.js';
import type { LoraSpec } from '../../../src/passes/options/adapters.js';
import type { InjectOptions } from '../../../src/passes/options.js';
import { valuesOf } from '../../../src/runtime/formats/peft.js';
import { Session, sessionShapes } from '../../../src/runtime/session.js';
import { spread } from '../../ops/vjp.js';
import { mlp, Sketch } from '../../sample.js';

const adapted = (model: Model, ...specs: LoraSpec[]) => addAdapters(model, specs, undefined, 0);
const named = (model: Model, name: string) =>
  [...model.graph.initializers].find(([v]) => v.name === name)![1];
const x = spread([6, 4], [-1, 1], 3);

async function run(model: Model, feeds = { x }) {
  const session = await Session.create(decodeModel(encodeModel(model)));
  const results = await session.run(feeds);
  await session.release();
  return results;
}

describe('an adapter', () => {
  it('leaves what the model computes, and its weights', async () => {
    const model = adapted(mlp(), { match: 'fc*', r: 2, alpha: 4, dropout: 0.1 });
    checkGraph(model.graph);
    expect((await run(model)).logits!.numbers()).toEqual((await run(mlp())).logits!.numbers());
    expect(readAdapters(model)).toEqual(
      ['fc1', 'fc2'].map(module => ({
        ...{ module, kind: 'linear', weight: `${module}.weight` },
        ...{ a: `${module}.weight.lora_A`, b: `${module}.weight.lora_B` },
        ...{ r: 2, alpha: 4, dropout: 0.1, rslora: false },
      })),
    );
    expect(named(model, 'fc1.weight.lora_A').dims).toEqual([4, 2]);
    expect(named(model, 'fc1.weight.lora_B').numbers()).toEqual(Array(16).fill(0));
  });

  it('is initialized as PEFT does, by the seed', () => {
    const values = (seed: number) =>
      named(addAdapters(mlp(), [{ match: 'fc1' }], undefined, seed), 'fc1.weight.lora_A').numbers();
    const specs = [{ match: 'fc1', r: 4 }];
    const a = named(addAdapters(mlp(), specs, undefined, 0), 'fc1.weight.lora_A').numbers();
    expect(Math.max(...a.map(Math.abs))).toBeLessThanOrEqual(1 / 2);
    expect(new Set(a).size).toBe(16);
    expect(() => values(0)).toThrow('rank 8');
    const other = named(addAdapters(mlp(), specs, undefined, 1), 'fc1.weight.lora_A').numbers();
    expect(other).not.toEqual(a);
  });

  it('of a pattern is not added to a layer that trains itself, such as a new head', () => {
    const modules = (specs: LoraSpec[], train: string[], notes: string[] = []) =>
      readAdapters(addAdapters(mlp(), specs, undefined, 0, notes, train)).map(({ module }) => module);
    const notes: string[] = [];
    expect(modules([{ match: '*', r: 2 }], ['fc2.*'], notes)).toEqual(['fc1']);
    expect(notes).toEqual(["--lora leaves out 'fc2' (Gemm, 8 to 3): the weight itself trains."]);
    expect(modules([{ match: '*', r: 2 }], ['fc2.bias'])).toEqual(['fc1', 'fc2']);
    // Who names the layer has both.
    expect(modules([{ match: ['*', 'fc2'], r: 2 }], ['fc2.weight'])).toEqual(['fc1', 'fc2']);
    expect(() => modules([{ match: '*', r: 2 }], ['*'])).toThrow(
      /--lora has no layer left: --train or a new head already trains 'fc1' .* in full\. Choose other layers/,
    );
  });

  it('of a pattern leaves a new head to train as a whole', async () => {
    const adapted = await adapt(mlp(), { classes: 5 });
    const injected = async (options: Partial<InjectOptions>) => {
      const loss = { kind: 'cross-entropy' } as const;
      const { model, report } = await inject(adapted.model, { loss, ...options }, sessionShapes);
      const trained = report.parameters.flatMap(p => (p.trains ? [p.value.name] : []));
      return [readAdapters(model).map(({ module }) => module), trained];
    };
    const lora = [{ match: '*', r: 2 }];
    const ofFirst = ['fc1.weight.lora_A', 'fc1.weight.lora_B'];
    expect(await injected({ lora })).toEqual([['fc1'], ['fc2.weight', 'fc2.bias', ...ofFirst]]);
    // Who names it has an adapter in place of it.
    const both = [...ofFirst, 'fc2.weight.lora_A', 'fc2.weight.lora_B'];
    expect(await injected({ lora: [{ match: ['*', 'fc2'], r: 2 }] })).toEqual([['fc1', 'fc2'], both]);
    expect(await injected({ lora, freeze: ['fc2.*'] })).toEqual([['fc1'], ofFirst]);
  });

  it('trains alone, unless --train names more', async () => {
    const trained = async (options: object) => {
      const loss = { kind: 'cross-entropy' } as const;
      const { report } = await inject(mlp(), { loss, ...options }, sessionShapes);
      return report.parameters.flatMap(p => (p.trains ? [p.value.name] : []));
    };
    const lora = [{ match: 'fc1', r: 2 }];
    expect(await trained({ lora })).toEqual(['fc1.weight.lora_A', 'fc1.weight.lora_B']);
    expect(await trained({ lora, train: ['*.bias'] })).toEqual([
      'fc1.bias',
      'fc2.bias',
      'fc1.weight.lora_A',
      'fc1.weight.lora_B',
    ]);
  });
});

describe('a layer that is narrower than the rank', () => {
  const loss = { kind: 'cross-entropy' } as const;
  const injected = (...lora: LoraSpec[]) => inject(mlp(), { loss, lora }, sessionShapes);

  it('is left out where a pattern names it, with a note', async () => {
    const { model, report } = await injected({ match: '*', r: 4 });
    expect(readAdapters(model).map(r => r.module)).toEqual(['fc1']);
    expect(report.warnings).toContain(
      "--lora leaves out 'fc2' (Gemm, 8 to 3): the rank 4 is above that of the layer.",
    );
  });

  it('is refused where it is named itself, or nothing would be left', async () => {
    const message = "--lora: rank 4 is above that of layer 'fc2' (Gemm, 8 to 3), which is at most 3.";
    await expect(injected({ match: '*', r: 2 }, { match: 'fc2', r: 4 })).rejects.toThrow(message);
    await expect(injected({ match: 'fc2*', r: 4 })).rejects.toThrow(message);
  });
});

describe('errors name what there is', () => {
  it.each([
    [
      { match: 'q_proj' },
      "--lora 'q_proj' matches no layer that multiplies with a weight; there are 'fc1' (Gemm, 4 to 8), 'fc2' (Gemm, 8 to 3).",
    ],
    [
      { match: 'fc2', r: 4 },
      "--lora: rank 4 is above that of layer 'fc2' (Gemm, 8 to 3), which is at most 3.",
    ],
  ])('%j', (spec, message) => {
    expect(() => adapted(mlp(), spec)).toThrow(message);
  });

  it('of an operator without a rule', () => {
    const s = new Sketch();
    const y = s.add('FusedGemm', [s.input('x', ['n', 4]), s.weight('w', [4, 4])], 'y', {
      activation: 'Relu',
    });
    s.graph.nodes[0]!.domain = 'com.microsoft';
    expect(() => adapted(s.model([y]), { match: 'w', r: 2 })).toThrow(
      "No adapter for layer 'w' (FusedGemm, 4 to 4): ONNX Runtime has fused its activation",
    );
  });

  it('of a product of integers, whose first input but one is a scale', () => {
    const s = new Sketch();
    const scale = s.weight('s', Tensor.filled('float32', [], 0.1));
    const zero = s.weight('z', Tensor.filled('uint8', [], 0));
    const weight = s.weight('w', Tensor.filled('uint8', [4, 3], 1));
    const q = s.add('QuantizeLinear', [s.input('x', ['N', 4]), scale, zero], 'q');
    const product = s.add('QLinearMatMul', [q, scale, zero, weight, scale, zero, scale, zero], 'p');
    const model = s.model([s.add('DequantizeLinear', [product, scale, zero], 'y')]);
    expect(() => adapted(model, { match: '*', r: 2 })).toThrow(
      "No adapter for layer 'w' (QLinearMatMul, 4 to 3): QLinearMatMul multiplies quantized numbers",
    );
  });
});

const renamed = (name: string) => (model: Model) => {
  for (const value of model.graph.initializers.keys()) if (value.name === name) value.name = 'other';
};

it.each<[string, string, (model: Model) => void]>([
  ['is not where it was added', "'fc1.weight.lora_B' are not added to a layer", renamed('fc1.weight.lora_B')],
  ['lacks a factor', "lacks 'fc1.weight.lora_A' of the adapter of 'fc1': use", renamed('fc1.weight.lora_A')],
  [
    'is described by something else',
    "entry 'agd.adapters' is damaged: it is not a list of",
    m => m.metadata.set('agd.adapters', '[1]'),
  ],
])('an adapter that %s is not merged', (_, message, change) => {
  const model = adapted(mlp(), { match: 'fc1', r: 2 });
  change(model);
  expect(() => mergeAdapters(model)).toThrow(message);
});

it('an adapter that lacks a factor is not written', () => {
  expect(() => valuesOf(adapted(mlp(), { match: 'fc1', r: 2 }))('fc1.weight.lora_C')).toThrow(
    "The model lacks 'fc1.weight.lora_C' of its adapters: use the file as agd-onnx wrote it.",
  );
});
