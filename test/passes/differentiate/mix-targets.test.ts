import { describe, expect, it } from 'vitest';
import type { Tensor } from '../../../src/graph/tensor.js';
import { readDescription } from '../../../src/passes/file/step-metadata.js';
import { inject } from '../../../src/passes/inject.js';
import type { LossSpec } from '../../../src/passes/options.js';
import { shapesIn } from '../../../src/runtime/session.js';
import { Trainer } from '../../../src/runtime/train/trainer.js';
import { floatsOf, ints } from '../../ops/vjp.js';
import { Sketch } from '../../sample.js';

/** logits = x w, w starting as the identity: PyTorch 2.13 in float64 gives losses, and w after a step of SGD with lr 1. */
function linear() {
  const s = new Sketch();
  const w = s.weight('w', floatsOf([1, 0, 0, 0, 1, 0, 0, 0, 1], [3, 3]));
  return s.model([s.add('MatMul', [s.input('x', ['batch', 3]), w], 'logits')]);
}
const x = floatsOf([0.5, -1, 0.25, 2, 0, -0.5, 1, 1, -2, 0.1, 0.2, 0.3], [4, 3]);
const first = ints([0, 2, 1, 2]);
const second = ints([2, 1, 1, 0]);
const share = floatsOf([0.7, 0.4, 0.9, 0.25], [4]);

const MIXED: [string, object, number, number[]][] = [
  [
    'plain',
    {},
    1.2588813,
    [0.5036266, 0.3502155, 0.1461579, -0.1496149, 1.1392892, 0.0103257, 0.3928383, -0.3490595, 0.9562212],
  ],
  [
    'with smoothing',
    { labelSmoothing: 0.2 },
    1.2967979,
    [0.5423766, 0.3002155, 0.1574079, -0.1187816, 1.0926226, 0.026159, 0.3403383, -0.2665595, 0.9262212],
  ],
  [
    'with weights, over the sum of them',
    { classWeights: [1, 2, 0.5] },
    1.2224575,
    [0.3972186, 0.5925046, 0.0102768, -0.2251176, 1.2070026, 0.018115, 0.5348978, -0.5232499, 0.9883521],
  ],
];

async function step(loss: Partial<LossSpec>, feeds: Record<string, Tensor>) {
  const spec = { kind: 'cross-entropy', mixTargets: true, ...loss } as LossSpec;
  const { model } = await inject(
    linear(),
    { loss: spec, optimizer: { name: 'sgd', lr: 1 } },
    shapesIn(() => ({ x })),
  );
  const trainer = await Trainer.create(model);
  try {
    expect(trainer.inputs.map(input => input.name).sort()).toEqual(['target', 'x']);
    const { loss: value } = await trainer.step({ x, target: first, ...feeds });
    return { loss: value, w: trainer.state.get('w')!.numbers() };
  } finally {
    await trainer.release();
  }
}

describe('a loss of two targets', () => {
  const mixed = { target_mixed: second, target_share: share };

  it.each(MIXED)("is PyTorch's of their probabilities: %s", async (_, loss, value, w) => {
    const found = await step(loss, mixed);
    expect(found.loss).toBeCloseTo(value, 5);
    found.w.forEach((x, i) => {
      expect(x).toBeCloseTo(w[i]!, 5);
    });
  });

  it('is that of the first alone where no second one is fed', async () => {
    const whole = await step({}, {});
    const plain = await step({ mixTargets: false } as LossSpec, {});
    expect(whole.loss).toBeCloseTo(plain.loss, 6);
    whole.w.forEach((x, i) => {
      expect(x).toBeCloseTo(plain.w[i]!, 6);
    });
  });

  it('is written into the file, and not asked for in validation', async () => {
    const { model } = await inject(
      linear(),
      { loss: { kind: 'cross-entropy', mixTargets: true } },
      shapesIn(() => ({ x })),
    );
    expect(readDescription(model).loss.mix).toEqual({ target: 'target_mixed', share: 'target_share' });
    const trainer = await Trainer.create(model);
    async function* batch() {
      yield { inputs: { x, target: first }, size: 4 };
    }
    const { loss, accuracy } = await trainer.evaluate(batch());
    expect(loss).toBeGreaterThan(0);
    expect(accuracy).toBe(0.5);
    await trainer.release();
  });

  it('is refused of values', async () => {
    await expect(step({ kind: 'mse' }, {})).rejects.toThrow(
      /^--mix-targets is for losses over classes; mse takes values/,
    );
  });
});
