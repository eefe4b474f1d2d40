import { describe, expect, it } from 'vitest';
import { Graph, Model, Node, Value } from '../../src/graph/ir.js';
import { Tensor } from '../../src/graph/tensor.js';
import { toAttrs } from '../../src/ops/core/builder.js';
import { checkVjp, floatsOf, gradients, spread } from './vjp.js';

const int8 = (values: number[], dims = [values.length]) =>
  new Tensor('int8', dims, Int8Array.from(values) as never);
const bytes = (values: number[], dims = [values.length]) =>
  new Tensor('uint8', dims, Uint8Array.from(values));

describe('DequantizeLinear', () => {
  const x = int8([-3, 0, 5, 7, -8, 1, 100, -128], [2, 4]);
  it('per tensor', () => checkVjp('DequantizeLinear', [x, floatsOf([0.3], []), int8([2], [])]));
  it('without a zero point', () => checkVjp('DequantizeLinear', [x, floatsOf([0.3], [])]));
  it.each([false, true])('per axis (symbolic: %s)', symbolic =>
    checkVjp('DequantizeLinear', [x, floatsOf([0.5, 0.7]), int8([2, -1])], { attrs: { axis: 0 }, symbolic }),
  );
  it('along the last axis', () =>
    checkVjp('DequantizeLinear', [x, floatsOf([0.5, 0.7, 0.2, 0.1]), int8([2, -1, 0, 3])], {
      attrs: { axis: -1 },
    }));
  it.each([
    [2, false],
    [3, false],
    [3, true],
  ])('in blocks of %i (symbolic: %s)', (block_size, symbolic) =>
    checkVjp('DequantizeLinear', [x, [2, 2], int8([1, 0, -4, 2], [2, 2])], {
      attrs: { axis: 1, block_size },
      opset: 21,
      range: [0.5, 1],
      symbolic,
    }),
  );
});

it('DynamicQuantizeLinear has a differentiable scale', async () => {
  const options = { outputs: 3, cotangents: [1], tolerance: 1e-5 };
  await checkVjp('DynamicQuantizeLinear', [[2, 3]], options);
  await checkVjp('DynamicQuantizeLinear', [[2, 3]], { ...options, range: [0.5, 2] });
});

describe('QuantizeLinear', () => {
  const x = floatsOf([-100, -1.3, 0.2, 1.1, 1.6, 90], [2, 3]);
  const dy = spread([2, 3]);

  it('stops the gradient', () =>
    expect(fakeQuantization([x, floatsOf([0.5], [])], {}, dy, false)).rejects.toThrow('No gradient arrives'));

  // What falls outside has no gradient; the scale's is dy * (quantized - x / scale), or the bound outside.
  it('passes straight through on request, per tensor', async () => {
    const [dx, ds] = await fakeQuantization([x, floatsOf([0.5], []), bytes([128], [])], {}, dy);
    expect(dx!.numbers()).toEqual(masked(dy, [0, 1, 1, 1, 1, 0]));
    expect(ds!.dims).toEqual([]);
    const levels = [-128, -3 + 2.6, 0 - 0.4, 2 - 2.2, 3 - 3.2, 127];
    expect(ds!.numbers()[0]).toBeCloseTo(dot(dy, levels), 3);
  });

  it('per axis, in place of a zero point', async () => {
    const [dx, ds] = await fakeQuantization([x, floatsOf([1, 0.5])], { axis: 0 }, dy);
    expect(dx!.numbers()).toEqual(masked(dy, [0, 0, 1, 1, 1, 1]));
    expect(ds!.numbers()[0]).toBeCloseTo(dot(dy, [0, 0, 0 - 0.2, 0, 0, 0]), 4);
    expect(ds!.numbers()[1]).toBeCloseTo(dot(dy, [0, 0, 0, 2 - 2.2, 3 - 3.2, 180 - 180]), 4);
  });

  it('in blocks, through an operator that moves integers', async () => {
    const scales = floatsOf([1, 0.5, 0.25, 2], [2, 2]);
    const attrs = { axis: 1, block_size: 2, output_dtype: 3 };
    const [dx, ds] = await fakeQuantization([x, scales], attrs, dy, true, 'Identity');
    expect(dx!.numbers()).toEqual(masked(dy, [1, 1, 1, 1, 1, 1]));
    expect(ds!.dims).toEqual([2, 2]);
    const errors = [0, -1 + 1.3, 0 - 0.4, 4 - 4.4, 6 - 6.4, 45 - 45];
    const blocks = [[0, 1], [2], [3, 4], [5]];
    blocks.forEach((block, i) => {
      const inBlock = errors.map((e, at) => (block.includes(at) ? e : 0));
      expect(ds!.numbers()[i]).toBeCloseTo(dot(dy, inBlock), 3);
    });
  });
});

/** Gradients of <dy, dequantize(quantize(x))> for x and the scale. */
async function fakeQuantization(
  inputs: Tensor[],
  attrs: Record<string, number>,
  dy: Tensor,
  straightThrough = true,
  between?: string,
): Promise<Tensor[]> {
  const graph = new Graph('test');
  graph.inputs = inputs.map((t, i) => new Value(`x${i}`, { kind: 'tensor', dtype: t.dtype, shape: t.dims }));
  const [x, ...rest] = graph.inputs as [Value, ...Value[]];
  const [q, p] = [new Value('q'), new Value('p')];
  const { output_dtype: _, ...shared } = attrs;
  graph.append(new Node('QuantizeLinear', [x, ...rest], [q], toAttrs(attrs)));
  if (between) graph.append(new Node(between, [q], [p]));
  graph.append(new Node('DequantizeLinear', [between ? p : q, ...rest], [new Value('y')], toAttrs(shared)));
  graph.outputs = [new Value('y')];
  const model = new Model(graph);
  model.irVersion = 10;
  model.opsetImports = new Map([['', 21]]);
  const feeds = Object.fromEntries(inputs.map((t, i) => [`x${i}`, t]));
  return gradients(model, [x, rest[0]!], { y: dy }, feeds, { options: { straightThrough } });
}

const masked = (dy: Tensor, mask: number[]) => dy.numbers().map((d, i) => (mask[i] ? d : 0));
const dot = (dy: Tensor, by: number[]) => dy.numbers().reduce((sum, d, i) => sum + d * by[i]!, 0);
