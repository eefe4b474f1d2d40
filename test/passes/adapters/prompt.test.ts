/** Virtual tokens of small models; parity with PEFT is in test/runtime/formats/prompts.test.ts. */
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { checkGraph } from '../../../src/graph/check-graph.js';
import type { DType } from '../../../src/graph/dtype.js';
import { loadModel } from '../../../src/graph/files.js';
import type { Model, Shape, Value } from '../../../src/graph/ir.js';
import { decodeModel, encodeModel } from '../../../src/graph/proto/codec.js';
import { Tensor } from '../../../src/graph/tensor.js';
import { applyAdapters, withAdapters } from '../../../src/passes/adapters/apply-adapters.js';
import { mergeAdapters } from '../../../src/passes/adapters/merge-adapters.js';
import { inject } from '../../../src/passes/inject.js';
import { checkGradients } from '../../../src/runtime/check-gradients.js';
import { gradients } from '../../../src/runtime/gradients.js';
import { Session, sessionShapes } from '../../../src/runtime/session.js';
import { spread } from '../../ops/vjp.js';
import { mlp, Sketch } from '../../sample.js';

const MODELS = join(import.meta.dirname, '../../runtime/formats/peft/prompts');

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

  it('is cut from outputs whose shapes only the runtime tells, and needs them', async () => {
    const declared = mixer();
    const open = mixer();
    open.graph.outputs[0]!.type = undefined;
    const options = { promptTokens: 2, seed: 3 };
    const [cut, wanted] = await Promise.all([
      withAdapters(open, options, sessionShapes),
      applyAdapters(declared, options),
    ]);
    const [found, same] = await Promise.all([cut, wanted].map(model => run(model, { input_ids: ids })));
    expect(found!.y!.dims).toEqual([2, 3, 4]);
    expect(found!.y!.numbers()).toEqual(same!.y!.numbers());
    expect(open.graph.outputs[0]!.type).toBeUndefined();
    expect(() => applyAdapters(open, options)).toThrow(
      "No virtual tokens: they are cut from outputs by their shapes, and that of 'y' is not known.",
    );
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
      "the model has a cache ('past_key_values.0.key'), before which a prompt cannot be inserted; use --prefix-tokens.",
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

/** Extents in the file that are not those of a run, by the names that inputs and outputs give to numbers. */
async function falseExtents(file: Uint8Array, feeds: Record<string, Tensor>): Promise<string[]> {
  const model = decodeModel(file);
  const { graph } = model;
  const values = graph.nodes.flatMap(node => node.outputs.filter(v => v?.shape) as Value[]);
  const declared = [...graph.inputs, ...values].map(v => [v.name, v.shape!] as const);
  graph.outputs = values;
  for (const value of values) value.type = undefined;
  const found = { ...feeds, ...(await run(model, feeds)) };
  const known = new Map<unknown, number>();
  return declared.flatMap(([name, shape]) => {
    const { dims } = found[name]!;
    shape.forEach((d, i) => void (typeof d === 'string' && !known.has(d) && known.set(d, dims[i]!)));
    const isTrue =
      shape.length === dims.length && shape.every((d, i) => d === null || (known.get(d) ?? d) === dims[i]);
    return isTrue ? [] : [`${name}: [${shape}] is [${dims}]`];
  });
}

describe('extents in the file', () => {
  const ints = (batch: number, length: number, value = 1) =>
    Tensor.from('int64', [batch, length], new BigInt64Array(batch * length).fill(BigInt(value)));
  const sizes = [
    [2, 3, 0],
    [4, 5, 2],
  ] as const;

  it.each(sizes)('are true with a prompt for %i texts of %i tokens', async (batch, length) => {
    const model = await loadModel(join(MODELS, 'bert.onnx'));
    // A value for each pair of tokens, which is not cut.
    const pairs = model.graph.nodes
      .flatMap(node => node.outputs)
      .find(v => `${v?.shape}` === 'batch,2,sequence,sequence');
    model.graph.outputs = [...model.graph.outputs, pairs!];
    const file = encodeModel(applyAdapters(model, { promptTokens: 4 }));
    const longer = decodeModel(file)
      .graph.nodes.flatMap(node => node.outputs)
      .find(v => v?.name === 'input_ids_with_prompt');
    expect(longer!.shape).toEqual(['batch', 'sequence_with_prompt']);
    expect(decodeModel(file).graph.outputs[1]!.shape).toEqual([
      'batch',
      2,
      ...Array(2).fill('sequence_with_prompt'),
    ]);
    const names = ['input_ids', 'attention_mask', 'token_type_ids'];
    const feeds = Object.fromEntries(names.map(name => [name, ints(batch, length)]));
    expect(await falseExtents(file, feeds)).toEqual([]);
  });

  it.each(sizes)('are true with a prefix for %i texts of %i tokens after %i', async (batch, length, past) => {
    const model = await loadModel(join(MODELS, 'gpt2-cached.onnx'));
    const cache = model.graph.inputs.filter(v => v.shape?.length === 4);
    const file = encodeModel(applyAdapters(model, { prefixTokens: 4 }));
    const feeds = {
      ...{ input_ids: ints(batch, length), position_ids: ints(batch, length) },
      attention_mask: ints(batch, past + length),
      ...Object.fromEntries(cache.map(v => [v.name, Tensor.zeros('float32', [batch, 2, past, 8])])),
    };
    expect(await falseExtents(file, feeds)).toEqual([]);
  });

  it('have no name where two inputs have the same, and one of them is longer', () => {
    const shapes = { mask: ['batch', 'sequence'], cache: ['batch', 1, 'past', 4] } as const;
    const model = applyAdapters(mixer(shapes), { prefixTokens: 2 });
    expect(model.graph.outputs[0]!.shape).toEqual(['batch', null, 4]);
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

  it('are those whose metadata describe no virtual tokens', () => {
    const model = applyAdapters(mixer(), { promptTokens: 2 });
    for (const text of ['{', '[]', '{"kind":"prompt","name":"p"}']) {
      model.metadata.set('agd.prompt', text);
      expect(() => applyAdapters(model, { promptTokens: 2 })).toThrow(
        "The metadata entry 'agd.prompt' is damaged: it does not describe virtual tokens.",
      );
    }
  });

  it('are those with a prompt already', () => {
    const model = applyAdapters(mixer(), { promptTokens: 2 });
    expect(() => applyAdapters(model, { promptTokens: 2 })).toThrow(
      'continue training without --prompt-tokens',
    );
  });
});
