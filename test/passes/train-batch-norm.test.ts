import { expect, it } from 'vitest';
import type { Tensor } from '../../src/graph/tensor.js';
import { inject } from '../../src/passes/inject.js';
import { gradients } from '../../src/runtime/gradients.js';
import { sessionShapes } from '../../src/runtime/session.js';
import { Trainer } from '../../src/runtime/trainer.js';
import { floatsOf } from '../ops/vjp.js';
import { Sketch } from '../sample.js';

/** A BatchNorm1d of PyTorch 2.13 in float64: x and dy of shape [4, 2, 3], and what came of them. */
const X = [
  -2.310412, -0.373251, -1.060817, 0.999509, -0.884025, -1.275547, -0.623225, -0.866442, 0.238718, 0.733528,
  -1.321882, 1.314811, -1.487496, -0.713575, 0.519999, -0.952886, 0.674858, 1.046865, 0.154295, -0.749892,
  -0.72339, 0.08637, -1.746405, 1.041012,
];
const DY = [
  0.79701, 0.211664, 0.135571, -0.033893, 0.460469, 1.117443, 0.369045, -0.187202, -1.128799, -0.093769,
  0.998344, -0.082622, 0.182532, 0.950904, -1.763162, 1.010732, 0.749488, -0.560555, 0.074247, 1.993646,
  0.449865, 1.553145, 0.053986, 1.474442,
];
const DX = [
  -0.371116, 0.166785, -0.215897, -0.544783, -0.357692, 0.450424, 0.152667, -0.340302, -0.44394, -0.698363,
  0.272842, -0.528874, -0.38975, 0.502222, -0.736973, 0.387805, 0.456498, -1.263221, 0.328127, 1.189171,
  0.159006, 1.416015, -1.15037, 1.55972,
];
const DSCALE = [-6.334102, -2.475714];
const DBIAS = [2.085321, 6.64721];
const RUNNING = { mean: [0.203371, -0.362365], variance: [0.779756, 1.207413] };

/** loss = sum(batchnorm(x) * dy), whose gradients are those of the cotangent dy. */
function model() {
  const s = new Sketch();
  const inputs = [
    s.input('x', ['batch', 2, 3]),
    s.weight('scale', floatsOf([0.5, 1.5])),
    s.weight('bias', floatsOf([0.1, -0.2])),
    s.weight('mean', floatsOf([0.3, -0.4])),
    s.weight('variance', floatsOf([0.8, 1.2])),
  ];
  const y = s.add('BatchNormalization', inputs, 'y');
  const product = s.add('Mul', [y, s.input('dy', ['batch', 2, 3])], 'product');
  return s.model([s.add('ReduceSum', [product], 'loss_value', { keepdims: 0 })]);
}

const feeds = { x: floatsOf(X, [4, 2, 3]), dy: floatsOf(DY, [4, 2, 3]) };
const loss = { kind: 'output', output: 'loss_value' } as const;
const close = (got: Tensor | undefined, want: readonly number[]) =>
  got!.numbers().forEach((v, i) => {
    expect(v).toBeCloseTo(want[i]!, 4);
  });

it('trains on the statistics of the batch, as PyTorch does', async () => {
  const { gradients: found } = await gradients(
    model(),
    { loss, wrt: ['x', 'scale', 'bias'], batchNorm: 'train' },
    feeds,
  );
  close(found.get('x'), DX);
  close(found.get('scale'), DSCALE);
  close(found.get('bias'), DBIAS);
});

it('updates the running statistics, the variance unbiased', async () => {
  const { model: injected, report } = await inject(model(), { loss }, sessionShapes);
  expect(report.description.statistics).toEqual(['mean', 'variance']);
  expect(report.parameters.filter(p => p.trains).map(p => p.value.name)).toEqual(['scale', 'bias']);
  const trainer = await Trainer.create(injected);
  await trainer.step(feeds);
  close(trainer.state.get('mean'), RUNNING.mean);
  close(trainer.state.get('variance'), RUNNING.variance);
  await trainer.release();
});

it('emits no training mode, which not every execution provider has', async () => {
  const { model: injected } = await inject(model(), { loss }, sessionShapes);
  const nodes = injected.graph.nodes.filter(n => n.opType === 'BatchNormalization');
  expect(nodes).toHaveLength(1);
  expect(nodes[0]!.attrs.get('training_mode')).toMatchObject({ value: 0 });
});

it('leaves the running statistics alone in eval mode', async () => {
  const { model: injected, report } = await inject(model(), { loss, batchNorm: 'eval' }, sessionShapes);
  expect(report.description.statistics).toEqual([]);
  expect(injected.graph.inputs.map(v => v.name)).not.toContain('mean');
});
