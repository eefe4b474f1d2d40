import { describe, expect, it } from 'vitest';
import { type Model, Value } from '../../../src/graph/ir.js';
import { Tensor } from '../../../src/graph/tensor.js';
import { inject } from '../../../src/passes/inject.js';
import { inferShapes } from '../../../src/passes/normalize/infer-shapes.js';
import { sessionShapes } from '../../../src/runtime/session.js';
import { Sketch } from '../../sample.js';

function model(opType: string, attrs: Record<string, number | bigint | number[]>, outputs = 1): Model {
  const s = new Sketch();
  const y = s.add(opType, [s.input('x', [1, 8, 4, 4])], 'y', attrs);
  for (let i = 1; i < outputs; i++) s.graph.nodes[0]!.setOutput(i, null);
  return s.model([y]);
}

describe('attributes that would end the process in the runtime', () => {
  it.each<[string, Record<string, number | bigint | number[]>, string]>([
    ['DepthToSpace', { blocksize: 2n ** 32n }, "attribute 'blocksize' is 4294967296"],
    ['DepthToSpace', { blocksize: 0 }, "attribute 'blocksize' is 0"],
    ['SpaceToDepth', { blocksize: -1 }, "attribute 'blocksize' is -1"],
    ['Split', { axis: 1, num_outputs: 2 ** 31 - 1 }, "attribute 'num_outputs' is 2147483647"],
    ['MaxPool', { kernel_shape: [2 ** 31, 2] }, "attribute 'kernel_shape' is 2147483648"],
    ['MaxPool', { kernel_shape: [2, 2], strides: [0, 1] }, "attribute 'strides' is 0"],
  ])('%s with %o is refused', async (opType, attrs, message) => {
    await expect(inferShapes(model(opType, attrs), sessionShapes)).rejects.toThrow(message);
  });

  it('others are left to the runtime', async () => {
    const good = model('DepthToSpace', { blocksize: 2 });
    await inferShapes(good, sessionShapes);
    expect(good.graph.outputs[0]!.shape).toEqual([1, 2, 8, 8]);
  });
});

it('a tensor that claims more than is stored is refused before anything counts to it', async () => {
  const s = new Sketch();
  const tensor = new Tensor('float32', [12, 1, 2 ** 31, 5], new Uint8Array(1200));
  const w = new Value('w', { kind: 'tensor', dtype: 'float32', shape: tensor.dims });
  s.graph.initializers.set(w, tensor);
  const y = s.add('Conv', [s.input('x', [1, 1, 8, 8]), w], 'y', { kernel_shape: [5, 5] });
  await expect(inject(s.model([y]), { loss: { kind: 'mse' } }, sessionShapes)).rejects.toThrow(
    'takes 515396075520 bytes, but 1200 are stored',
  );
});
