/** Virtual tokens of small models; parity with PEFT is in test/runtime/formats/prompts.test.ts. */
import { describe, expect, it } from 'vitest';
import { checkGraph } from '../../../src/graph/check-graph.js';
import type { DType } from '../../../src/graph/dtype.js';
import type { Model, Shape, Value } from '../../../src/graph/ir.js';
import { decodeModel, encodeModel } from '../../../src/graph/proto/codec.js';
import { Tensor } from '../../../src/graph/tensor.js';
import { applyAdapters } from '../../../src/passes/adapters/apply-adapters.js';
import { mergeAdapters } from '../../../src/passes/adapters/merge-adapters.js';
import { inject } from '../../../src/passes/inject.js';
import { checkGradients } from '../../../src/runtime/check-gradients.js';
import { gradients } from '../../../src/runtime/gradients.js';
import { Session, sessionShapes } from '../../../src/runtime/session.js';
import { spread } from '../../ops/vjp.js';
import { mlp, Sketch } from '../../sample.js';

const ids = Tensor.from('int64', [2, 3], BigInt64Array.of(1n, 4n, 2n, 3n, 3n, 0n));

type Shapes = { ids?: Shape; mask?: Shape; cache?: Shape };

/** Each token is its embedding plus the mean of all that the mask keeps, with keys before them if there is a cache. */
function mixer({ ids = ['batch', 'sequence'], mask, cache }: Shapes = {}, dtype: DType = 'float32'): Model {
  const s = new Sketch();
  const tokens = s.input('input_ids', ids, 'int64');
  const table = spread([6, 4], [-1, 1], 1);
  const weight = dtype === 'float32' ? table : Tensor.ofNumbers('float16', table.dims, table.floats());
  const found = s.add('Gather', [s.weight('embed.weight', weight), tokens], 'found');
  const x = dtype === 'float32' ? found : s.add('Cast', [found], 'x', { to: 1 });
  let kept: Value = x;
  if (mask) {
    const weights = s.add('Cast', [s.input('attention_mask', mask, 'int64')], 'weights', { to: 1 });
    const axis = s.weight('axis', Tensor.ints([2]));
    kept = s.add('Mul', [x, s.add('Unsqueeze', [weights, axis], 'column')], 'kept');
  }
  let sum = s.add('ReduceSum', [kept, s.weight('one', Tensor.ints([1]))], 'sum');
  const outputs: Value[] = [];
  if (cache) {
    const value = s.add(
      'Concat',
      [
        s.input('past_key_values.0.value', cache),
        s.add('Unsqueeze', [x, s.weight('at', Tensor.ints([1]))], 'h'),
      ],
      'present.0.value',
      { axis: 2 },
    );
    const key = s.add('Neg', [s.input('past_key_values.0.key', cache)], 'negated');
    sum = s.add(
      'ReduceSum',
      [s.add('Concat', [value, key], 'all', { axis: 2 }), s.weight('two', Tensor.ints([1, 2]))],
      'both',
      { keepdims: 0 },
    );
    sum = s.add('Unsqueeze', [sum, s.weight('again', Tensor.ints([1]))], 'row');
    value.type = { kind: 'tensor', dtype: 'float32', shape: ['batch', 1, 'total', 4] };
    outputs.push(value);
  }
  const y = s.add('Tanh', [s.add('Add', [x, sum], 'mixed')], 'y');
  y.type = { kind: 'tensor', dtype: 'float32', shape: ['batch', 'sequence', 4] };
  return s.model([y, ...outputs]);
}

async function run(model: Model, feeds: Record<string, Tensor>) {
  checkGraph(model.graph);
  const session = await Session.create(decodeModel(encodeModel(model)));
  const results = await session.run(feeds);
  await session.release();
  return results;
}

const promptOf = ({ graph }: Model) =>
  [...graph.initializers].find(([v]) => v.name === 'prompt_embeddings')![1];

describe('a prompt', () => {
  it('is read before the text, whose mask is longer, and cut from the output', async () => {
    const model = applyAdapters(mixer({ mask: ['batch', 'sequence'] }), {
      promptTokens: 2,
      promptInit: [5, 0],
    });
    const table = [...mixer().graph.initializers][0]![1].numbers();
    const row = (i: number) => table.slice(4 * i, 4 * i + 4);
    expect(promptOf(model).numbers()).toEqual([...row(5), ...row(0)]);
    const mask = Tensor.from('int64', [2, 3], BigInt64Array.of(1n, 1n, 0n, 1n, 1n, 1n));
    const { y } = await run(model, { input_ids: ids, attention_mask: mask });
    const text = [
      [1, 4, 2],
      [3, 3, 0],
    ];
    const kept = [
      [5, 0, 1, 4],
      [5, 0, 3, 3, 0],
    ];
    const wanted = text.flatMap((tokens, i) =>
      tokens.flatMap(t => row(t).map((x, k) => Math.tanh(x + kept[i]!.reduce((n, j) => n + row(j)[k]!, 0)))),
    );
    expect(y!.dims).toEqual([2, 3, 4]);
    y!.numbers().forEach((x, i) => void expect(x).toBeCloseTo(wanted[i]!, 5));
  });

  it.each(['float32', 'float16'] as const)(
    'of a table of %s has the gradient of finite differences',
    async dtype => {
      const options = { cotangents: ['y'], promptTokens: 2, wrt: ['prompt_embeddings'] };
      const fed = { input_ids: ids, y_cotangent: spread([2, 3, 4], [-1, 1], 7) };
      const model = mixer({}, dtype);
      if (dtype === 'float16') {
        // Differences are too coarse for 16 bits: it is enough that a gradient arrives.
        const [found] = (await gradients(model, options, fed)).gradients.values();
        expect(found!.numbers().every(x => Number.isFinite(x) && x !== 0)).toBe(true);
        return;
      }
      const checks = await checkGradients(model, options, fed, await gradients(model, options, fed));
      expect(checks.map(c => c.unchecked ?? c.passed)).toEqual([true]);
    },
  );

  it('starts as normal numbers, or as random tokens, by the seed', () => {
    const values = (options: object) =>
      promptOf(applyAdapters(mixer(), { promptTokens: 300, ...options })).numbers();
    const normal = values({ seed: 1 });
    expect(Math.sqrt(normal.reduce((n, x) => n + x * x, 0) / normal.length)).toBeCloseTo(1, 1);
    expect(values({ seed: 2 })).not.toEqual(normal);
    const rows = values({ promptInit: 'vocab' });
    expect(new Set(rows).size).toBe(24);
  });

  it('trains alone, and stays when adapters are merged', async () => {
    const loss = { kind: 'mse', output: 'y' } as const;
    const { report } = await inject(mixer(), { loss, promptTokens: 2 }, sessionShapes);
    expect(report.parameters.flatMap(p => (p.trains ? [p.value.name] : []))).toEqual(['prompt_embeddings']);
    const model = applyAdapters(mixer(), { promptTokens: 2 });
    const { model: merged, kept } = mergeAdapters(model);
    expect(kept).toEqual([]);
    expect(promptOf(merged)).toEqual(promptOf(model));
  });
});

describe('a prefix', () => {
  const cache: Shape = ['batch', 1, 'past', 4];
  const empty = Tensor.zeros('float32', [2, 1, 0, 4]);

  it('stands before the cache, of which the caller sees its own part', async () => {
    const model = applyAdapters(mixer({ cache }), { prefixTokens: 2 });
    const [values] = [promptOf(model).numbers()];
    const past = { 'past_key_values.0.key': empty, 'past_key_values.0.value': empty };
    const first = await run(model, { input_ids: ids, ...past });
    expect(first['present.0.value']!.dims).toEqual([2, 1, 3, 4]);
    // [tokens, key then value, width]: the model adds values and subtracts keys.
    const extra = (k: number) => [0, 1].reduce((n, t) => n + values[8 * t + 4 + k]! - values[8 * t + k]!, 0);
    const plain = await run(mixer({ cache }), { input_ids: ids, ...past });
    const wanted = plain.y!.numbers().map((y, i) => Math.tanh(Math.atanh(y) + extra(i % 4)));
    first.y!.numbers().forEach((x, i) => void expect(x).toBeCloseTo(wanted[i]!, 3));
    const kept = Tensor.zeros('float32', [2, 1, 3, 4]);
    const next = await run(model, {
      ...{ input_ids: ids, 'past_key_values.0.key': kept },
      'past_key_values.0.value': first['present.0.value']!,
    });
    expect(next['present.0.value']!.dims).toEqual([2, 1, 6, 4]);
  });

  it.each([
    [{ promptInit: 'vocab' }, '--prompt-init needs --prompt-tokens.'],
    [
      { promptTokens: 2 },
      "the model has a cache ('past_key_values.0.key'), before which a prompt cannot stand; use --prefix-tokens.",
    ],
  ] as const)('%j is refused', (options, message) => {
    expect(() => applyAdapters(mixer({ cache }), options)).toThrow(message);
  });

  it('needs the extents of the cache', () => {
    expect(() => applyAdapters(mixer({ cache: ['batch', 'heads', 'past', 4] }), { prefixTokens: 2 })).toThrow(
      "'past_key_values.0.key' has shape [batch,heads,past,4], and a prefix needs the same number of heads",
    );
  });
});

describe('models without a place for virtual tokens', () => {
  it.each([
    [
      mlp(),
      { promptTokens: 2 },
      'No virtual tokens: no input is looked up in a table of embeddings; the model has no lookup.',
    ],
    [
      mixer({ ids: ['batch', 3] }),
      { promptTokens: 2 },
      "the sequence of 'input_ids' is fixed at 3: export the model with a dynamic sequence.",
    ],
    [
      mixer({ mask: ['batch', 1, 'sequence', 'sequence'] }),
      { promptTokens: 2 },
      "'attention_mask' has shape [batch,1,sequence,sequence], not [batch, sequence].",
    ],
    [mixer(), { prefixTokens: 2 }, 'the model has no inputs with past keys and values'],
    [
      mixer(),
      { promptTokens: 2, promptInit: [6] },
      "--prompt-init: 6 is no token of layer 'embed' (Gather, 6 to 4), which has 0 to 5.",
    ],
  ] as const)('are refused', (model, options, message) => {
    expect(() => applyAdapters(model, options)).toThrow(message);
  });

  it('are those with a prompt already', () => {
    const model = applyAdapters(mixer(), { promptTokens: 2 });
    expect(() => applyAdapters(model, { promptTokens: 2 })).toThrow('go on training without --prompt-tokens');
  });
});
