import { expect, it } from 'vitest';
import { decodeModel, encodeModel } from '../../../src/graph/proto/codec.js';
import { Tensor } from '../../../src/graph/tensor.js';
import { withoutIdleDropout } from '../../../src/passes/run/idle-dropout.js';
import { Sketch } from '../../sample.js';

it('replaces what passes its input on while the model is written, and nothing else', () => {
  const sketch = new Sketch();
  const x = sketch.input('x', [2, 3]);
  const ratio = sketch.weight('ratio', Tensor.from('float32', [], Float32Array.of(0.5)));
  const mode = sketch.weight('mode', Tensor.from('bool', [], Uint8Array.of(1)));
  const idle = sketch.add('Dropout', [x, ratio], 'idle');
  const off = sketch.weight('off', Tensor.from('bool', [], Uint8Array.of(0)));
  const told = sketch.add('Dropout', [idle, ratio, off], 'told');
  const drawn = sketch.add('Dropout', [told, ratio, mode], 'drawn');
  const model = sketch.model([drawn]);
  const before = encodeModel(model);
  const written = decodeModel(withoutIdleDropout(model, () => encodeModel(model)));
  expect(written.graph.nodes.map(({ opType, inputs }) => [opType, inputs.length])).toEqual([
    ['Identity', 1],
    ['Identity', 1],
    ['Dropout', 3],
  ]);
  expect(Buffer.compare(encodeModel(model), before)).toBe(0);
});
