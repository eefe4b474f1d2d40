/**
 * Writes the functions of two numbers in this folder, each as a model without inputs whose one parameter `point` is where
 * to begin, and whose output `f` is the value there. Along the last axis of `point` are x and y, so that the same nodes
 * give the values of many points. Run after `npm run build`: node models/landscapes/make.mjs
 */
import { writeFileSync } from 'node:fs';
import { Builder, encodeModel, Graph, Model, Names, Tensor, Value } from 'agd-onnx/ir';

/** f of x and y, where to begin, where it is 0, and the part of the plane that is worth seeing. */
const LANDSCAPES = {
  quadratic: {
    formula: '(x + y)² + (x − y)²/10',
    f: (x, y) => x.add(y).square().add(x.sub(y).square().mul(0.1)),
    start: [-3, -1],
    minimum: [0, 0],
    x: [-3.5, 2.5],
    y: [-2.5, 3],
  },
  absolute: {
    formula: '|x|/10 + |y|',
    f: (x, y) => x.abs().mul(0.1).add(y.abs()),
    start: [-3, 2.5],
    minimum: [0, 0],
    x: [-3.5, 1.5],
    y: [-1.5, 3],
  },
  beale: {
    formula: '(1.5 − x + xy)² + (2.25 − x + xy²)² + (2.625 − x + xy³)²',
    f: (x, y) => {
      const term = (c, power) => x.mul(power).sub(x).add(c).square();
      return term(1.5, y)
        .add(term(2.25, y.square()))
        .add(term(2.625, y.square().mul(y)));
    },
    start: [1, 1.5],
    minimum: [3, 0.5],
    x: [-0.5, 4.5],
    y: [-1.5, 2],
  },
  rosenbrock: {
    formula: '(1 − x)² + 100 (y − x²)²',
    f: (x, y) => x.rsub(1).square().add(y.sub(x.square()).square().mul(100)),
    start: [-1.5, 2],
    minimum: [1, 1],
    x: [-2, 2],
    y: [-1, 3],
  },
};

for (const [name, { f, start, ...shown }] of Object.entries(LANDSCAPES)) {
  const graph = new Graph(name);
  const point = new Value('point', { kind: 'tensor', dtype: 'float32', shape: [2] });
  graph.initializers.set(point, Tensor.from('float32', [2], Float32Array.from(start)));
  const model = new Model(graph);
  model.opsetImports.set('', 18);
  const g = new Builder(graph, { names: Names.of(model), opsets: model.opsetImports });
  const coordinate = index => g.of(point).gather(g.scalar(index, 'int64'), -1);
  const value = g.rename(f(coordinate(0), coordinate(1)), 'f');
  value.type = { kind: 'tensor', dtype: 'float32', shape: [] };
  graph.outputs = [value];
  model.producerName = 'agd-onnx';
  model.metadata.set('landscape', JSON.stringify(shown));
  writeFileSync(new URL(`${name}.onnx`, import.meta.url), encodeModel(model));
}
