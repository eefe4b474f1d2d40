import { expect, it } from 'vitest';
import { loadModel } from '../../src/graph/files.js';
import { Tensor } from '../../src/graph/tensor.js';
import { Session } from '../../src/runtime/session.js';

const FUNCTIONS: Record<string, (x: number, y: number) => number> = {
  quadratic: (x, y) => (x + y) ** 2 + (x - y) ** 2 / 10,
  absolute: (x, y) => Math.abs(x) / 10 + Math.abs(y),
  beale: (x, y) => (1.5 - x + x * y) ** 2 + (2.25 - x + x * y ** 2) ** 2 + (2.625 - x + x * y ** 3) ** 2,
  rosenbrock: (x, y) => (1 - x) ** 2 + 100 * (y - x ** 2) ** 2,
};

it.each(Object.entries(FUNCTIONS))('%s is its formula, at one point and at many', async (name, f) => {
  const model = await loadModel(`models/landscapes/${name}.onnx`);
  const [[point, start]] = [...model.graph.initializers].filter(([v]) => v.name === 'point') as [
    [import('../../src/graph/ir.js').Value, Tensor],
  ];
  const { minimum, x, y } = JSON.parse(model.metadata.get('landscape')!);
  const alone = await Session.create(model);
  const [x0, y0] = start.numbers() as [number, number];
  expect((await alone.run({}, ['f'])).f!.numbers()).toEqual([expect.closeTo(f(x0, y0), 4)]);
  await alone.release();

  const points = [[x0, y0], minimum, [x[0], y[1]], [0.3, -0.7]];
  model.graph.initializers.set(point, Tensor.from('float32', [4, 2], Float32Array.from(points.flat())));
  model.graph.outputs[0]!.type = { kind: 'tensor', dtype: 'float32', shape: [4] };
  const session = await Session.create(model);
  const values = (await session.run({}, ['f'])).f!.numbers();
  await session.release();
  expect(values[1]).toBe(0);
  for (const [i, [a, b]] of points.entries())
    expect(Math.abs(values[i]! - f(a, b))).toBeLessThanOrEqual(1e-5 * f(a, b));
  for (const [a, b] of points.slice(0, 2)) {
    expect(a).toBeGreaterThan(x[0]);
    expect(a).toBeLessThan(x[1]);
    expect(b).toBeGreaterThan(y[0]);
    expect(b).toBeLessThanOrEqual(y[1]);
  }
});
