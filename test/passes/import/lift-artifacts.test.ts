import { onnx as proto } from 'onnx-proto';
import { expect, it } from 'vitest';
import { cloneModel } from '../../../src/graph/clone.js';
import { type Model, Node, Value } from '../../../src/graph/ir.js';
import { decodeModel, encodeModel } from '../../../src/graph/proto/codec.js';
import type { Tensor } from '../../../src/graph/tensor.js';
import { readDescription } from '../../../src/passes/file/step-metadata.js';
import { liftArtifacts } from '../../../src/passes/import/lift-artifacts.js';
import { inject } from '../../../src/passes/inject.js';
import { inspect } from '../../../src/passes/inspect.js';
import type { InjectOptions } from '../../../src/passes/options.js';
import { splitStep } from '../../../src/passes/run/split-step.js';
import { gradients } from '../../../src/runtime/gradients.js';
import { Session, sessionShapes } from '../../../src/runtime/session.js';
import { Trainer } from '../../../src/runtime/train/trainer.js';
import { artifacts, BATCH } from './ort-artifacts.js';

/** What ort-training-wasm of onnxruntime-web 1.19.2 gives for the same training model, checkpoint and batch. */
const LOSS = 1.1059945821762085;
const GRADIENTS: Record<string, number[]> = {
  'conv.weight': [
    -0.13909139, 0.05746647, 0.053668048, -0.058093563, 0.2210387, 0.030676737, 0.029294968, -0.021592308,
    0.0080581084, 0.26082498, 0.082753956, 0.020138314, 0.094951347, -0.087357886, 0.0923099, 0.1056312,
    -0.077888891, -0.12084055,
  ],
  'conv.bias': [0.070473209, -0.20998374],
  'fc.weight': [
    0.094357312, 0.14387092, 0.046027593, -0.084131502, 0.0017725923, 0.032715831, 0.021317784, 0.0046804557,
    -0.11214011, -0.026324365, 0.10179292, 0.13977164, -0.0096258195, -0.026728708, -0.056131806, 0.014152162,
    0.017782815, -0.11754653, -0.1478205, -0.055640135, 0.0078532277, -0.0059871227, 0.034814022,
    -0.018832618,
  ],
  'fc.bias': [0.025511637, 0.11817081, -0.14368244],
};

function expectGradient(name: string, got: Tensor): void {
  got.numbers().forEach((x, i) => {
    expect(Math.abs(x - GRADIENTS[name]![i]!), `${name}[${i}]`).toBeLessThan(2e-7);
  });
}

const lifted = (options: InjectOptions = {}) => liftArtifacts(artifacts(), options, sessionShapes);

async function injected(options: InjectOptions = {}) {
  const source = await lifted(options);
  return inject(source.model, source.options, sessionShapes);
}

it('computes the loss and the gradients that ONNX Runtime computed', async () => {
  const { model, options } = await lifted();
  const written = new Map(model.graph.nodes.flatMap(n => n.outputs).map(v => [v?.name, v]));
  for (const rule of options.gradients!) model.graph.addOutputs(written.get(rule.split('=')[1])!);
  const session = await Session.create(model);
  const results = await session.run({ ...BATCH, ...Object.fromEntries(options.values!) });
  await session.release();
  expect(results['onnx::loss::7']!.numbers()[0]).toBeCloseTo(LOSS, 6);
  for (const name of Object.keys(GRADIENTS)) expectGradient(name, results[`${name}_grad`]!);
});

it('agrees with a backward pass of our own through the evaluation model', async () => {
  const { evaluation, values } = artifacts();
  for (const v of evaluation!.graph.inputs) {
    const tensor = values.get(v.name);
    if (tensor) evaluation!.graph.initializers.set(v, tensor);
  }
  const spec = { kind: 'output', output: 'onnx::loss::7' } as const;
  const own = await gradients(evaluation!, { loss: spec, wrt: Object.keys(GRADIENTS) }, BATCH);
  expect(own.loss).toBeCloseTo(LOSS, 6);
  for (const [name, gradient] of own.gradients) expectGradient(name, gradient);
});

it('writes standard operators only, and no operator set that they do not need', async () => {
  const { model } = await injected();
  expect([...new Set(model.graph.nodes.map(n => n.domain))]).toEqual(['']);
  expect([...model.opsetImports]).toEqual([['', 18]]);
  expect(model.graph.inputs.map(v => v.name)).not.toContain('lazy_reset_grad');
  // '' is ai.onnx.
  const odd = proto.ModelProto.decode(encodeModel(artifacts().training));
  for (const [domain, version] of [
    ['ai.onnx', 18],
    ['com.microsoft', 1],
  ] as const)
    odd.opsetImport.push(proto.OperatorSetIdProto.create({ domain, version }));
  const training = decodeModel(proto.ModelProto.encode(odd).finish());
  const source = await liftArtifacts({ ...artifacts(), training }, {}, sessionShapes);
  const written = encodeModel((await inject(source.model, source.options, sessionShapes)).model);
  expect(proto.ModelProto.decode(written).opsetImport.map(o => o.domain)).toEqual(['']);
});

it('trains without changing frozen parameters, and evaluates', async () => {
  const { model, report } = await injected({ optimizer: { lr: 0.05 } });
  expect(report.parameters.filter(p => !p.trains).map(p => p.value.name)).toEqual(['scale']);
  const trainer = await Trainer.create(model);
  expect(trainer.inputs.map(i => i.name)).toEqual(['x', 'labels']);
  expect(trainer.description.loss.target).toBe('labels');
  const before = await trainer.evaluate([{ inputs: BATCH, size: 4 }]);
  expect(before.loss).toBeCloseTo(LOSS, 6);
  for (let i = 0; i < 20; i++) await trainer.step(BATCH);
  const after = await trainer.evaluate([{ inputs: BATCH, size: 4 }]);
  expect(after.loss).toBeLessThan(LOSS / 4);
  await trainer.release();
});

it('accumulates in the graph instead of in buffers', async () => {
  const [twice, once] = await Promise.all(
    [{ accumulate: 2 }, {}].map(async options => Trainer.create((await injected(options)).model)),
  );
  for (let i = 0; i < 2; i++) await twice!.step(BATCH);
  await once!.step(BATCH);
  const weights = [twice!, once!].map(t => t.state.get('fc.weight')!.numbers());
  expect(weights[0]).toEqual(weights[1]);
  expect(twice!.description.accumulation?.batches).toBe(2);
});

/** The sample as ORTModule cuts it: the logits go to PyTorch, which gives their gradient back. */
function yielding(): Model {
  const model = artifacts().training;
  const { graph } = model;
  const ofLoss = (n: Node) => /^(SoftmaxCrossEntropyLoss(Grad)?|InPlaceAccumulatorV2)$/.test(n.opType);
  const gone = new Set(graph.nodes.filter(ofLoss).flatMap(n => n.outputs));
  const find = (name: string) => graph.nodes.flatMap(n => n.outputs).find(v => v?.name === name)!;
  const [logits, dlogits] = [find('logits'), find('logits_grad')];
  const extra = new Node('ReduceMax', [logits], [new Value('largest')]);
  const handed = new Node('YieldOp', [extra.outputs[0]!, logits], [dlogits]);
  handed.domain = 'com.microsoft';
  handed.setAttr('non_differentiable_outputs', { type: 'ints', value: [0] });
  handed.setAttr('full_shape_outputs', { type: 'ints', value: [] });
  const at = graph.nodes.findIndex(ofLoss);
  graph.nodes = graph.nodes.filter(n => !ofLoss(n)).toSpliced(at, 0, extra, handed);
  graph.inputs = graph.inputs.filter(v => !/labels|buffer|lazy/.test(v.name));
  graph.outputs = Object.keys(GRADIENTS).map(name => find(`${name}_grad`));
  expect(graph.outputs.some(v => gone.has(v))).toBe(false);
  return decodeModel(encodeModel(model));
}

it('puts a loss where a graph takes the gradients of its outputs from PyTorch', async () => {
  const { values } = artifacts();
  const options = { loss: { kind: 'cross-entropy', output: 'logits' }, optimizer: { lr: 0.05 } } as const;
  const source = await liftArtifacts({ training: yielding(), values }, options, sessionShapes);
  const { model, report } = await inject(source.model, source.options, sessionShapes);
  expect(report.parameters.filter(p => p.trains).map(p => p.value.name)).toEqual(Object.keys(GRADIENTS));
  const half = await Session.create((await splitStep(model, sessionShapes)).gradients);
  const results = await half.run({ x: BATCH.x!, target: BATCH.labels!, ...Object.fromEntries(values) });
  expect(results.loss!.numbers()[0]).toBeCloseTo(LOSS, 6);
  for (const name of Object.keys(GRADIENTS)) expectGradient(name, results[`${name}_grad`]!);
  expect(readDescription(model)).toMatchObject({
    exports: ['largest', 'logits'],
    loss: { target: 'target' },
  });
});

it('asks what to minimize where a graph leaves that to PyTorch, and for gradients that it does not find', async () => {
  const { values } = artifacts();
  const lift = (training: Model, options: InjectOptions) =>
    liftArtifacts({ training, values }, options, sessionShapes);
  await expect(lift(yielding(), {})).rejects.toThrow(/'com.microsoft.YieldOp' .*choose a loss with --loss/);
  const other = yielding();
  for (const v of other.graph.outputs) v.name = `d_${v.name}`;
  const loss = { kind: 'cross-entropy', output: 'logits' } as const;
  await expect(lift(other, { loss })).rejects.toThrow(
    /has no values named PARAMETER_grad: name its gradients with --grad/,
  );
});

it('leaves frozen what the checkpoint has frozen, though its gradient is there', async () => {
  const source = await liftArtifacts(artifacts(), { frozen: ['fc.bias'] }, sessionShapes);
  const { report } = await inject(source.model, source.options, sessionShapes);
  expect(report.parameters.filter(p => !p.trains).map(p => p.value.name)).toEqual(['fc.bias', 'scale']);
});

it('names an operator that has no standard form', async () => {
  const { training, values } = artifacts();
  const odd = new Node('PythonOpGrad', [training.graph.inputs[0]!], [new Value('odd')]);
  odd.domain = 'com.microsoft';
  training.graph.append(odd);
  expect((await inspect(training, {}, sessionShapes)).needs[0]).toContain('PythonOpGrad');
  await expect(liftArtifacts({ training, values }, {}, sessionShapes)).rejects.toMatchObject({
    code: 'unsupported-op',
    message: expect.stringContaining("'com.microsoft.PythonOpGrad' (node 'odd')"),
  });
});

it('leaves the artifacts as they are, which are known by their operators', async () => {
  const { training } = artifacts();
  const found = await inspect(training, {}, sessionShapes);
  expect(found).toMatchObject({
    kind: 'ort-training',
    needs: [expect.stringMatching(/checkpoint beside it/)],
  });
  expect(found.operators.filter(o => o.gradient === 'missing')).toEqual([]);
  const count = training.graph.nodes.length;
  await liftArtifacts({ ...artifacts(), training }, {}, sessionShapes);
  expect(training.graph.nodes.length).toBe(count);
  expect(cloneModel(training).graph.nodes.some(n => n.opType === 'ConvGrad')).toBe(true);
  expect(readDescription((await injected()).model).exports).toEqual(['logits']);
});
