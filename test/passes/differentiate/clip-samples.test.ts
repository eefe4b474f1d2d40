import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import type { Model, Value } from '../../../src/graph/ir.js';
import { Tensor } from '../../../src/graph/tensor.js';
import { inject } from '../../../src/passes/inject.js';
import type { InjectOptions } from '../../../src/passes/options.js';
import { convert } from '../../../src/runtime/data/convert.js';
import { sessionShapes } from '../../../src/runtime/session.js';
import { Trainer } from '../../../src/runtime/train/trainer.js';
import { floatsOf, ints, spread } from '../../ops/vjp.js';
import { mlp, mlpData, Sketch } from '../../sample.js';

type Recorded = { clip: number; sums: Record<string, number[]> };
const recorded: Record<'tokens' | 'sequence' | 'image', Recorded> = JSON.parse(
  readFileSync(new URL('./per-sample.json', import.meta.url), 'utf8'),
);

const weight = (s: Sketch, name: string, dims: number[], seed: number) =>
  s.weight(name, spread(dims, [-1, 1], seed));

/** An embedding, a layer normalization, a product with bias, a factor and another product: logits of each token. */
function text(s: Sketch) {
  const ids = s.input('ids', ['batch', 'time'], 'int64');
  const e = s.add('Gather', [weight(s, 'table', [11, 6], 10), ids], 'e');
  const n = s.add('LayerNormalization', [e, weight(s, 'scale', [6], 11), weight(s, 'shift', [6], 12)], 'n');
  const p = s.add('MatMul', [n, weight(s, 'w1', [6, 5], 13)], 'p');
  const t = s.add('Tanh', [s.add('Add', [p, weight(s, 'b1', [5], 14)], 'q')], 't');
  const m = s.add('Mul', [t, weight(s, 'gain', [5], 15)], 'm');
  return s.add('MatMul', [m, weight(s, 'w2', [5, 4], 16)], 'tokens');
}
const ids = ints([1, 3, 3, 4, 4, 4, 0, 10, 5, 7, 1, 2], [4, 3]);
const labels = ints([0, 3, 1, 2, 2, 0, 1, 0, 3, 3, 3, 3], [4, 3]);
const mask = ints([1, 1, 1, 1, 0, 0, 1, 1, 0, 0, 0, 0], [4, 3]);

function tokens(): Model {
  const s = new Sketch();
  return s.model([text(s)]);
}

function sequence(): Model {
  const s = new Sketch();
  const mean = s.add('ReduceMean', [text(s), s.weight('axes', ints([1]))], 'mean', { keepdims: 0 });
  return s.model([
    s.add('Gemm', [mean, weight(s, 'head', [4, 3], 20), weight(s, 'bias', [3], 21)], 'logits'),
  ]);
}

function image(): Model {
  const s = new Sketch();
  const x = s.input('x', ['batch', 1, 5, 5]);
  const c = s.add('Conv', [x, weight(s, 'k', [2, 1, 3, 3], 30), weight(s, 'kb', [2], 31)], 'c');
  const f = s.add('Flatten', [s.add('Relu', [c], 'r')], 'f');
  return s.model([s.add('MatMul', [f, weight(s, 'fc', [18, 2], 32)], 'y')]);
}

/** With SGD at lr 1, a parameter changes by minus the sum over the samples, divided by `batch`. */
const options = (
  clip: number,
  rest: Partial<InjectOptions> = {},
  method?: 'scan' | 'ghost',
): InjectOptions => ({
  optimizer: { name: 'sgd', lr: 1 },
  train: ['*'],
  ...rest,
  dpSgd: { clip, noise: 0, batch: 1, method },
});

async function changes(model: Model, asked: InjectOptions, feeds: Record<string, Tensor>) {
  const { model: injected, report } = await inject(model, asked, sessionShapes);
  const trainer = await Trainer.create(injected);
  try {
    const before = new Map([...trainer.state].map(([name, t]) => [name, t.numbers()]));
    const { loss } = await trainer.step(feeds);
    const sums = report.description.parameters.map(({ name }) => {
      const was = before.get(name)!;
      return [
        name,
        trainer.state
          .get(name)!
          .numbers()
          .map((w, i) => was[i]! - w),
      ] as const;
    });
    return { loss, sums: Object.fromEntries(sums), report };
  } finally {
    await trainer.release();
  }
}

function expectClose(sums: Record<string, number[]>, expected: Record<string, number[]>): void {
  expect(Object.keys(sums).sort()).toEqual(Object.keys(expected).sort());
  for (const [name, values] of Object.entries(expected))
    values.forEach((value, i) => {
      expect(sums[name]![i], `${name}[${i}]`).toBeCloseTo(value, 5);
    });
}

describe('clipped gradients of single samples', () => {
  const classes = { kind: 'cross-entropy' } as const;
  const masked = { ...classes, mask: 'mask' } as const;
  it.each(['ghost', 'scan'] as const)("are PyTorch's, of sequences, by %s", async method => {
    const { clip, sums } = recorded.sequence;
    const asked = options(clip, { loss: classes }, method);
    const result = await changes(sequence(), asked, { ids, target: ints([0, 2, 1, 2]) });
    expectClose(result.sums, sums);
  });
  it.each(['ghost', 'scan'] as const)("are PyTorch's, of masked tokens, by %s", async method => {
    const { clip, sums } = recorded.tokens;
    const result = await changes(tokens(), options(clip, { loss: masked }, method), {
      ids,
      mask,
      target: labels,
    });
    expectClose(result.sums, sums);
  });
  it("are PyTorch's, of images, in a loop, as there is no rule for Conv", async () => {
    const { clip, sums } = recorded.image;
    const feeds = { x: spread([5, 1, 5, 5], [-1, 1], 33), target: spread([5, 2], [-1, 1], 34) };
    const result = await changes(image(), options(clip, { loss: { kind: 'mse' } }), feeds);
    expectClose(result.sums, sums);
  });
});

/** Logits of a layer with dropout in front of it. */
function withDropout(): Model {
  const s = new Sketch();
  const x = s.input('x', ['batch', 4]);
  const d = s.add('Dropout', [x, s.weight('ratio', floatsOf([0.5], []))], 'd');
  return s.model([s.add('MatMul', [d, weight(s, 'w', [4, 3], 1)], 'logits')]);
}

describe('a private step', () => {
  const loss = { kind: 'cross-entropy' } as const;
  const privately = (dpSgd: InjectOptions['dpSgd'], rest: Partial<InjectOptions> = {}): InjectOptions => ({
    loss,
    optimizer: { name: 'sgd', lr: 1 },
    seed: 5,
    ...rest,
    dpSgd,
  });
  const data = Object.fromEntries(mlpData(8));
  const rows = (from: number, to: number) =>
    Object.fromEntries(
      Object.entries(data).map(([name, t]) => {
        const size = t.bytes.length / 8;
        return [
          name,
          new Tensor(t.dtype, [to - from, ...t.dims.slice(1)], t.bytes.slice(from * size, to * size)),
        ];
      }),
    );

  /** By parameter, the noise that an update adds in multiples of its standard deviation on the mean. */
  const deviationOf = (sums: Record<string, number[]>, unit: number) => {
    const all = Object.values(sums).flat();
    return Math.sqrt(all.reduce((n, x) => n + (x / unit) ** 2, 0) / all.length);
  };
  const none = rows(0, 0);

  it.each(['ghost', 'scan'] as const)('of no samples is noise alone, by %s', async method => {
    const asked = privately({ clip: 2, noise: 0.5, batch: 4, method });
    const { loss, sums } = await changes(mlp(), asked, none);
    expect(loss).toBe(0);
    const spread = deviationOf(sums, (2 * 0.5) / 4);
    expect(spread).toBeGreaterThan(0.8);
    expect(spread).toBeLessThan(1.2);
  });

  it.each(['ghost', 'scan'] as const)('draws dropout for each sample, by %s', async method => {
    const asked = { ...privately({ clip: 100, noise: 0, batch: 1, method }), seed: 3 };
    const one = spread([1, 4], [0.5, 1], 3).numbers();
    const grad = async (count: number) => {
      const x = floatsOf(Array.from({ length: count }, () => one).flat(), [count, 4]);
      return (await changes(withDropout(), asked, { x, target: ints(Array(count).fill(0)) })).sums.w!;
    };
    const [single, many] = [await grad(1), await grad(16)];
    const isMultiple = single.every((g, i) => Math.abs(16 * g - many[i]!) < 1e-3);
    expect(isMultiple).toBe(false);
    // Each feature is kept in some sample.
    expect(many.every(g => Math.abs(g) > 1e-3)).toBe(true);
  });

  it('adds noise once per update, to the sum over its batches', async () => {
    const asked = (noise: number) => privately({ clip: 0.1, noise, batch: 4 }, { accumulate: 2 });
    const update = async (noise: number, ...batches: Record<string, Tensor>[]) => {
      const { model, report } = await inject(mlp(), asked(noise), sessionShapes);
      const trainer = await Trainer.create(model);
      const { parameters } = report.description;
      const values = () => parameters.map(({ name }) => [name, trainer.state.get(name)!.numbers()] as const);
      const before = values();
      for (const batch of batches) await trainer.step(batch);
      const after = Object.fromEntries(values());
      await trainer.release();
      return Object.fromEntries(before.map(([name, was]) => [name, was.map((w, i) => w - after[name]![i]!)]));
    };
    const noise = deviationOf(await update(3, none, none), (0.1 * 3) / 8);
    expect(noise).toBeGreaterThan(0.8);
    expect(noise).toBeLessThan(1.2);
    const whole = await changes(mlp(), privately({ clip: 0.1, noise: 0, batch: 8 }), data);
    expectClose(await update(0, rows(0, 4), rows(4, 8)), whole.sums);
  });

  it.each(['ghost', 'scan'] as const)(
    'is the same in one run of many steps, and resumed, by %s',
    async method => {
      const asked = privately({ clip: 0.5, noise: 1, batch: 2, method });
      const { model } = await inject(withDropout(), asked, sessionShapes);
      const batches = [0, 1, 2].map(i => rows(2 * i, 2 * i + 2));
      const together = Object.fromEntries(
        Object.keys(data).map(name => {
          const [{ dtype, dims }] = batches.map(b => b[name]!) as [Tensor];
          const bytes = Buffer.concat(batches.map(b => b[name]!.bytes));
          return [name, new Tensor(dtype, [3, ...dims], new Uint8Array(bytes))];
        }),
      );
      const end = async (trainer: Trainer) => {
        const w = trainer.state.get('w')!.numbers();
        await trainer.release();
        return w;
      };
      const one = await Trainer.create(model);
      await one.steps(together);
      const many = await Trainer.create(model);
      await many.step(batches[0]!);
      await many.step(batches[1]!);
      const snapshot = many.snapshot();
      await many.release();
      const resumed = await Trainer.create(snapshot);
      await resumed.step(batches[2]!);
      expect(await end(resumed)).toEqual(await end(one));
    },
  );

  it('draws secret noise unless a seed is given', async () => {
    const asked = { ...privately({ clip: 1, noise: 1, batch: 1 }), seed: undefined };
    const [a, b] = [await changes(mlp(), asked, none), await changes(mlp(), asked, none)];
    expect(a.sums).not.toEqual(b.sums);
  });

  it('leaves out a sample whose gradient is not finite, in the loop', async () => {
    const asked = privately({ clip: 1, noise: 0, batch: 1, method: 'scan' }, { loss: { kind: 'mse' } });
    const s = new Sketch();
    const y = s.add(
      'Log',
      [s.add('MatMul', [s.input('x', ['n', 2]), s.weight('w', floatsOf([1, 1], [2, 1]))], 'p')],
      'y',
    );
    const model = s.model([y]);
    const feeds = (x: number[]) => ({
      x: floatsOf(x, [x.length / 2, 2]),
      target: floatsOf(Array(x.length / 2).fill(0), [x.length / 2, 1]),
    });
    const { model: injected } = await inject(model, { ...asked, onNonfinite: 'skip' }, sessionShapes);
    const trainer = await Trainer.create(injected);
    await trainer.step(feeds([1, 2, 1, -1]));
    const w = trainer.state.get('w')!.numbers();
    await trainer.release();
    const alone = await changes(model, asked, feeds([1, 2]));
    expect(w.map(v => 1 - v)).toEqual(alone.sums.w);
  });

  it.each(['float16', 'float64'] as const)('takes %s', async dtype => {
    const s = new Sketch();
    const x = s.input('x', ['n', 4], dtype);
    const model = s.model([
      s.add('MatMul', [x, s.weight('w', convert(spread([4, 3], [-1, 1], 4), dtype))], 'y'),
    ]);
    const feeds = { x: convert(data.x!, dtype), target: data.target! };
    for (const method of ['ghost', 'scan'] as const) {
      const asked = privately({ clip: 0.25, noise: 0, batch: 1, method });
      const { sums } = await changes(model, asked, feeds);
      const plain = await changes(model, privately({ clip: 1e3, noise: 0, batch: 1, method }), feeds);
      const norm = Math.hypot(...sums.w!);
      expect(norm).toBeLessThan(8 * 0.25 + 0.02);
      expect(norm).toBeLessThan(Math.hypot(...plain.sums.w!));
    }
  });

  const refused: [string, () => Model, Partial<InjectOptions>, RegExp][] = [
    ['no noise', mlp, { dpSgd: { clip: 1 } }, /needs the noise/],
    ['accumulation without the expected size of a batch', mlp, { accumulate: 2 }, /expected size of a batch/],
    [
      'a loss across the batch',
      mlp,
      { loss: { kind: 'contrastive', output: 'logits' } },
      /depends on the rest/,
    ],
    ['class weights', mlp, { loss: { ...loss, classWeights: [1, 1, 2] } }, /cancel out/],
    ['mixed targets', mlp, { loss: { ...loss, mixTargets: true } }, /mix samples/],
    ['second order', mlp, { optimizer: { name: 'adahessian' } }, /--optimizer adahessian/],
    ['activation checkpointing', mlp, { checkpointActivations: true }, /--checkpoint-activations/],
    ['batch statistics', normalized, {}, /'bn_node'.*--batch-norm eval/],
    ['a fixed batch', () => mlpOf(8), {}, /fixed batch of 8.*--free-batch x/],
    [
      'ghost clipping of a convolution',
      image,
      { loss: { kind: 'mse' }, dpSgd: { clip: 1, noise: 1, method: 'ghost' } },
      /no rule for 'Conv'/,
    ],
  ];
  it.each(refused)('refuses %s', async (_, make, rest, message) => {
    const asked = { ...privately({ clip: 1, noise: 1 }), ...rest };
    await expect(inject(make(), asked, sessionShapes)).rejects.toThrow(message);
  });
  /** A layer after `f`, which gets x [batch, 4]. */
  const behind = (f: (s: Sketch, x: Value) => Value) => () => {
    const s = new Sketch();
    const x = f(s, s.input('x', ['batch', 4]));
    return s.model([s.add('MatMul', [x, weight(s, 'w', [4, 3], 1)], 'logits')]);
  };
  const mixing: [string, () => Model][] = [
    [
      'ReduceMean',
      behind((s, x) => s.add('Sub', [x, s.add('ReduceMean', [x, s.weight('axes', ints([0]))], 'm')], 'c')),
    ],
    ['Softmax', behind((s, x) => s.add('Softmax', [x], 'p', { axis: 0 }))],
    ['CumSum', behind((s, x) => s.add('CumSum', [x, s.weight('axis', ints([0], []))], 'p'))],
    [
      'MatMul',
      behind((s, x) =>
        s.add('MatMul', [s.add('MatMul', [x, s.add('Transpose', [x], 'xt', { perm: [1, 0] })], 'g'), x], 'p'),
      ),
    ],
  ];
  it.each(mixing)('computes samples one by one if %s may mix them', async (_, make) => {
    const { report } = await inject(make(), privately({ clip: 1, noise: 1 }), sessionShapes);
    expect(report.description.dpSgd?.method).toBe('scan');
    expect(report.notes?.[0]).toMatch(/is not known to keep samples apart/);
  });
  /** Logits of sequences, from embeddings of tokens and of positions. */
  const positional = (rank: 2 | 3) => () => {
    const s = new Sketch();
    const tokens = s.input('ids', ['batch', 'time'], 'int64');
    const length = s.add(
      'Gather',
      [s.add('Shape', [tokens], 'shape'), s.weight('one', ints([1], []))],
      'length',
    );
    const scalars = [s.weight('zero', ints([0], [])), length, s.weight('step', ints([1], []))];
    const range = s.add('Range', scalars, 'range');
    const at = rank === 2 ? range : s.add('Unsqueeze', [range, s.weight('front', ints([0]))], 'at');
    const e = s.add('Gather', [weight(s, 'word', [11, 6], 10), tokens], 'e');
    const p = s.add('Gather', [weight(s, 'pos', [5, 6], 11), at], 'p');
    const t = s.add('Tanh', [s.add('Add', [e, p], 'sum')], 't');
    const mean = s.add('ReduceMean', [t, s.weight('axes', ints([1]))], 'mean', { keepdims: 0 });
    return s.model([s.add('MatMul', [mean, weight(s, 'head', [6, 3], 12)], 'logits')]);
  };
  it.each([2, 3] as const)('bounds each sample where all share positions of rank %i', async rank => {
    const make = positional(rank);
    const asked = { loss, train: ['pos', 'head'], seed: 5 };
    const feeds = { ids, target: ints([0, 2, 1, 2]) };
    const { sums, report } = await changes(make(), options(0.01, asked), feeds);
    expect(report.description.dpSgd?.method).toBe('scan');
    expect(report.notes).toEqual([expect.stringMatching(/layer of 'pos' is shared by all samples/)]);
    expect(Math.hypot(...Object.values(sums).flat())).toBeLessThan(4 * 0.01 + 1e-6);
    await expect(inject(make(), options(0.01, asked, 'ghost'), sessionShapes)).rejects.toThrow(
      /Ghost clipping does not apply, as the output of the layer of 'pos' is shared by all samples/,
    );
  });
  it('leaves out a sample, not the update, where it skips what is not finite', async () => {
    const asked = privately({ clip: 1, noise: 0, batch: 1 }, { onNonfinite: 'skip' });
    const bad = { ...rows(0, 4), x: floatsOf([Number.NaN, ...data.x!.numbers().slice(1, 16)], [4, 4]) };
    const { sums, report } = await changes(mlp(), asked, bad);
    expect(report.description.dpSgd?.method).toBe('scan');
    expect(report.notes).toEqual([expect.stringMatching(/as --on-nonfinite skip leaves out single samples/)]);
    const { sums: others } = await changes(mlp(), asked, rows(1, 4));
    expectClose(sums, others);
    const ghost = privately({ clip: 1, noise: 1, method: 'ghost' }, { onNonfinite: 'skip' });
    await expect(inject(mlp(), ghost, sessionShapes)).rejects.toThrow(/leave out method=ghost/);
  });
  it('computes samples one by one if layers share a weight', async () => {
    const s = new Sketch();
    const w = weight(s, 'w', [4, 4], 1);
    const h = s.add('Tanh', [s.add('MatMul', [s.input('x', ['batch', 4]), w], 'h')], 't');
    const model = s.model([s.add('MatMul', [h, w], 'logits')]);
    const { report } = await inject(model, privately({ clip: 1, noise: 1 }), sessionShapes);
    expect(report.notes).toEqual([expect.stringMatching(/'w' is not read by one layer/)]);
  });
  it('clips adapters alone, by both methods alike', async () => {
    const lora = [{ match: '*', r: 2 }];
    const sums = await Promise.all(
      (['ghost', 'scan'] as const).map(async method => {
        const asked = privately({ clip: 0.05, noise: 0, batch: 1, method }, { lora });
        return (await changes(mlp(), asked, data)).sums;
      }),
    );
    expect(Object.keys(sums[0]!)).toHaveLength(4);
    expectClose(sums[0]!, sums[1]!);
    expect(Math.hypot(...Object.values(sums[0]!).flat())).toBeGreaterThan(0.05);
  });
  it('trains batch normalization on its running statistics', async () => {
    const asked = privately({ clip: 1, noise: 1 }, { batchNorm: 'eval' });
    const { report } = await inject(normalized(), asked, sessionShapes);
    expect(report.description.dpSgd?.method).toBe('scan');
    expect(report.notes).toEqual([expect.stringMatching(/no rule for 'BatchNormalization'/)]);
  });
});

function normalized(): Model {
  const s = new Sketch();
  const names = ['scale', 'bias', 'mean', 'var'];
  const x = s.add('MatMul', [s.input('x', ['batch', 4]), weight(s, 'w', [4, 3], 1)], 'h');
  return s.model([
    s.add('BatchNormalization', [x, ...names.map(n => s.weight(n, floatsOf([1, 1, 1])))], 'bn'),
  ]);
}

function mlpOf(batch: number): Model {
  const s = new Sketch();
  return s.model([s.add('MatMul', [s.input('x', [batch, 4]), weight(s, 'w', [4, 3], 1)], 'logits')]);
}
