/** Losses of several outputs and their gradients, against PyTorch (reference.py). */
import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { Tensor } from '../../../src/graph/tensor.js';
import { parseLoss } from '../../../src/passes/options/parse-loss.js';
import type { LossSpec } from '../../../src/passes/options.js';
import { gradients } from '../../../src/runtime/gradients.js';
import { Sketch } from '../../sample.js';
import { floatsOf, ints } from '../vjp.js';

type Values = { dims: number[]; values: number[]; dtype?: string };
type Case = {
  loss: number;
  outputs: (Values & { gradient: number[] })[];
  target?: Values;
  named?: { lengths?: number[]; mask?: number[]; dims?: number[] };
};
const CASES: Record<string, Case> = JSON.parse(readFileSync(new URL('losses.json', import.meta.url), 'utf8'));

const LOSSES: Record<string, string> = {
  focal: 'focal(a, target)',
  'sigmoid-focal': 'sigmoid-focal(a, target, alpha=0.25)',
  'kl of scores': 'kl(a, target, T=2, target-scores=true)',
  'kl of probabilities': 'kl(a, target)',
  cosine: 'cosine(a, target)',
  dice: 'dice(a, target)',
  triplet: 'triplet(a, b, c, margin=1)',
  contrastive: 'contrastive(a, b, temperature=0.2)',
  ctc: 'ctc(a, target)',
  'ctc with lengths': 'ctc(a, target, lengths)',
  'masked tokens': 'cross-entropy(a, target, mask=mask)',
  'masked values': 'mse(a, target, mask=mask)',
};

const tensorOf = ({ dims, values, dtype }: Values) =>
  dtype === 'int64' ? ints(values, dims) : floatsOf(values, dims);

/** Outputs a, b, c that are inputs by way of a weight of ones. */
async function run(spec: LossSpec, outputs: readonly Values[], feeds: Record<string, Tensor>, open = true) {
  const s = new Sketch();
  const names = outputs.map((_, i) => 'abc'[i]!);
  const model = s.model(
    outputs.map(({ dims }, i) => {
      const x = s.input(`x${i}`, open ? ['batch', ...dims.slice(1)] : dims);
      const weight = s.weight(`w${i}`, Tensor.filled('float32', dims.slice(1), 1));
      return s.add('Mul', [x, weight], names[i]!);
    }),
  );
  const given = Object.fromEntries(outputs.map((o, i) => [`x${i}`, floatsOf(o.values, o.dims)]));
  const { loss, gradients: found } = await gradients(
    model,
    { loss: spec, wrt: Object.keys(given) },
    { ...given, ...feeds },
  );
  return { loss: loss!, gradients: Object.keys(given).map(name => found.get(name)!.numbers()) };
}

function feedsOf({ target, named }: Case): Record<string, Tensor> {
  return {
    ...(target ? { target: tensorOf(target) } : {}),
    ...(named?.lengths ? { lengths: ints(named.lengths) } : {}),
    ...(named?.mask ? { mask: ints(named.mask, named.dims!) } : {}),
  };
}

describe.each(Object.entries(LOSSES))('%s', (name, text) => {
  const known = CASES[name]!;
  it.each([true, false])('has the value and the gradients of PyTorch (open batch: %s)', async open => {
    const { loss, gradients: found } = await run(parseLoss(text), known.outputs, feedsOf(known), open);
    expect(loss).toBeCloseTo(known.loss, 5);
    known.outputs.forEach(({ gradient }, o) => {
      gradient.forEach((d, i) => {
        expect(Math.abs(found[o]![i]! - d), `output ${o} at ${i}`).toBeLessThan(1e-5);
      });
    });
  });
  it('has the gradients of finite differences', async () => {
    const { gradients: found } = await run(parseLoss(text), known.outputs, feedsOf(known));
    for (const [o, { values }] of known.outputs.entries())
      for (const i of [0, 3, values.length - 1]) {
        const at = (by: number) =>
          run(
            parseLoss(text),
            known.outputs.map((x, k) =>
              k === o ? { ...x, values: values.map((v, j) => (j === i ? v + by : v)) } : x,
            ),
            feedsOf(known),
          );
        const slope = ((await at(1e-2)).loss - (await at(-1e-2)).loss) / 2e-2;
        expect(Math.abs(found[o]![i]! - slope), `output ${o} at ${i}`).toBeLessThan(2e-3);
      }
  });
});

it('a sum is the weighted sum of its losses, and so are its gradients', async () => {
  const [a, b] = CASES.triplet!.outputs as unknown as [Values, Values];
  const target = ints([0, 2, 1, 2]);
  const values = floatsOf(b.values.map(v => v / 2).reverse(), b.dims);
  const sum = await run(parseLoss('cross-entropy(a, target) + 0.5*mse(b, values)'), [a, b], {
    target,
    values,
  });
  const first = await run(parseLoss('cross-entropy(a, target)'), [a, b], { target });
  const second = await run(parseLoss('mse(b, values)'), [a, b], { values });
  expect(sum.loss).toBeCloseTo(first.loss + 0.5 * second.loss, 5);
  sum.gradients[0]!.forEach((d, i) => {
    expect(d).toBeCloseTo(first.gradients[0]![i]!, 6);
  });
  sum.gradients[1]!.forEach((d, i) => {
    expect(d).toBeCloseTo(0.5 * second.gradients[1]![i]!, 6);
  });
});

it('a ctc target that does not fit into the time has an infinite loss', async () => {
  const wrong = run(parseLoss('ctc(a, target)'), [{ dims: [1, 2, 3], values: [1, 2, 3, 4, 5, 6] }], {
    target: ints([1, 2, 1], [1, 3]),
  });
  await expect(wrong).rejects.toThrow("Loss 'loss' is Infinity");
});

it('dice of [batch, labels] sums over the labels', async () => {
  const output = { dims: [1, 2], values: [0, Math.log(3)] };
  const { loss } = await run(parseLoss('dice(a, target)'), [output], { target: floatsOf([1, 0], [1, 2]) });
  expect(loss).toBeCloseTo(1 - (2 * 0.5 + 1) / (0.5 + 0.75 + 1 + 1), 6);
});

it('ctc labels are padded with the blank or a negative number', async () => {
  const output = { dims: [1, 4, 3], values: Array.from({ length: 12 }, (_, i) => Math.sin(3 * i)) };
  const loss = async (...labels: number[]) =>
    (await run(parseLoss('ctc(a, target)'), [output], { target: ints(labels, [1, labels.length]) })).loss;
  const plain = await loss(1, 1);
  expect(plain).toBeGreaterThan(0.1);
  expect(await loss(1, 1, -1)).toBeCloseTo(plain, 6);
  expect(await loss(1, 1, -100, -1)).toBeCloseTo(plain, 6);
  expect(await loss(1, 1, 0)).toBeCloseTo(plain, 6);
});

describe('a mask of an image', () => {
  const scores = { dims: [2, 3, 2, 2], values: Array.from({ length: 24 }, (_, i) => Math.sin(i)) };
  const mask = ints([1, 0, 1, 1, 0, 0, 1, 0], [2, 2, 2]);
  const kept = [0, 2, 3, 6];
  /** The number of a channel at a pixel of the batch. */
  const at = (values: readonly number[], pixel: number, channel: number) =>
    values[12 * Math.floor(pixel / 4) + 4 * channel + (pixel % 4)]!;
  const mean = (values: readonly number[]) => values.reduce((n, v) => n + v, 0) / values.length;
  const logp = (pixel: number) => {
    const row = [0, 1, 2].map(c => at(scores.values, pixel, c));
    const total = Math.log(row.reduce((n, v) => n + Math.exp(v), 0));
    return row.map(v => v - total);
  };

  it('has one number per pixel for a loss of classes', async () => {
    const target = [0, 2, 1, 1, 2, 0, 2, 1];
    const { loss } = await run(parseLoss('cross-entropy(a, target, mask=mask)'), [scores], {
      target: ints(target, [2, 2, 2]),
      mask,
    });
    expect(loss).toBeCloseTo(mean(kept.map(p => -logp(p)[target[p]!]!)), 5);
  });

  it('has one number per pixel for kl', async () => {
    const target = floatsOf(Array(24).fill(1 / 3), [2, 3, 2, 2]);
    const { loss } = await run(parseLoss('kl(a, target, mask=mask)'), [scores], { target, mask });
    expect(loss).toBeCloseTo(mean(kept.map(p => mean(logp(p).map(l => Math.log(1 / 3) - l)))), 5);
  });

  it('has one number per pixel for labels', async () => {
    const target = floatsOf(Array(24).fill(0), [2, 3, 2, 2]);
    const { loss } = await run(parseLoss('bce-with-logits(a, target, mask=mask)'), [scores], {
      target,
      mask,
    });
    const each = kept.flatMap(p => [0, 1, 2].map(c => Math.log(1 + Math.exp(at(scores.values, p, c)))));
    expect(loss).toBeCloseTo(mean(each), 5);
  });
});

it.each(['dice', 'ctc'] as const)('%s takes no mask', async kind => {
  expect(() => parseLoss(`${kind}(a, target, mask=mask)`)).toThrow(`option of ${kind}`);
  const spec: LossSpec = { kind, output: 'a', mask: 'mask' };
  const output = { dims: [1, 2, 3], values: [1, 2, 3, 4, 5, 6] };
  await expect(run(spec, [output], {})).rejects.toThrow(
    `The loss ${kind} takes no mask: each of its terms covers several positions.`,
  );
});
