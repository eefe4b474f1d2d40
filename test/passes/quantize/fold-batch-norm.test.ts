import { describe, expect, it } from 'vitest';
import { checkGraph } from '../../../src/graph/check-graph.js';
import { cloneModel } from '../../../src/graph/clone.js';
import type { Model, Value } from '../../../src/graph/ir.js';
import { Names } from '../../../src/graph/names.js';
import { Tensor } from '../../../src/graph/tensor.js';
import { fit as fitModel } from '../../../src/index.js';
import { type AttrInit, float } from '../../../src/ops/core/builder.js';
import { foldBatchNorm } from '../../../src/passes/quantize/fold-batch-norm.js';
import { Session } from '../../../src/runtime/session.js';
import { spread } from '../../ops/vjp.js';
import { Sketch } from '../../sample.js';

const IMAGE = spread([6, 4, 5, 5], [-1, 1], 3);
const ROWS = spread([6, 4], [-1, 1], 3);

function normalized(s: Sketch, x: Value, name = 'y'): Value {
  const parameters = [
    s.weight('gamma', spread([6], [-2, 2], 11)),
    s.weight('beta', spread([6], [-1, 1], 12)),
    s.weight('mean', spread([6], [-1, 1], 13)),
    s.weight('var', spread([6], [0.1, 2], 14)),
  ];
  return s.add('BatchNormalization', [x, ...parameters], name, { epsilon: float(0.001) });
}

type Layer = {
  op: string;
  weight: readonly number[];
  bias?: readonly number[];
  attrs?: AttrInit;
};
const LAYERS: Record<string, Layer> = {
  Conv: { op: 'Conv', weight: [6, 4, 3, 3] },
  'Conv with bias': { op: 'Conv', weight: [6, 4, 3, 3], bias: [6] },
  'grouped Conv': { op: 'Conv', weight: [6, 2, 3, 3], bias: [6], attrs: { group: 2 } },
  ConvTranspose: { op: 'ConvTranspose', weight: [4, 6, 3, 3], bias: [6] },
  'grouped ConvTranspose': { op: 'ConvTranspose', weight: [4, 3, 3, 3], attrs: { group: 2 } },
  Gemm: { op: 'Gemm', weight: [4, 6], bias: [6] },
  'Gemm with a transposed weight': { op: 'Gemm', weight: [6, 4], attrs: { transB: 1 } },
  'Gemm with a bias of one row': { op: 'Gemm', weight: [4, 6], bias: [1, 6] },
  'Gemm with one bias for all channels': { op: 'Gemm', weight: [4, 6], bias: [1] },
};

function sketch({ op, weight, bias, attrs = {} }: Layer): { s: Sketch; layer: Value; y: Value } {
  const s = new Sketch();
  const x = s.input('x', op === 'Gemm' ? ['n', 4] : ['n', 4, 5, 5]);
  const layer = s.add(op, [x, s.weight('w', weight), ...(bias ? [s.weight('b', bias)] : [])], 'c', attrs);
  return { s, layer, y: normalized(s, layer) };
}

const modelOf = (layer: Layer) => {
  const { s, y } = sketch(layer);
  return s.model([y], 17);
};
const inputOf = ({ graph }: Model) => ({ x: graph.nodes.some(n => n.opType === 'Gemm') ? ROWS : IMAGE });

async function run(model: Model) {
  const session = await Session.create(model, { optimize: false });
  const results = await session.run(inputOf(model));
  await session.release();
  return Object.values(results).map(t => t.numbers());
}

function folded(source: Model): Model {
  const model = cloneModel(source);
  foldBatchNorm(model, Names.of(model));
  return model;
}
const operators = ({ graph }: Model) => graph.nodes.map(n => n.opType);

describe('foldBatchNorm', () => {
  it.each(Object.entries(LAYERS))('keeps what the model computes at inference (%s)', async (_, layer) => {
    const source = modelOf(layer);
    const model = folded(source);
    expect(operators(model)).toEqual([layer.op]);
    checkGraph(model.graph);
    const [before, after] = [await run(source), await run(model)];
    for (const [i, y] of before[0]!.entries()) expect(after[0]![i]).toBeCloseTo(y, 4);
  });

  it.each([
    ['a bias with rows of its own', { op: 'Gemm', weight: [4, 6], bias: [6, 6] }],
    ['a bias for each row', { op: 'Gemm', weight: [4, 6], bias: [6, 1] }],
    ['a factor', { op: 'Gemm', weight: [4, 6], attrs: { alpha: float(2) } }],
  ] satisfies [string, Layer][])('leaves a Gemm with %s', (_, layer) => {
    expect(operators(folded(modelOf(layer)))).toEqual(['Gemm', 'BatchNormalization']);
  });

  it('leaves a layer whose output is read elsewhere, or returned', () => {
    const read = sketch(LAYERS.Conv!);
    const sum = read.s.add('Add', [read.layer, read.y], 'sum');
    expect(operators(folded(read.s.model([sum])))).toEqual(['Conv', 'BatchNormalization', 'Add']);
    const returned = sketch(LAYERS.Conv!);
    const model = returned.s.model([returned.y, returned.layer]);
    expect(operators(folded(model))).toEqual(['Conv', 'BatchNormalization']);
  });

  it('leaves the weight and bias of other layers as they are', async () => {
    const { s, y } = sketch(LAYERS['Conv with bias']!);
    const [w, b] = s.graph.initializers.keys();
    const source = s.model([y, s.add('Conv', [s.graph.inputs[0]!, w!, b!], 'z')], 17);
    const model = folded(source);
    expect(operators(model)).toEqual(['Conv', 'Conv']);
    const [before, after] = [await run(source), await run(model)];
    for (const [k, numbers] of before.entries())
      for (const [i, y] of numbers.entries()) expect(after[k]![i]).toBeCloseTo(y, 4);
  });

  it.each(Object.entries(LAYERS))('trains, and exports what validation computed (%s)', async (_, layer) => {
    const source = modelOf(layer);
    const x = inputOf(source).x;
    const [y] = await run(source);
    const dims = layer.op === 'Gemm' ? [6, 6] : [6, 6, ...(layer.op === 'Conv' ? [3, 3] : [7, 7])];
    const target = Tensor.ofNumbers(
      'float32',
      dims,
      y!.map(n => 0.5 * n + 0.1),
    );
    const data = new Map([
      ['x', x],
      ['target', target],
    ]);
    const result = await fitModel(source, data, {
      ...{ loss: 'mse', qat: { weights: 'int8', reduceRange: true }, validation: data },
      ...{ epochs: 3, batchSize: 6, lr: 1e-2, export: 'last' },
    });
    const losses = result.history.epochs.map(e => e.validation!.loss);
    expect(losses[2]).toBeLessThan(losses[0]!);
    expect(operators(result.model)).not.toContain('BatchNormalization');
    const types = [...result.model.graph.initializers].map(([v, t]) => `${v.name} ${t.dtype}`);
    expect(types).toContain('w_quantized int8');
    expect(types.filter(t => /^(w|b|gamma|beta|mean|var) /.test(t))).toEqual([]);
    const [z] = await run(result.model);
    const mse = z!.reduce((sum, n, i) => sum + (n - target.at(i)) ** 2, 0) / z!.length;
    expect(Math.abs(mse / losses[2]! - 1)).toBeLessThan(1e-3);
  });
});
