import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { decodeModel } from '../../src/graph/proto/codec.js';

const model = decodeModel(readFileSync(new URL('../../models/lenet.onnx', import.meta.url)));

test('LeNet takes digits of any batch size and gives ten logits', () => {
  const { inputs, outputs } = model.graph;
  expect(inputs.map(v => [v.name, v.shape])).toEqual([['input', ['batch', 1, 28, 28]]]);
  expect(outputs.map(v => [v.name, v.shape])).toEqual([['logits', ['batch', 10]]]);
});

test('its 44,426 parameters fill the interval that their fan-in allows', () => {
  const parameters = new Map([...model.graph.initializers].map(([v, tensor]) => [v.name, tensor]));
  expect([...parameters.values()].reduce((sum, tensor) => sum + tensor.size, 0)).toBe(44_426);
  for (const layer of ['conv1', 'conv2', 'fc1', 'fc2', 'fc3']) {
    const weight = parameters.get(`${layer}.weight`)!;
    const bound = 1 / Math.sqrt(weight.size / weight.dims[0]!);
    const values = [...weight.numbers(), ...parameters.get(`${layer}.bias`)!.numbers()];
    const largest = Math.max(...values.map(Math.abs));
    expect(largest).toBeLessThanOrEqual(bound * (1 + 1e-6));
    expect(largest).toBeGreaterThan(0.98 * bound);
  }
});
