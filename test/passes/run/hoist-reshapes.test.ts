import { expect, it } from 'vitest';
import { inject } from '../../../src/passes/inject.js';
import { scanSteps } from '../../../src/passes/run/scan-steps.js';
import { sessionShapes } from '../../../src/runtime/session.js';
import { Trainer } from '../../../src/runtime/train/trainer.js';
import { spread } from '../../ops/vjp.js';
import { mlp, Sketch } from '../../sample.js';

it('keeps a state in the shape in which it is worked on, from step to step', async () => {
  const { model } = await inject(mlp(), { loss: { kind: 'cross-entropy' }, ema: 0.9 }, sessionShapes);
  const { model: steps, hoisted } = scanSteps(model);
  const { graph } = steps;
  expect(hoisted.get('fc1.weight')).toEqual([32]);
  expect(hoisted.has('fc1.weight_ema')).toBe(false);
  const scan = graph.nodes.find(node => node.opType === 'Scan')!;
  const shape = (name: string) => scan.inputs.find(v => v!.name.startsWith(name))!.shape;
  expect(shape('fc1.weight_exp_avg_corrected')).toEqual([32]);
  // What is not worked on in another shape stays.
  expect(shape('fc1.weight_ema')).toEqual([4, 8]);
  const [body] = scan.subgraphs();
  const writer = body!.nodes.find(node => node.outputs.includes(body!.outputs[1]!))!;
  expect(writer.opType).not.toBe('Reshape');
  expect(graph.nodes).toEqual([scan]);
  const given = graph.outputs.find(v => v.name === 'fc1.weight_exp_avg_corrected_new')!;
  expect(given.shape).toEqual([32]);
});

it('distinguishes the shape of the update from that of the gradient', async () => {
  const s = new Sketch();
  const scaled = s.add('Mul', [s.input('x', ['batch', 4, 3, 3]), s.weight('scale', [4, 1, 1])], 'scaled');
  const y = s.add('Conv', [scaled, s.weight('w', [4, 2, 1, 1])], 'y', { group: 2 });
  const { model } = await inject(s.model([y]), { loss: { kind: 'mse' } }, sessionShapes);
  const trainer = await Trainer.create(model);
  const batch = { x: spread([2, 4, 3, 3]), target: spread([2, 4, 3, 3]) };
  const { loss } = await trainer.step(batch);
  expect((await trainer.step(batch)).loss).toBeLessThan(loss);
  await trainer.release();
});
