import { mkdtemp } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { loadModel } from '../../../src/graph/files.js';
import { type Model, Node, Value } from '../../../src/graph/ir.js';
import { Tensor } from '../../../src/graph/tensor.js';
import { gradientModel } from '../../../src/passes/differentiate.js';
import { readOriginal } from '../../../src/passes/file/embed-original.js';
import { readDescription } from '../../../src/passes/file/step-metadata.js';
import { inject } from '../../../src/passes/inject.js';
import type { InjectOptions } from '../../../src/passes/options.js';
import { bindData } from '../../../src/runtime/data/bind.js';
import { exportFile } from '../../../src/runtime/export.js';
import { sessionShapes } from '../../../src/runtime/session.js';
import { Trainer } from '../../../src/runtime/train/trainer.js';
import { mlp, mlpData } from '../../sample.js';

const LOSS = { kind: 'cross-entropy' } as const;

/** A graph with loss and gradients as outputs, and the model's own. */
async function joint(): Promise<Model> {
  const { model } = await gradientModel(mlp(), { loss: LOSS }, sessionShapes);
  const logits = model.graph.nodes.flatMap(n => n.outputs).find(v => v?.name === 'logits')!;
  model.graph.addOutputs(logits);
  return model;
}

const injected = async (model: Model, options: InjectOptions) =>
  (await inject(model, options, sessionShapes)).model;

async function trained(model: Model): Promise<Trainer> {
  const trainer = await Trainer.create(model);
  const data = bindData(mlpData(64), trainer.inputs);
  for await (const { inputs } of data.batches({ batchSize: 16 })) await trainer.step(inputs);
  return trainer;
}

const bits = (t: Trainer) =>
  [...t.state].map(([name, tensor]) => `${name} ${Buffer.from(tensor.bytes).toString('hex')}`).sort();

it.each([
  ['a pattern', ['{param}_grad']],
  ['a pattern of both names', ['fc{param}=fc{param}_grad']],
  ['names', ['weight', 'bias'].flatMap(k => [1, 2].map(i => `fc${i}.${k}=fc${i}.${k}_grad`))],
])('trains by the gradients that a graph has, given by %s', async (_, gradients) => {
  const own = await trained(await injected(mlp(), { loss: LOSS }));
  const given = await trained(
    await injected(await joint(), { gradients, loss: { kind: 'output', output: 'loss' } }),
  );
  expect(bits(given)).toEqual(bits(own));
  const data = bindData(mlpData(32, 2), own.inputs);
  const batchSize = 8;
  const [ours, theirs] = await Promise.all([own, given].map(t => t.evaluate(data.batches({ batchSize }))));
  // The same weights and losses. We sum each sample's in float64; a graph with its own loss has the float32 mean of each
  // batch, which is rounded once for each sample.
  const rounding = batchSize * 2 ** -24;
  expect(Math.abs(theirs!.loss / ours!.loss - 1)).toBeLessThan(rounding);
});

it('finds the loss, and writes the trained model without loss and gradients', async () => {
  const model = await joint();
  model.graph.outputs = model.graph.outputs.filter(v => v.name !== 'logits');
  const scalar = await injected(model, { gradients: ['{param}_grad'] });
  expect(readDescription(scalar)).toMatchObject({ loss: { name: 'loss' }, outputs: [] });
  const step = await injected(await joint(), {
    gradients: ['{param}_grad'],
    loss: { kind: 'output', output: 'loss' },
  });
  const path = join(await mkdtemp(join(tmpdir(), 'agd-')), 'trained.onnx');
  const trainer = await trained(step);
  await exportFile(trainer.snapshot(), path);
  const { graph } = await loadModel(path);
  expect([graph.inputs, graph.outputs].map(vs => vs.map(v => v.name))).toEqual([['x'], ['logits']]);
  expect(graph.nodes.map(n => n.opType)).toEqual(['Gemm', 'Tanh', 'Gemm']);
  const [bias] = [...graph.initializers].find(([v]) => v.name === 'fc2.bias')!;
  expect(graph.initializers.get(bias)!.numbers()).toEqual(trainer.state.get('fc2.bias')!.numbers());
});

/** The joint graph with its parameters as inputs without a value. */
async function withoutValues() {
  const model = await joint();
  const values = new Map([...model.graph.initializers].map(([v, t]) => [v.name, t]));
  for (const v of [...model.graph.initializers.keys()].filter(v => v.name.startsWith('fc'))) {
    model.graph.initializers.delete(v);
    model.graph.inputs.push(v);
  }
  return { model, values };
}

it('takes values for parameters that are inputs, and keeps them in the file that it writes', async () => {
  const { model, values } = await withoutValues();
  const step = await injected(model, { gradients: ['{param}_grad'], values });
  expect(bits(await trained(step))).toEqual(bits(await trained(await injected(mlp(), { loss: LOSS }))));
  const kept = [...readOriginal(step).graph.initializers].map(([v]) => v.name);
  expect(kept).toContain('fc2.bias');
});

const grad = (model: Model, name: string) => model.graph.outputs.find(v => v.name === name)!;

it.each<[string, string[], (model: Model) => void, RegExp, InjectOptions?]>([
  ['a missing gradient', ['fc1.bias=d_b'], () => {}, /no value 'd_b' \(in 'fc1.bias=d_b'\)/],
  ['a parameter that is not there', ['b=fc1.bias_grad'], () => {}, /no value 'b'/],
  [
    'a pattern that nothing fits',
    ['d_{param}'],
    () => {},
    /'d_{param}' matches no gradient of the \d+ floating-point initializers/,
  ],
  [
    'a gradient of nothing',
    ['{param}_grad'],
    m => {
      grad(m, 'fc1.bias_grad').name = 'fc9.bias_grad';
    },
    /By '{param}_grad', output 'fc9.bias_grad' is the gradient of 'fc9.bias', but the model has no such value/,
  ],
  [
    'a gradient of another shape',
    ['fc1.bias=fc2.bias_grad'],
    () => {},
    /gradient 'fc2.bias_grad' of 'fc1.bias' has shape \[3\], not \[8\]/,
  ],
  [
    'a gradient of another type',
    ['fc1.bias=half'],
    m => {
      const half = new Value('half');
      m.graph.append(
        new Node('Cast', [grad(m, 'fc1.bias_grad')], [half], new Map([['to', { type: 'int', value: 11 }]])),
      );
      m.graph.addOutputs(half);
    },
    /gradient 'half' of 'fc1.bias' is float64, not float32/,
  ],
  [
    'a rule without a hole on one side',
    ['{param}=fc1.bias_grad'],
    () => {},
    /PARAMETER=GRADIENT or as a pattern/,
  ],
  [
    'a loss that is not in the graph',
    ['{param}_grad'],
    () => {},
    /name that output with --loss-output/,
    { loss: LOSS },
  ],
  ['a choice about the backward pass', ['{param}_grad'], () => {}, /do not apply/, { dropout: 'eval' }],
  [
    'training without a gradient',
    ['fc1.bias=fc1.bias_grad'],
    () => {},
    /Cannot train 'fc2.weight'/,
    { train: ['fc2.w*'] },
  ],
  ['nothing left to train', ['{param}_grad'], () => {}, /all parameters are frozen/, { freeze: ['*'] }],
])('refuses %s', async (_, gradients, change, message, options) => {
  const model = await joint();
  change(model);
  await expect(inject(model, { gradients, ...options }, sessionShapes)).rejects.toThrow(message);
});

it('refuses a parameter without a value, and a value of another shape', async () => {
  const { model, values } = await withoutValues();
  const options = { gradients: ['fc1.bias=fc1.bias_grad'] };
  await expect(inject(model, options, sessionShapes)).rejects.toThrow(/'fc1.bias' has no value/);
  values.set('fc1.bias', Tensor.zeros('float32', [7]));
  await expect(inject(model, { ...options, values }, sessionShapes)).rejects.toThrow(
    /'fc1.bias' has shape \[8\], not \[7\]/,
  );
});

it('asks for the one value that is missing, where a pattern says that it is a parameter', async () => {
  const { model, values } = await withoutValues();
  values.delete('fc2.bias');
  await expect(inject(model, { gradients: ['{param}_grad'], values }, sessionShapes)).rejects.toThrow(
    /'fc2.bias' has a gradient, 'fc2.bias_grad', and no value: give it with --params/,
  );
});

it('asks which of several outputs is the loss', async () => {
  const model = await joint();
  const other = new Value('other');
  model.graph.append(new Node('Identity', [grad(model, 'loss')], [other]));
  model.graph.addOutputs(other);
  await expect(inject(model, { gradients: ['{param}_grad'] }, sessionShapes)).rejects.toThrow(
    /Besides gradients the model has 'loss', 'logits', 'other'/,
  );
});
