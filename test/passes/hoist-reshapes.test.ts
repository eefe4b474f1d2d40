import { expect, it } from 'vitest';
import { inject } from '../../src/passes/inject.js';
import { scanSteps } from '../../src/passes/scan-steps.js';
import { sessionShapes } from '../../src/runtime/session.js';
import { mlp } from '../sample.js';

it('keeps a state in the shape in which it is worked on, from step to step', async () => {
  const { model } = await inject(mlp(), { loss: { kind: 'cross-entropy' }, ema: 0.9 }, sessionShapes);
  const { graph } = scanSteps(model).model;
  const scan = graph.nodes.find(node => node.opType === 'Scan')!;
  const shape = (name: string) => scan.inputs.find(v => v!.name.startsWith(name))!.shape;
  expect(shape('fc1.weight_exp_avg_corrected')).toEqual([32]);
  // What is not worked on in another shape stays.
  expect(shape('fc1.weight_ema')).toEqual([4, 8]);
  const [body] = scan.subgraphs();
  const writer = body!.nodes.find(node => node.outputs.includes(body!.outputs[1]!))!;
  expect(writer.opType).not.toBe('Reshape');
  expect(graph.nodes.filter(node => node.opType === 'Reshape').length).toBe(2 * 6);
});
