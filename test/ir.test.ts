/** What programs import from agd-onnx/ir works by itself. */
import { expect, it } from 'vitest';
import { Builder, backward, Names } from '../src/ir.js';
import { Sketch } from './sample.js';

it('gradients of operators that few models have need nothing else', () => {
  const s = new Sketch();
  const x = s.input('x', [2, 3]);
  const y = s.add('Einsum', [x], 'y', { equation: 'ij->ji' });
  y.type = { kind: 'tensor', dtype: 'float32', shape: [3, 2] };
  const model = s.model([y]);
  const g = new Builder(model.graph, { names: Names.of(model), opsets: model.opsetImports });
  const [dx] = backward(g, new Map([[y, g.of(y).ones()]]), [x]);
  expect(dx).toBeDefined();
});
