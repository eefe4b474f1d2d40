import { describe, expect, it } from 'vitest';
import { Tensor } from '../../src/graph/tensor.js';
import type { LossSpec } from '../../src/passes/options.js';
import { gradients } from '../../src/runtime/gradients.js';
import { Sketch } from '../sample.js';
import { floatsOf, ints } from './vjp.js';

/** Values of PyTorch 2.13 in float64. */
const X = [
  0.6613522, 0.2669241, 0.0616773, 0.6213173, -0.451906, -0.1661302, -1.5227685, 0.3816839, -1.0276086,
  -0.5630528, -0.8922905, -0.0582502,
];
const T = [
  -0.3910192, -1.9312719, 0.8448306, 0.534634, -0.8423903, -1.0214, -3.1453304, -0.2464955, 7.1739786,
  -3.6625803, 3.1974006, -2.5540141,
];
const Y = [0, 2, 1, 2];
const P = [1, 0, 1, 0, 1, 1, 0, 0, 1, 1, 0.25, 0];

/** The loss of x, which is the model's output by way of a weight of ones, and the gradient of the weight. */
async function run(spec: LossSpec, x: Tensor, target: Tensor) {
  const s = new Sketch();
  const weight = s.weight('w', Tensor.filled('float32', x.dims.slice(1), 1));
  const y = s.add('Mul', [s.input('x', ['batch', ...x.dims.slice(1)]), weight], 'y');
  const { loss, gradients: found } = await gradients(
    s.model([y]),
    { loss: spec, wrt: ['w', 'x'] },
    { x, target },
  );
  return { loss: loss!, dx: found.get('x')!.numbers() };
}

/** Central differences of the loss, for the gradient. */
async function differences(spec: LossSpec, x: Tensor, target: Tensor) {
  const at = async (i: number, by: number) => {
    const data = Float32Array.from(x.numbers());
    data[i]! += by;
    return (await run(spec, Tensor.from('float32', x.dims, data), target)).loss;
  };
  return Promise.all(x.numbers().map(async (_, i) => ((await at(i, 1e-2)) - (await at(i, -1e-2))) / 2e-2));
}

const x = floatsOf(X, [4, 3]);
const classWeights = [1, 2, 0.5];
const cases: [string, LossSpec, Tensor, number][] = [
  ['cross-entropy', { kind: 'cross-entropy' }, ints(Y), 0.8039859],
  [
    'with a weight of positive targets',
    { kind: 'bce-with-logits', posWeight: [2] },
    floatsOf(P, [4, 3]),
    1.2355574,
  ],
  [
    'with a weight of positive targets for each label',
    { kind: 'bce-with-logits', posWeight: [1, 3, 0.5] },
    floatsOf(P, [4, 3]),
    0.8738428,
  ],
  ['with smoothing', { kind: 'cross-entropy', labelSmoothing: 0.2 }, ints(Y), 0.8897362],
  ['with weights', { kind: 'cross-entropy', classWeights }, ints(Y), 0.62621],
  ['with an ignored class', { kind: 'cross-entropy', ignoreIndex: 2 }, ints(Y), 0.5652502],
  [
    'with all of these',
    { kind: 'cross-entropy', classWeights, ignoreIndex: 1, labelSmoothing: 0.1 },
    ints(Y),
    1.0477356,
  ],
  [
    'bce-with-logits',
    { kind: 'bce-with-logits' },
    floatsOf(
      T.map(t => (t > 0 ? 1 : 0)),
      [4, 3],
    ),
    0.7412994,
  ],
  ['mse', { kind: 'mse' }, floatsOf(T, [4, 3]), 9.1915991],
  ['l1', { kind: 'l1' }, floatsOf(T, [4, 3]), 2.1252891],
  ['huber', { kind: 'huber' }, floatsOf(T, [4, 3]), 1.6841173],
];

describe.each(cases)('%s', (_, spec, target, want) => {
  it('matches PyTorch', async () => {
    expect((await run(spec, x, target)).loss).toBeCloseTo(want, 5);
  });
  it('has the gradient of finite differences', async () => {
    const { dx } = await run(spec, x, target);
    const reference = await differences(spec, x, target);
    for (const [i, d] of reference.entries()) expect(Math.abs(dx[i]! - d)).toBeLessThan(2e-3);
  });
});

it('cross-entropy takes the second axis as the class axis for images, the last axis for sequences', async () => {
  const image = [
    0.3255015, -0.4791449, 1.3790083, 2.5285573, 0.4107417, -0.9880071, -0.9080734, 0.5422737, 0.1102549,
    -2.2590096, 0.6066996, -0.1383097,
  ];
  expect(
    (await run({ kind: 'cross-entropy' }, floatsOf(image, [1, 3, 2, 2]), ints([0, 1, 2, 1], [1, 2, 2]))).loss,
  ).toBeCloseTo(1.3840599, 5);
  const text = [
    0.8310163, -0.2477075, -0.8029409, 0.2365747, 0.2856928, 0.6898149, -0.633054, 0.8794753, -0.6841782,
    0.4532908, 0.291158, -0.8317166,
  ];
  expect(
    (await run({ kind: 'cross-entropy' }, floatsOf(text, [2, 2, 3]), ints([0, 1, 2, 1], [2, 2]))).loss,
  ).toBeCloseTo(1.1262522, 5);
});

it('stays finite for large outputs', async () => {
  const large = floatsOf([200, -200, 0, 90, 1e3, -1e3], [2, 3]);
  expect((await run({ kind: 'cross-entropy' }, large, ints([1, 2]))).loss).toBeCloseTo((400 + 2000) / 2, 0);
  const bce = await run({ kind: 'bce-with-logits' }, large, floatsOf([0, 1, 0, 1, 1, 0], [2, 3]));
  expect(bce.loss).toBeCloseTo((200 + 200 + Math.log(2)) / 6, 2);
  expect(bce.dx.every(Number.isFinite)).toBe(true);
});

it('nll takes log-probabilities', async () => {
  const logp = floatsOf([-1, -2, -3, -0.5, -1.5, -2.5], [2, 3]);
  expect((await run({ kind: 'nll' }, logp, ints([1, 0]))).loss).toBeCloseTo(1.25, 6);
});

it('bce takes probabilities including 0 and 1, with the gradients of PyTorch', async () => {
  const p = floatsOf([0, 1, 0, 1, 0.3, 0.8, 1e-10, 0.5, 0.25], [3, 3]);
  const t = floatsOf([1, 0, 0, 1, 0.2, 1, 1, 0.5, 0], [3, 3]);
  const { loss, dx } = await run({ kind: 'bce' }, p, t);
  // By torch.nn.functional.binary_cross_entropy; at 0 and 1, where p = t, its slope is 0 by rounding, and 1 / n in truth.
  const want = [
    -111111110656,
    111111110656,
    1 / 9,
    -1 / 9,
    0.052910055965185165,
    -0.1388888955116272,
    -1111111168,
    0,
    0.14814814925193787,
  ];
  expect(loss).toBeCloseTo(24.972885131835938, 4);
  for (const [i, d] of want.entries()) expect(Math.abs(dx[i]! - d)).toBeLessThanOrEqual(1e-6 * Math.abs(d));
});

it('bce of a negative probability is NaN', async () => {
  const wrong = run({ kind: 'bce' }, floatsOf([-0.5, 0.5], [1, 2]), floatsOf([0, 1], [1, 2]));
  await expect(wrong).rejects.toThrow("Loss 'loss' is NaN");
});

it.each([2, 4])('%i class weights for three classes are refused', async count => {
  const wrong = run({ kind: 'cross-entropy', classWeights: Array(count).fill(1) }, x, ints(Y));
  await expect(wrong).rejects.toThrow(`${count} class weights were given for 3 classes.`);
});
