/** Every loss with every option that it reads: 16-bit models, open batches, accumulation and evaluation in uneven batches. */
import { describe, expect, it } from 'vitest';
import type { DType } from '../../../src/graph/dtype.js';
import type { Model } from '../../../src/graph/ir.js';
import { Tensor } from '../../../src/graph/tensor.js';
import { LOSS_NAMES, lossOptionNames } from '../../../src/ops/losses/index.js';
import { inject } from '../../../src/passes/inject.js';
import { parseLoss } from '../../../src/passes/options/parse-loss.js';
import type { InjectOptions, LossSpec } from '../../../src/passes/options.js';
import { convert } from '../../../src/runtime/data/convert.js';
import { evaluate } from '../../../src/runtime/evaluate/evaluate-model.js';
import { gradients } from '../../../src/runtime/gradients.js';
import { sessionShapes } from '../../../src/runtime/session.js';
import { Trainer } from '../../../src/runtime/train/trainer.js';
import { Sketch } from '../../sample.js';
import { ints, spread } from '../vjp.js';

const [N, TIMES, WIDTH] = [6, 5, 4];
type Data = Map<string, Tensor>;

const classes = (dims: readonly number[], most: number, seed = 1) =>
  ints(spread(dims, [0, most], seed).numbers().map(Math.floor), dims);
/** More positions count in the first samples than in the last ones. */
const mask = ints(
  Array.from({ length: N * TIMES }, (_, i) => (i % TIMES < 5 - (i - (i % TIMES)) / TIMES / 2 ? 1 : 0)),
  [N, TIMES],
);
const labels = ints(
  classes([N, TIMES], WIDTH)
    .numbers()
    .map((c, i) => (mask.numbers()[i] ? c : -100)),
  [N, TIMES],
);
const targets = {
  classes: classes([N, TIMES], WIDTH),
  labels,
  values: spread([N, TIMES, WIDTH], [-1, 1], 7),
  shares: spread([N, TIMES, WIDTH], [0, 1], 8),
  sequences: classes([N, 2], WIDTH, 3),
};
const lengths = ints([5, 4, 5, 3, 5, 4]);
const kept = ints([1, 0, 1, 1, 1, 0]);

const CASES = [
  'cross-entropy(a, classes)',
  'cross-entropy(a, labels, ignore-index=-100)',
  'cross-entropy(a, classes, class-weights=1;2;0.5;3)',
  'cross-entropy(a, classes, label-smoothing=0.2)',
  'cross-entropy(a, classes, mask=mask)',
  'cross-entropy(a, labels, ignore-index=-100, class-weights=1;2;0.5;3, label-smoothing=0.2, mask=mask)',
  'nll(logs, labels, ignore-index=-100, class-weights=1;2;0.5;3, label-smoothing=0.2, mask=mask)',
  'focal(a, labels, ignore-index=-100, class-weights=1;2;0.5;3, mask=mask)',
  'bce-with-logits(a, shares, pos-weight=1;2;0.5;3, mask=mask)',
  'bce(odds, shares, mask=mask)',
  'sigmoid-focal(a, shares, alpha=0.25, mask=mask)',
  'mse(a, values, mask=mask)',
  'l1(a, values, mask=mask)',
  'huber(a, values, mask=mask)',
  'kl(a, values, T=2, target-scores=true, mask=mask)',
  'kl(a, shares)',
  'cosine(a, values, mask=mask)',
  'dice(a, shares)',
  'contrastive(rows, others, mask=kept)',
  'triplet(a, b, c, mask=mask)',
  'ctc(a, sequences, lengths)',
  'mean(squares, mask=mask)',
];
const UNEVEN = 'cross-entropy(a, labels, ignore-index=-100) + 0.5*mse(b, values)';
const SUMS = [
  UNEVEN,
  'cross-entropy(a, labels, ignore-index=-100, class-weights=1;2;0.5;3) + 0.5*mse(a, values, mask=mask) + 2*l1(b, values)',
  'cross-entropy(a, classes, mask=mask) + 0.5*mse(b, values, mask=mask)',
];

/** x [batch, time, width] -> outputs of its shape, of rows [batch, width], and what some losses take. */
function model(dtype: DType = 'float32', batch: number | string = 'batch', gain = 1): Model {
  const s = new Sketch();
  const weight = (name: string, dims: number[]) =>
    s.weight(name, convert(spread(dims, [-gain, gain], name.charCodeAt(1)), dtype));
  const x = s.input('x', [batch, TIMES, WIDTH], dtype);
  const product = (name: string) => s.add('MatMul', [x, weight(`w${name}`, [WIDTH, WIDTH])], name);
  const [a, b, c] = [product('a'), product('b'), product('c')];
  const rows = (of: typeof a, name: string) =>
    s.add('ReduceMean', [of, s.weight(`${name}_axes`, ints([1]))], name, { keepdims: 0 });
  return s.model([
    a,
    b,
    c,
    s.add('LogSoftmax', [a], 'logs'),
    s.add('Sigmoid', [a], 'odds'),
    s.add('Mul', [a, a], 'squares'),
    rows(a, 'rows'),
    rows(b, 'others'),
  ]);
}

function dataOf(text: string, dtype: DType = 'float32'): Data {
  const all: Record<string, Tensor> = {
    x: spread([N, TIMES, WIDTH], [-1, 1], 5),
    ...targets,
    mask,
    lengths,
    kept,
  };
  const read = Object.entries(all).filter(
    ([name]) => name === 'x' || new RegExp(`\\b${name}\\b[,)]`).test(text),
  );
  return new Map(read.map(([name, t]) => [name, t.dtype === 'float32' ? convert(t, dtype) : t]));
}

const rowsOf = (data: Data, from: number, to: number) =>
  Object.fromEntries(
    [...data].map(([name, t]) => {
      const size = t.size / N;
      const part = t.numbers().slice(from * size, to * size);
      const dims = [to - from, ...t.dims.slice(1)];
      return [
        name,
        t.dtype === 'int64'
          ? ints(part, dims)
          : convert(Tensor.from('float32', dims, Float32Array.from(part)), t.dtype),
      ];
    }),
  );

it('each loss is here, with each of its options', () => {
  const found = CASES.map(text => parseLoss(text));
  expect([...new Set(found.map(f => f.kind))].sort()).toEqual([...LOSS_NAMES].sort());
  for (const kind of LOSS_NAMES) {
    const given = new Set(found.filter(f => f.kind === kind).flatMap(f => Object.keys(f)));
    const rest = lossOptionNames(kind).filter(name => !given.has(name));
    const untested = ['classAxis', 'mixTargets', 'gamma', 'temperature', 'smooth', 'margin', 'blank'];
    expect(
      rest.filter(name => !untested.includes(name)),
      kind,
    ).toEqual([]);
  }
});

describe.each([...CASES, ...SUMS])('%s', text => {
  const loss = parseLoss(text);
  const isAcross = loss.kind === 'contrastive';
  const wrt = ['w*'];

  it('has in a float16 model the value and gradients of float32', async () => {
    const of = (dtype: DType) =>
      gradients(model(dtype), { loss, wrt }, Object.fromEntries(dataOf(text, dtype)));
    const [want, got] = [await of('float32'), await of('float16')];
    expect(Math.abs(got.loss! - want.loss!)).toBeLessThan(5e-3 * Math.max(1, want.loss!));
    for (const [name, gradient] of got.gradients) {
      const reference = want.gradients.get(name)!.numbers();
      const scale = Math.max(1e-3, ...reference.map(Math.abs));
      const worst = Math.max(...gradient.numbers().map((g, i) => Math.abs(g - reference[i]!))) / scale;
      expect(worst, name).toBeLessThan(1e-2);
    }
  });

  it('is the same for a fixed and an open batch', async () => {
    const feeds = Object.fromEntries(dataOf(text));
    const [open, fixed] = [
      await gradients(model(), { loss, wrt }, feeds),
      await gradients(model('float32', N), { loss, wrt }, feeds),
    ];
    expect(fixed.loss).toBeCloseTo(open.loss!, 6);
    for (const [name, gradient] of fixed.gradients) {
      const other = open.gradients.get(name)!.numbers();
      gradient.numbers().forEach((g, i) => {
        expect(g).toBeCloseTo(other[i]!, 6);
      });
    }
  });

  it.skipIf(isAcross).each([2, 4, N])('is evaluated in batches of %i as in one', async batchSize => {
    const data = dataOf(text);
    const whole = await gradients(model(), { loss, wrt }, Object.fromEntries(data));
    const found = await evaluate(model(), data, { loss, batchSize, metrics: [] });
    expect(found.loss).toBeCloseTo(whole.loss!, 5);
    const half = await evaluate(model('float16'), dataOf(text, 'float16'), { loss, batchSize, metrics: [] });
    expect(Math.abs(half.loss - whole.loss!)).toBeLessThan(5e-3 * Math.max(1, whole.loss!));
  });

  it.skipIf(isAcross)(
    'has an update from parts of a batch, of different sizes, that equals the update from all of it',
    async () => {
      const [whole, parts] = [await updated(loss, text, [N]), await updated(loss, text, [3, 2, 1])];
      for (const [name, value] of whole.state) {
        const other = parts.state.get(name)!.numbers();
        value.numbers().forEach((w, i) => {
          expect(w, name).toBeCloseTo(other[i]!, 5);
        });
      }
    },
  );
});

/** The weights after an update from batches of these sizes. */
async function updated(
  loss: LossSpec,
  text: string,
  sizes: readonly number[],
  options: Partial<InjectOptions> = {},
) {
  const data = dataOf(text);
  const optimizer = { name: 'sgd', lr: 0.5 } as const;
  const { model: step, report } = await inject(
    model(),
    { loss, optimizer, accumulate: sizes.length, ...options },
    sessionShapes,
  );
  const trainer = await Trainer.create(step);
  let at = 0;
  for (const size of sizes) {
    await trainer.step(rowsOf(data, at, at + size));
    at += size;
  }
  const state = new Map([...trainer.state].filter(([name]) => /^w.$/.test(name)));
  await trainer.release();
  return { state, warnings: report.warnings };
}

it.each([
  ['AdaHessian', { optimizer: { name: 'adahessian', lr: 0.1 } }],
  ['clipping, averages and skipped batches', { clipGradNorm: 0.1, ema: 0.5, onNonfinite: 'skip' }],
  ['recomputed activations', { checkpointActivations: true }],
  ['what workers exchange', { lossDivisor: true }],
] as const)(
  'a sum of losses that count different positions accumulates exactly with %s',
  async (_, options) => {
    const loss = parseLoss(SUMS[1]!);
    const [whole, parts] = [
      await updated(loss, SUMS[1]!, [N], options),
      await updated(loss, SUMS[1]!, [3, 2, 1], options),
    ];
    for (const [name, value] of whole.state) {
      const other = parts.state.get(name)!.numbers();
      value.numbers().forEach((w, i) => {
        expect(Math.abs(w - other[i]!), name).toBeLessThan(1e-6 * Math.max(1, Math.abs(w)));
      });
    }
  },
);

it('a parameter that only one loss of a sum reads has one sum of gradients', async () => {
  const options = { loss: parseLoss(UNEVEN), optimizer: { name: 'sgd', lr: 1 }, accumulate: 2 } as const;
  const { report } = await inject(model(), options, sessionShapes);
  expect(report.description.accumulation).toMatchObject({
    weight: 'micro_weight',
    further: ['micro_weight_1'],
  });
});

it.each(['float32', 'float16'] as const)(
  'parts of a %s batch in which no position counts add nothing to its update',
  async dtype => {
    const text = 'cross-entropy(a, labels, ignore-index=-100)';
    const data = dataOf(text, dtype);
    const ignored = { ...rowsOf(data, 0, 2), labels: ints(Array(2 * TIMES).fill(-100), [2, TIMES]) };
    const after = async (batches: readonly Record<string, Tensor>[]) => {
      const optimizer = { name: 'sgd', lr: 0.5 } as const;
      const options = { loss: parseLoss(text), optimizer, accumulate: batches.length };
      const trainer = await Trainer.create((await inject(model(dtype), options, sessionShapes)).model);
      for (const batch of batches) await trainer.step(batch);
      const found = [...trainer.state.get('wa')!.numbers()];
      await trainer.release();
      return found;
    };
    const [one, other] = [rowsOf(data, 0, 4), rowsOf(data, 4, N)];
    const want = await after([one, other]);
    for (const batches of [
      [ignored, one, other],
      [one, ignored, other],
      [one, other, ignored],
    ])
      (await after(batches)).forEach((w, i) => {
        expect(w).toBeCloseTo(want[i]!, dtype === 'float16' ? 3 : 6);
      });
  },
);

describe('in a float16 model', () => {
  const half = (values: readonly number[], dims: readonly number[]) =>
    convert(Tensor.from('float32', dims, Float32Array.from(values)), 'float16');
  /** The loss of x and the gradient of a weight that is 1. */
  async function run(text: string, x: Tensor, feeds: Record<string, Tensor>) {
    const s = new Sketch();
    const w = s.weight('w', half([1], [1]));
    const input = s.input('x', ['batch', ...x.dims.slice(1)], 'float16');
    const found = await gradients(
      s.model([s.add('Mul', [input, w], 'a')]),
      { loss: parseLoss(text), wrt: ['w'] },
      { x, ...feeds },
    );
    return [found.loss!, found.gradients.get('w')!.numbers()[0]!];
  }

  it('the cosine of a vector of zeros is 0', async () => {
    const x = half([0, 0, 1, 1], [2, 2]);
    const [loss, slope] = await run('cosine(a, target)', x, { target: half([1, 1, 1, 0], [2, 2]) });
    expect(loss).toBeCloseTo((1 + 1 - Math.SQRT1_2) / 2, 3);
    expect(slope).toBeCloseTo(0, 3);
  });

  it('labels are smoothed over more classes than float16 can count', async () => {
    const count = 70_000;
    const x = half(
      Array.from({ length: count }, (_, i) => (i === 3 ? 8 : 0)),
      [1, count],
    );
    const [loss] = await run('cross-entropy(a, target, label-smoothing=0.1)', x, { target: ints([3]) });
    const total = Math.log(count - 1 + Math.exp(8));
    expect(loss).toBeCloseTo(0.9 * (total - 8) + 0.1 * (total - 8 / count), 2);
  });

  it('the mean of large losses is one over more of them than float16 can sum', async () => {
    const dims = [3000, 2];
    const x = half(Array(6000).fill(1), dims);
    const mask = ints(Array(3000).fill(1), [3000]);
    const [loss, slope] = await run('mse(a, target, mask=mask)', x, {
      target: half(Array(6000).fill(-299), dims),
      mask,
    });
    expect(loss).toBe(90_000);
    expect(slope).toBe(600);
  });
});
