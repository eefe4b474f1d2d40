/** What is said of a file that was quantized, and what of it trains. */
import { describe, expect, it } from 'vitest';
import { type Model, Value } from '../../../src/graph/ir.js';
import { Tensor } from '../../../src/graph/tensor.js';
import { gradients, inject, inspect } from '../../../src/index.js';
import { floatsOf, spread } from '../../ops/vjp.js';
import { Sketch } from '../../sample.js';

/** Small enough that no processor's 16-bit sums of two products overflow. */
const int8 = (dims: readonly number[]) => {
  const count = dims.reduce((n, d) => n * d, 1);
  const data = Int8Array.from({ length: count }, (_, i) => ((53 * i + 7) % 121) - 60);
  return new Tensor('int8', dims, new Uint8Array(data.buffer));
};
const zero = new Tensor('int8', [], Uint8Array.of(0));

/** x @ w as a dynamically quantized file has it, the weights in steps of 1/100. */
function product(s: Sketch, x: Value, name: string, dims: readonly number[]): Value {
  const q = s.add('DynamicQuantizeLinear', [x], `${name}_q`);
  const [scale, from] = [new Value(`${name}_s`), new Value(`${name}_z`)];
  s.graph.nodes.at(-1)!.outputs = [q, scale, from];
  const w = s.weight(`${name}_quantized`, int8(dims));
  const sums = s.add('MatMulInteger', [q, w, from, s.weight(`${name}_zero`, zero)], `${name}_sums`);
  const steps = s.add(
    'Mul',
    [scale, s.weight(`${name}_scale`, Tensor.filled('float32', [dims[1]!], 0.01))],
    `${name}_steps`,
  );
  return s.add('Mul', [s.add('Cast', [sums], `${name}_wide`, { to: 1 }), steps], `${name}_product`);
}

/** Two layers with biases, and a way past the second. */
function quantizedNet(): Model {
  const s = new Sketch();
  const x = s.input('x', ['batch', 4]);
  const h = s.add('Add', [product(s, x, 'w1', [4, 4]), s.weight('b1', [4])], 'h');
  const t = s.add('Tanh', [h], 't');
  const past = s.add('Add', [t, product(s, t, 'w2', [4, 4])], 'past');
  return s.model([s.add('Add', [past, s.weight('b2', [4])], 'y')]);
}

/** The same in floating point. */
function plainNet(): Model {
  const s = new Sketch();
  const w = (name: string) =>
    s.weight(
      name,
      floatsOf(
        int8([4, 4])
          .numbers()
          .map(q => q * 0.01),
        [4, 4],
      ),
    );
  const x = s.input('x', ['batch', 4]);
  const h = s.add('Add', [s.add('MatMul', [x, w('w1')], 'p'), b('b1')], 'h');
  const t = s.add('Tanh', [h], 't');
  const past = s.add('Add', [t, s.add('MatMul', [t, w('w2')], 'q')], 'past');
  return s.model([s.add('Add', [past, b('b2')], 'y')]);
  function b(name: string) {
    const [, tensor] = [...quantizedNet().graph.initializers].find(([v]) => v.name === name)!;
    return s.weight(name, tensor);
  }
}

const loss = { kind: 'mse' } as const;
const trained = async (options: object) =>
  (await inject(quantizedNet(), { loss, ...options })).report.parameters
    .filter(p => p.trains)
    .map(p => p.value.name);

describe('a dynamically quantized file', () => {
  it('is rejected, with a description and the alternatives', () =>
    expect(inject(quantizedNet(), { loss })).rejects.toMatchObject({
      code: 'no-gradient',
      message:
        "The model is dynamically quantized: 2 of its weights, such as 'w1_quantized', are stored as 8-bit integers in " +
        'MatMulInteger, and no gradient passes DynamicQuantizeLinear, MatMulInteger. --straight-through lets it pass and ' +
        "trains 'b1'; without it only 'b2' can train: --train b2. Weights stored as integers never train: for that, train " +
        'the floating-point file that this one was made from, and quantize it afterwards.',
    }));
  it('is rejected by gradients too, also if a requested parameter would get only part of its gradient', async () => {
    const fed = { x: spread([3, 4]), target: spread([3, 4]) };
    await expect(gradients(quantizedNet(), { loss }, fed)).rejects.toMatchObject({ code: 'no-gradient' });
    await expect(inject(quantizedNet(), { loss, train: ['b1'], freeze: ['b2'] })).rejects.toMatchObject({
      code: 'no-gradient',
    });
  });
  it('trains what needs no gradient through rounding, where that is named', async () =>
    expect(await trained({ train: ['b2'] })).toEqual(['b2']));
  it('has the gradients of the floating-point file, straight through', async () => {
    const fed = { x: spread([3, 4]), target: spread([3, 4], [-1, 1], 5) };
    const options = { loss, straightThrough: true };
    const found = await gradients(quantizedNet(), options, fed);
    expect([...found.gradients.keys()]).toEqual(['b1', 'b2']);
    const wanted = await gradients(plainNet(), { loss, wrt: ['b1', 'b2'] }, fed);
    for (const [name, grad] of wanted.gradients) {
      const [a, b] = [grad.numbers(), found.gradients.get(name)!.numbers()];
      const size = Math.max(...a.map(Math.abs));
      a.forEach((g, i) => {
        expect(Math.abs(g - b[i]!) / size).toBeLessThan(0.05);
      });
    }
  });
  it('is inspected with and without straight-through gradients', async () => {
    const why = async (straightThrough: boolean) => {
      const found = await inspect(quantizedNet(), { straightThrough });
      return {
        reasons: Object.fromEntries(found.parameters.map(p => [p.name, p.why])),
        refused: found.needs.some(n => n.startsWith('The model is dynamically quantized')),
      };
    };
    const same = {
      b2: 'a weight',
      w1_scale: 'a scale of quantization',
      w2_scale: 'a scale of quantization',
      w1_quantized: '8-bit integers in MatMulInteger',
      w2_quantized: '8-bit integers in MatMulInteger',
    };
    expect(await why(true)).toEqual({ reasons: { b1: 'a weight', ...same }, refused: false });
    const b1 = 'its gradient stops where the model rounds: --straight-through trains it';
    expect(await why(false)).toEqual({ reasons: { b1, ...same }, refused: true });
  });
});

describe('weights behind DequantizeLinear', () => {
  const net = (bias: boolean) => {
    const s = new Sketch();
    const inputs = [s.weight('w_quantized', int8([4, 3])), s.weight('w_scale', floatsOf([0.01])), null];
    const w = s.add('DequantizeLinear', inputs, 'w', { axis: 0 });
    const y = s.add('MatMul', [s.input('x', ['batch', 4]), w], 'p');
    return s.model([bias ? s.add('Add', [y, s.weight('b', [3])], 'y') : y]);
  };
  it('are listed among what does not train', async () => {
    const { report } = await inject(net(true), { loss });
    expect(report.parameters.map(p => [p.value.name, p.trains, p.why])).toEqual([
      ['w_scale', false, 'a setting of DequantizeLinear'],
      ['b', true, 'a weight'],
      ['w_quantized', false, '8-bit integers behind DequantizeLinear'],
    ]);
  });
  it('are named where nothing else is left', () =>
    expect(inject(net(false), { loss })).rejects.toMatchObject({
      code: 'nothing-to-train',
      message: expect.stringContaining(
        "1 of the weights, such as 'w_quantized', are stored as 8-bit integers behind DequantizeLinear: those do not train. --qat int8 trains those of static quantization, --lora GLOB adapters of layers of weight-only quantization.",
      ),
    }));
});

it('weights that the model rounds when it runs are named with --straight-through', () => {
  const s = new Sketch();
  const scale = s.weight('scale', floatsOf([0.01]));
  const q = s.add('QuantizeLinear', [s.weight('w', [4, 3]), scale, s.weight('zero', zero)], 'q');
  const w = s.add('DequantizeLinear', [q, scale, null], 'w_rounded');
  const model = s.model([s.add('MatMul', [s.input('x', ['batch', 4]), w], 'y')]);
  return expect(inject(model, { loss })).rejects.toMatchObject({
    code: 'no-gradient',
    message:
      'The model is quantized: it rounds its weights when it runs, and no gradient passes QuantizeLinear. ' +
      "--straight-through lets it pass and trains 'w'; without it nothing can train.",
  });
});
