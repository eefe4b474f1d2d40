import { expect, it } from 'vitest';
import { Node, Value } from '../../src/graph/ir.js';
import { Session } from '../../src/runtime/session.js';
import { webgpuProvider } from '../../src/runtime/webgpu.js';
import { Sketch } from '../sample.js';

it('leaves to the CPU what the provider has only part of', () => {
  const s = new Sketch();
  const x = s.input('x', [1, 2, 4, 4, 4]);
  const grown = s.add('ConvTranspose', [x, s.weight('w', [2, 2, 2, 2, 2])], 'grown');
  const pooled = s.add('MaxPool', [grown], 'pooled', { kernel_shape: [2, 2, 2] });
  const model = s.model([s.add('MaxPool', [pooled], 'y', { kernel_shape: [2, 2, 2] })]);
  const [, withIndices] = model.graph.nodes;
  withIndices!.setOutput(1, new Value('indices'));
  withIndices!.name = '';
  expect(webgpuProvider(model).forceCpuNodeNames).toEqual(['grown_node', 'maxpool']);
  expect(withIndices!.name).toBe('maxpool');
});

it('leaves to the CPU the batch normalization of features, not that of images', () => {
  const normalizedBy = (shape: number[]) => {
    const s = new Sketch();
    const settings = ['scale', 'bias', 'mean', 'var'].map(name => s.weight(name, [3]));
    const model = s.model([s.add('BatchNormalization', [s.input('x', shape), ...settings], 'y')]);
    return webgpuProvider(model).forceCpuNodeNames;
  };
  expect(normalizedBy([2, 3])).toEqual(['y_node']);
  expect(normalizedBy([2, 3, 4, 4])).toBeUndefined();
});

it('gives no list where there is nothing to list', () => {
  const s = new Sketch();
  const model = s.model([s.add('Relu', [s.input('x', [2])], 'y')]);
  expect(webgpuProvider(model)).toEqual({ name: 'webgpu', preferredLayout: 'NCHW' });
});

it('leaves to the CPU a Split into more outputs than a kernel has storage buffers', () => {
  const splitInto = (count: number) => {
    const s = new Sketch();
    const outputs = Array.from({ length: count }, (_, i) => new Value(`y${i}`));
    s.graph.append(new Node('Split', [s.input('x', [count]), s.input('sizes', [count], 'int64')], outputs));
    return webgpuProvider(s.model(outputs)).forceCpuNodeNames;
  };
  expect(splitInto(7)).toBeUndefined();
  expect(splitInto(8)).toEqual(['split']);
});

it('leaves the model of the caller as it is', async () => {
  const s = new Sketch();
  const outputs = Array.from({ length: 8 }, (_, i) => new Value(`y${i}`));
  s.graph.append(new Node('Split', [s.input('x', [8])], outputs));
  const model = s.model(outputs);
  // Where there is no adapter, the session is not made: the model was prepared before.
  const session = await Session.create(model, { device: 'webgpu' }).catch(() => undefined);
  await session?.release();
  expect(model.graph.nodes.map(({ opType, name }) => [opType, name])).toEqual([['Split', '']]);
});
