/** Derivatives as files: against PyTorch, against each other, and against finite differences. */
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { checkGraph } from '../../../src/graph/check-graph.js';
import { loadModel } from '../../../src/graph/files.js';
import type { Model } from '../../../src/graph/ir.js';
import { decodeModel, encodeModel } from '../../../src/graph/proto/codec.js';
import type { Tensor } from '../../../src/graph/tensor.js';
import { type DerivativeOptions, differentiate } from '../../../src/index.js';
import { readSafetensors } from '../../../src/runtime/data/safetensors.js';
import { Session } from '../../../src/runtime/session.js';
import { floatsOf, spread } from '../../ops/vjp.js';
import { mlp, Sketch } from '../../sample.js';

type Tensors = Record<string, Tensor>;

/** The derivative's file as it is read back, and what a run of it gives. */
async function derived(model: Model, options: DerivativeOptions, feeds: Tensors) {
  const made = await differentiate(model, options);
  checkGraph(made.model.graph);
  const read = decodeModel(encodeModel(made.model));
  const session = await Session.create(read);
  const results = await session.run(feeds);
  await session.release();
  return { outputs: made.results.map(r => r.output), model: read, results };
}

function expectClose(found: Tensor | undefined, wanted: Tensor, tolerance = 2e-5) {
  expect(found?.dims).toEqual(wanted.dims);
  const [a, b] = [found!.numbers(), wanted.numbers()];
  const scale = Math.max(1e-3, ...b.map(Math.abs));
  expect(Math.max(...a.map((x, i) => Math.abs(x - b[i]!)))).toBeLessThan(tolerance * scale);
}

const FOLDER = join(import.meta.dirname, '../adapt');
const WRT: Record<string, string[]> = {
  resnet: ['fc.weight', 'image'],
  squeezenet: ['features.2.bias', 'classifier.1.weight', 'image'],
  bert: ['net.bert.encoder.layer.0.output.dense.bias', 'net.bert.embeddings.LayerNorm.weight'],
};

describe.each(Object.keys(WRT).flatMap(name => [[name, 'legacy'] as const, [name, 'dynamo'] as const]))(
  'a %s of the %s exporter has the derivatives of PyTorch',
  (name, exporter) => {
    const wrt = WRT[name]!;
    const load = async () => {
      const model = await loadModel(join(FOLDER, `${name}-${exporter}.onnx`));
      const { tensors } = await readSafetensors(join(FOLDER, `${name}-derivatives.safetensors`));
      const inputs = Object.fromEntries(model.graph.inputs.map(v => [v.name, tensors.get(v.name)!]));
      const all = (kind: string) => Object.fromEntries(wrt.map(x => [x, tensors.get(`${x}|${kind}`)!]));
      return { model, tensors, inputs, all };
    };
    const tangents = (all: Tensors) =>
      Object.fromEntries(Object.entries(all).map(([x, t]) => [`${x}_tangent`, t]));

    it('vjp and jvp', async () => {
      const { model, tensors, inputs, all } = await load();
      const cotangent = { logits_cotangent: tensors.get('cotangent')! };
      const vjp = await derived(model, { wrt, mode: 'vjp' }, { ...inputs, ...cotangent });
      for (const x of wrt) expectClose(vjp.results[`${x}_grad`], all('vjp')[x]!);
      const jvp = await derived(model, { wrt, mode: 'jvp' }, { ...inputs, ...tangents(all('tangent')) });
      expectClose(jvp.results.logits_tangent, tensors.get('jvp')!);
    });

    it('jacobian', async () => {
      const { model, tensors, inputs } = await load();
      const { results } = await derived(model, { wrt: wrt.slice(0, 1), mode: 'jacobian' }, inputs);
      expectClose(results[`logits_${wrt[0]}_jacobian`], tensors.get('jacobian')!);
    });

    it('gradient, hvp and hessian of a loss', async () => {
      const { model, tensors, inputs, all } = await load();
      const loss = { kind: 'cross-entropy' } as const;
      const feeds = { ...inputs, target: tensors.get('target')! };
      const gradient = await derived(model, { loss, wrt }, feeds);
      expectClose(gradient.results.loss, tensors.get('gradient_loss')!);
      for (const x of wrt) expectClose(gradient.results[`${x}_grad`], all('gradient')[x]!);
      const hvp = await derived(model, { loss, wrt, mode: 'hvp' }, { ...feeds, ...tangents(all('tangent')) });
      for (const x of wrt) expectClose(hvp.results[`${x}_hvp`], all('hvp')[x]!, 1e-4);
      const [x] = wrt as [string];
      const hessian = await derived(model, { loss, wrt: [x], mode: 'hessian' }, feeds);
      expectClose(hessian.results[`${x}_${x}_hessian`], tensors.get('hessian')!, 1e-4);
    });
  },
);

const x = spread([3, 4], [-1, 1], 4);

describe('the file', () => {
  it('names inputs and outputs by what they belong to, and keeps free extents', async () => {
    const { model, directions, results } = await differentiate(mlp(), { wrt: ['x', 'fc1.*'], mode: 'jvp' });
    expect(directions).toEqual([
      { of: 'x', input: 'x_tangent' },
      { of: 'fc1.weight', input: 'fc1.weight_tangent' },
      { of: 'fc1.bias', input: 'fc1.bias_tangent' },
    ]);
    expect(results).toEqual([{ of: 'logits', output: 'logits_tangent' }]);
    expect(model.graph.inputs.map(v => [v.name, v.shape])).toEqual([
      ['x', ['batch', 4]],
      ['x_tangent', ['batch', 4]],
      ['fc1.weight_tangent', [4, 8]],
      ['fc1.bias_tangent', [8]],
      ['fc1.weight', [4, 8]],
      ['fc1.bias', [8]],
    ]);
    expect(model.graph.outputs.map(v => v.name)).toEqual(['logits', 'logits_tangent']);
    expect(JSON.parse(model.metadata.get('agd.derivatives')!)).toEqual({ mode: 'jvp', directions, results });
  });

  it('has rows of any number of samples', async () => {
    const options = { wrt: ['x'], mode: 'jacobian' } as const;
    for (const count of [1, 3]) {
      const feeds = { x: spread([count, 4], [-1, 1], 4) };
      const { results } = await derived(mlp(), options, feeds);
      const jacobian = results.logits_x_jacobian!;
      expect(jacobian.dims).toEqual([count, 3, count, 4]);
      // No sample depends on another.
      const numbers = jacobian.numbers();
      for (let i = 0; i < count; i++)
        for (let j = 0; j < count; j++)
          for (let k = 0; k < 12; k++) {
            const value = numbers[((i * 3 + Math.floor(k / 4)) * count + j) * 4 + (k % 4)]!;
            if (i !== j) expect(value).toBe(0);
          }
    }
  });

  it('differentiates an inner value, several values, and at other parameters than its own', async () => {
    const model = mlp();
    const { results } = await derived(
      model,
      { of: ['a', 'logits'], wrt: ['fc1.bias'], mode: 'jacobian' },
      { x },
    );
    const a = results.a!.numbers();
    const jacobian = results['a_fc1.bias_jacobian']!;
    expect(jacobian.dims).toEqual([3, 8, 8]);
    jacobian.numbers().forEach((value, i) => {
      const [row, unit, by] = [Math.floor(i / 64), Math.floor(i / 8) % 8, i % 8];
      expect(value).toBeCloseTo(unit === by ? 1 - a[8 * row + unit]! ** 2 : 0, 5);
    });
    expect(results['logits_fc1.bias_jacobian']!.dims).toEqual([3, 3, 8]);
    const { model: read } = await differentiate(model, { of: ['a'], wrt: ['fc1.bias'], mode: 'jacobian' });
    const bias = [...read.graph.initializers.keys()].find(v => v.name === 'fc1.bias')!;
    expect(read.graph.inputs).toContain(bias);
  });

  it('is zeros where a value does not depend on another, or not to the second order', async () => {
    const s = new Sketch();
    const [p, q] = [s.input('p', [2]), s.input('q', [3])];
    const product = s.add('Mul', [p, s.weight('c', floatsOf([2, 3]))], 'product');
    const y = s.add('ReduceSum', [product], 'y', { keepdims: 0 });
    const other = s.add('Exp', [q], 'other');
    const model = s.model([y, other]);
    const feeds = { p: floatsOf([1, 2]), q: floatsOf([1, 2, 3]) };
    const gradient = await derived(model, { of: ['y'], wrt: ['p', 'q'] }, feeds);
    expect(gradient.results.p_grad!.numbers()).toEqual([2, 3]);
    expect(gradient.results.q_grad!.numbers()).toEqual([0, 0, 0]);
    const hessian = await derived(model, { of: ['y'], wrt: ['p', 'q'], mode: 'hessian' }, feeds);
    expect(hessian.results.p_q_hessian!.dims).toEqual([2, 3]);
    expect(hessian.outputs).toHaveLength(4);
    for (const output of hessian.outputs)
      expect(hessian.results[output]!.numbers().every(v => v === 0)).toBe(true);
  });

  it.each<[DerivativeOptions, string]>([
    [{ wrt: ['x'] }, "'logits' is of shape [batch,3], and a gradient is of a scalar"],
    [{ wrt: ['x'], mode: 'hvp' }, "'logits' is of shape [batch,3], and a hvp is of a scalar"],
    [{ wrt: ['z'], mode: 'vjp' }, "--wrt 'z' matches no floating-point input or initializer"],
    [{ of: ['z'], wrt: ['x'], mode: 'vjp' }, "The model computes no 'z'; its outputs are 'logits'."],
    [{ of: ['h'], loss: { kind: 'mse' }, wrt: ['x'] }, 'of and loss cannot be combined'],
  ])('of %j is refused', (options, message) =>
    expect(differentiate(mlp(), options)).rejects.toThrow(message),
  );
});
