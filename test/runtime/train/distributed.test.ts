/** Training on several ranks: the same numbers as on one, but for rounding, and the same bits on all of them. */
import { describe, expect, it, vi } from 'vitest';
import { AgdError } from '../../../src/graph/errors.js';
import type { Model, Value } from '../../../src/graph/ir.js';
import { Tensor } from '../../../src/graph/tensor.js';
import type { AttrInit } from '../../../src/ops/core/builder.js';
import { readStep, writeDescription } from '../../../src/passes/file/step-metadata.js';
import { inject } from '../../../src/passes/inject.js';
import type { InjectOptions } from '../../../src/passes/options.js';
import type { Collective } from '../../../src/runtime/collective/collective.js';
import { localCollectives } from '../../../src/runtime/collective/local.js';
import { bindData } from '../../../src/runtime/data/bind.js';
import { sessionShapes } from '../../../src/runtime/session.js';
import type { EpochEvent, StepEvent } from '../../../src/runtime/train/events.js';
import type { TrainerOptions } from '../../../src/runtime/train/load-step.js';
import { Trainer } from '../../../src/runtime/train/trainer.js';
import { type LoopOptions, trainingLoop } from '../../../src/runtime/train/training-loop.js';
import { ints, spread } from '../../ops/vjp.js';
import { collect, mlp, mlpData, normalized, Sketch } from '../../sample.js';

type Arrays = Map<string, Tensor>;
type Setting = { model: Model; arrays: Arrays; inject: InjectOptions; loop?: Partial<LoopOptions> };

/** BatchNormalization whose parameters are called `name`. */
function batchNorm(s: Sketch, x: Value, name: string, channels: number): Value {
  const of = (what: string, from: number) =>
    s.weight(`${name}.${what}`, spread([channels], [from, from + 0.5], 3));
  return s.add(
    'BatchNormalization',
    [x, of('scale', 1), of('bias', 0), of('mean', 0), of('var', 1)],
    `${name}.y`,
  );
}

/** image[batch,3,6,6] -> blocks with convolution, normalization and a shortcut, one of them normalized -> logits[batch,4]. */
function residual(): Model {
  const s = new Sketch();
  const pads = { pads: [1, 1, 1, 1] };
  const conv = (x: Value, name: string, dims: number[], attrs: AttrInit = pads) =>
    s.add('Conv', [x, s.weight(name, dims)], `${name}.out`, attrs);
  const relu = (x: Value, name: string) => s.add('Relu', [x], name);
  const x = s.input('x', ['batch', 3, 6, 6]);
  const stem = relu(batchNorm(s, conv(x, 'stem', [8, 3, 3, 3]), 'bn0', 8), 'r0');
  const a = relu(batchNorm(s, conv(stem, 'c1', [8, 8, 3, 3]), 'bn1', 8), 'r1');
  const b = relu(s.add('Add', [batchNorm(s, conv(a, 'c2', [8, 8, 3, 3]), 'bn2', 8), stem], 'sum1'), 'r2');
  const c = relu(batchNorm(s, conv(b, 'c3', [12, 8, 3, 3], { ...pads, strides: [2, 2] }), 'bn3', 12), 'r3');
  const short = batchNorm(s, conv(b, 'short', [12, 8, 1, 1], { strides: [2, 2] }), 'bn4', 12);
  const d = relu(s.add('Add', [c, short], 'sum2'), 'r4');
  const pooled = s.add('Flatten', [s.add('GlobalAveragePool', [d], 'p')], 'f');
  return s.model([s.add('Gemm', [pooled, s.weight('fc.w', [12, 4]), s.weight('fc.b', [4])], 'logits')]);
}

function images(count: number, ignored: (i: number) => boolean = () => false): Arrays {
  const labels = Array.from({ length: count }, (_, i) => (ignored(i) ? -100 : (i * 7) % 4));
  return new Map([
    ['x', spread([count, 3, 6, 6], [-1, 2], 7)],
    ['target', ints(labels, [count])],
  ]);
}

/** tokens[batch,4] -> embedding -> scores[batch,4,6] of the next token. */
function language(): Model {
  const s = new Sketch();
  const tokens = s.input('tokens', ['batch', 4], 'int64');
  const e = s.add('Gather', [s.weight('embedding', [9, 5]), tokens], 'e');
  const h = s.add('Tanh', [s.add('MatMul', [e, s.weight('w1', [5, 5])], 'm')], 'h');
  return s.model([s.add('MatMul', [h, s.weight('w2', [5, 6])], 'scores')]);
}

/** Texts of different lengths, one of them empty: -100 is padding. */
function languageData(count: number): Arrays {
  const tokens = spread([count, 4], [0, 9], 5)
    .numbers()
    .map(x => Math.min(8, Math.floor(x)));
  const labels = tokens.map((token, i) => (i % 4 >= Math.floor(i / 4) % 5 ? -100 : token % 6));
  return new Map([
    ['tokens', ints(tokens, [count, 4])],
    ['target', ints(labels, [count, 4])],
  ]);
}

/** Texts of which all but two are padding, so that most batches are. */
function mostlyPadded(count: number): Arrays {
  const arrays = languageData(count);
  const labels = arrays.get('target')!.numbers();
  return new Map([
    ...arrays,
    [
      'target',
      ints(
        labels.map((n, i) => (i < 8 ? n : -100)),
        [count, 4],
      ),
    ],
  ]);
}

async function train(
  { model, arrays, inject: options, loop }: Setting,
  given: TrainerOptions = {},
  start?: Model,
) {
  const injected = start ?? (await inject(model, { lossDivisor: true, ...options }, sessionShapes)).model;
  const trainer = await Trainer.create(injected, { threads: 1, ...given });
  try {
    const { target } = trainer.description.loss;
    const data = bindData(arrays, trainer.inputs, { labels: target === undefined ? [] : [target] });
    const events = await collect(
      trainingLoop(trainer, data, {
        epochs: 2,
        batchSize: 8,
        seed: 4,
        validation: data,
        trainMetrics: 9,
        ...loop,
      }),
    );
    await trainer.settle();
    return {
      state: trainer.snapshot(),
      losses: events.flatMap(e => (e.type === 'step' ? [(e as StepEvent).loss] : [])),
      epochs: events.flatMap(e => (e.type === 'epoch' ? [e as EpochEvent] : [])),
      skipped: trainer.skippedCount,
    };
  } finally {
    await trainer.release();
  }
}

type Trained = Awaited<ReturnType<typeof train>>;

const onRanks = (size: number, setting: Setting, given: TrainerOptions = {}, start?: Model) =>
  Promise.all(
    localCollectives(size).map(async (collective: Collective) => {
      try {
        return await train(setting, { ...given, collective }, start);
      } catch (error) {
        collective.abort(String(error));
        throw error;
      }
    }),
  );

function tensorsOf({ state }: Trained) {
  const names = new Set(state.trainingInfo.flatMap(info => info.updates.map(u => u.state)));
  return new Map([...state.graph.initializers].flatMap(([v, t]) => (names.has(v.name) ? [[v.name, t]] : [])));
}

/** The largest difference of a tensor, relative to its largest number. */
function difference(a: Trained, b: Trained): number {
  const others = tensorsOf(b);
  return Math.max(
    ...[...tensorsOf(a)].map(([name, tensor]) => {
      const [x, y] = [tensor.numbers(), others.get(name)!.numbers()];
      const scale = Math.max(1e-3, ...x.map(Math.abs));
      return Math.max(0, ...x.map((value, i) => Math.abs(value - y[i]!) / scale));
    }),
  );
}

const bits = (trained: Trained) =>
  [...tensorsOf(trained)].map(([name, t]) => [name, Buffer.from(t.bytes).toString('hex')]);

const CE = { kind: 'cross-entropy' } as const;
/** Scores of which padding does not count, and hidden values with a mask of their own, of which one text has none. */
const UNEVEN: InjectOptions['loss'] = {
  ...CE,
  ignoreIndex: -100,
  plus: [{ kind: 'mse', output: 'h', target: 'wanted', mask: 'present', weight: 0.5 }],
};
const TWO_LOSSES = {
  model: language(),
  arrays: new Map([
    ...languageData(37),
    ['wanted', spread([37, 4, 5], [-1, 1], 9)] as const,
    [
      'present',
      ints(
        Array.from({ length: 37 * 4 }, (_, i) => (i % 3 && i > 32 ? 1 : 0)),
        [37, 4],
      ),
    ] as const,
  ]),
};

const SETTINGS: [string, Setting][] = [
  // 21 samples in batches of 8: the last one has 5, one of 4 ranks has 2 of them.
  ['plain', { model: mlp(), arrays: mlpData(21), inject: { loss: CE } }],
  ['a last batch of one sample', { model: mlp(), arrays: mlpData(17), inject: { loss: CE } }],
  [
    'class weights',
    { model: mlp(), arrays: mlpData(21), inject: { loss: { ...CE, classWeights: [1, 5, 0.2] } } },
  ],
  [
    'padding',
    { model: language(), arrays: languageData(21), inject: { loss: { ...CE, ignoreIndex: -100 } } },
  ],
  [
    'lazy rows',
    {
      model: language(),
      arrays: languageData(21),
      inject: { loss: { ...CE, ignoreIndex: -100 }, lazyRows: ['embedding'] },
    },
  ],
  [
    'accumulation and clipping',
    {
      model: language(),
      arrays: languageData(37),
      inject: {
        loss: { ...CE, ignoreIndex: -100 },
        accumulate: 3,
        clipGradNorm: 0.05,
        ema: 0.9,
        telemetry: 1,
      },
    },
  ],
  [
    'a schedule and Adam',
    {
      model: mlp(),
      arrays: mlpData(21),
      inject: { loss: CE, optimizer: { name: 'adamw', eps: 1e-3 }, schedule: { kind: 'cosine', total: 6 } },
    },
  ],
  [
    'products of the Hessian',
    { model: mlp(), arrays: mlpData(21), inject: { loss: CE, optimizer: { name: 'adahessian', eps: 1e-2 } } },
  ],
  [
    'lazy rows and a state that is a scalar',
    {
      model: language(),
      arrays: languageData(21),
      inject: {
        loss: { ...CE, ignoreIndex: -100 },
        lazyRows: ['embedding'],
        optimizer: { name: 'nadam', eps: 1e-3 },
      },
    },
  ],
  [
    'accumulation of batches of which the last one counts nothing',
    {
      model: language(),
      arrays: mostlyPadded(24),
      inject: { loss: { ...CE, ignoreIndex: -100 }, accumulate: 3, optimizer: { name: 'sgd', lr: 0.3 } },
    },
  ],
  ['losses that count different positions', { ...TWO_LOSSES, inject: { loss: UNEVEN } }],
  [
    'losses that count different positions, accumulation and clipping',
    { ...TWO_LOSSES, inject: { loss: UNEVEN, accumulate: 3, clipGradNorm: 0.05, ema: 0.9, telemetry: 1 } },
  ],
  [
    'losses that count different positions, and lazy rows',
    { ...TWO_LOSSES, inject: { loss: UNEVEN, lazyRows: ['embedding'] } },
  ],
  [
    'losses that count different positions, and products of the Hessian',
    {
      ...TWO_LOSSES,
      inject: { loss: UNEVEN, accumulate: 2, optimizer: { name: 'adahessian', eps: 1e-2 } },
    },
  ],
  [
    'gradients away from the weights',
    {
      model: language(),
      arrays: languageData(21),
      inject: {
        loss: { ...CE, ignoreIndex: -100 },
        accumulate: 2,
        optimizer: { name: 'schedule-free-adamw', eps: 1e-3 },
      },
    },
  ],
  [
    'sums over all parameters',
    {
      model: language(),
      arrays: languageData(21),
      inject: {
        loss: { ...CE, ignoreIndex: -100 },
        accumulate: 2,
        optimizer: { name: 'prodigy', eps: 1e-3, d0: 1e-2 },
      },
    },
  ],
];

describe.each(SETTINGS)('training with %s', (_, setting) => {
  it('has the same result on 1, 2 and 4 ranks', async () => {
    const alone = await train(setting);
    for (const size of [1, 2, 4]) {
      const ranks = await onRanks(size, setting);
      expect(difference(alone, ranks[0]!)).toBeLessThan(1e-6);
      ranks[0]!.losses.forEach((loss, i) => {
        expect(Math.abs(loss - alone.losses[i]!)).toBeLessThan(1e-6 * Math.max(1, Math.abs(loss)));
      });
      expect(ranks[0]!.losses.length).toBe(alone.losses.length);
      for (const other of ranks.slice(1)) {
        expect(bits(other)).toEqual(bits(ranks[0]!));
        expect(other.losses).toEqual(ranks[0]!.losses);
        expect(other.epochs.map(e => [e.validation, e.training])).toEqual(
          ranks[0]!.epochs.map(e => [e.validation, e.training]),
        );
      }
      ranks[0]!.epochs.forEach((epoch, i) => {
        const { validation, training, trainLoss } = alone.epochs[i]!;
        expect(epoch.validation!.samples).toBe(validation!.samples);
        expect(epoch.validation!.loss).toBeCloseTo(validation!.loss, 6);
        expect(epoch.training!.samples).toBe(training!.samples);
        expect(epoch.training!.loss).toBeCloseTo(training!.loss, 6);
        expect(epoch.trainLoss).toBeCloseTo(trainLoss, 6);
      });
    }
  });
});

/** Each rank perturbs the weights by the gradient of its own samples, as each part of an accumulated batch does. */
const PERTURBED: [string, InjectOptions][] = [
  ['at', { sam: { rho: 0.05 } }],
  ['in units of', { sam: { rho: 0.5, adaptive: true } }],
  ['beside those at', { wsam: { rho: 0.05, gamma: 0.8 } }],
  ['and clipping, at', { wsam: { rho: 0.05 }, clipGradNorm: 0.05, ema: 0.9 }],
];

describe.each(PERTURBED)('training with gradients %s perturbed weights', (_, options) => {
  it('on 2 ranks has the result of one process that accumulates two batches', async () => {
    const setting: Setting = {
      ...{ model: language(), arrays: languageData(24) },
      inject: { loss: { ...CE, ignoreIndex: -100 }, ...options },
    };
    const accumulated = { ...setting, inject: { ...setting.inject, accumulate: 2 }, loop: { batchSize: 4 } };
    const alone = await train(accumulated);
    expect(difference(await train(setting), alone)).toBeGreaterThan(1e-5);
    const ranks = await onRanks(2, setting);
    expect(difference(ranks[0]!, alone)).toBeLessThan(1e-6);
    expect(bits(ranks[1]!)).toEqual(bits(ranks[0]!));
    expect(ranks[1]!.losses).toEqual(ranks[0]!.losses);
  });
});

const NORMALIZED: [string, Setting][] = [
  // 17 samples in batches of 8: the last one has one sample, and is part of the one before.
  ['vectors', { model: normalized(), arrays: mlpData(19), inject: { loss: CE } }],
  ['images', { model: residual(), arrays: images(21), inject: { loss: CE } }],
  [
    'labels of which most are ignored, on some ranks all',
    { model: residual(), arrays: images(32, i => i % 4 > 0), inject: { loss: { ...CE, ignoreIndex: -100 } } },
  ],
  [
    'class weights',
    { model: residual(), arrays: images(13), inject: { loss: { ...CE, classWeights: [1, 5, 0.2, 2] } } },
  ],
  ['accumulation', { model: residual(), arrays: images(24), inject: { loss: CE, accumulate: 2 } }],
  [
    'steps that may be skipped',
    { model: residual(), arrays: images(21), inject: { loss: CE, onNonfinite: 'skip' } },
  ],
  [
    'losses that count different positions',
    {
      model: residual(),
      arrays: new Map([...images(32, i => i % 4 > 0), ['wanted', spread([32, 12], [-1, 1], 9)]]),
      inject: {
        loss: {
          ...CE,
          ignoreIndex: -100,
          plus: [{ kind: 'mse', output: 'f', target: 'wanted', weight: 0.5 }],
        },
      },
    },
  ],
  [
    'recomputed activations',
    { model: residual(), arrays: images(21), inject: { loss: CE, checkpointActivations: true } },
  ],
];

describe.each(NORMALIZED)('synchronized batch normalization of %s', (_, { inject: options, ...rest }) => {
  it('has the same result on 1, 2 and 4 ranks', async () => {
    const setting = {
      ...rest,
      inject: { ...options, optimizer: { name: 'sgd', lr: 0.1 } } as const,
    };
    const alone = await train(setting);
    const synchronized = { ...setting, inject: { ...setting.inject, syncBatchNorm: true } };
    const asInFile = { optimize: false };
    expect(bits(await train(synchronized, asInFile))).toEqual(bits(await train(setting, asInFile)));
    // What a processor's layout takes in, and so the order of its sums, may differ.
    expect(difference(alone, await train(synchronized))).toBeLessThan(1e-6);
    for (const size of [1, 2, 4]) {
      const ranks = await onRanks(size, synchronized);
      expect(difference(alone, ranks[0]!)).toBeLessThan(1e-6);
      for (const other of ranks.slice(1)) {
        expect(bits(other)).toEqual(bits(ranks[0]!));
        expect(other.losses).toEqual(ranks[0]!.losses);
      }
    }
    expect(difference(alone, (await onRanks(2, setting))[0]!)).toBeGreaterThan(1e-4);
  });
});

describe('a distributed run', () => {
  it.each([5, 11])(
    'goes on from its state with another number of ranks, in the middle of an update: setting %i',
    async at => {
      const [, setting] = SETTINGS[at]!;
      const whole = await train(setting);
      const stopped = (steps: number): Partial<LoopOptions> => {
        let seen = 0;
        return {
          afterRun: () => void seen++,
          signal: {
            get aborted() {
              return seen >= steps;
            },
          },
        };
      };
      // Four batches: one update, and one batch that waits.
      const results = await Promise.all(
        localCollectives(2).map(collective => train({ ...setting, loop: stopped(4) }, { collective })),
      );
      expect(results[0]!.losses.length).toBe(4);
      expect(bits(results[1]!)).toEqual(bits(results[0]!));
      const [resumed] = await onRanks(3, setting, {}, results[0]!.state);
      expect(difference(whole, resumed!)).toBeLessThan(1e-6);
      const alone = await train(setting, {}, results[0]!.state);
      expect(difference(whole, alone)).toBeLessThan(1e-6);
    },
  );

  it('sends the rows of a table once where parts of the loss have gradients of it', async () => {
    const inject: InjectOptions = { loss: UNEVEN, lazyRows: ['embedding'] };
    const sent = vi.fn();
    await Promise.all(
      localCollectives(2).map(async inner => {
        const collective = new Proxy(inner, {
          get(target, key) {
            const value = Reflect.get(target, key, target);
            if (key !== 'allGather') return typeof value === 'function' ? value.bind(target) : value;
            return (data: Float32Array) => {
              if (inner.rank === 0) sent(data.constructor.name);
              return target.allGather(data);
            };
          },
        });
        const loop = { epochs: 1, batchSize: 37, validation: undefined, trainMetrics: false };
        await train({ ...TWO_LOSSES, inject, loop }, { collective });
      }),
    );
    // One step: row numbers, and the gradients of two losses.
    expect(sent.mock.calls.flat().sort()).toEqual(['Float32Array', 'Float32Array', 'Int32Array']);
  });

  it('refuses a snapshot that lacks gradients', async () => {
    const { model } = await inject(mlp(), { loss: CE, accumulate: 2, lossDivisor: true }, sessionShapes);
    const [collective] = localCollectives(1);
    const trainer = await Trainer.create(model, { collective });
    const [x, target] = ['x', 'target'].map(name => mlpData(4).get(name)!);
    await trainer.step({ x: x!, target: target! });
    expect(() => trainer.snapshot()).toThrow('call settle()');
    await trainer.settle();
    expect(trainer.snapshot()).toBeDefined();
    await trainer.release();
  });

  it.each([
    [1, 'cpu'],
    [2, 'cpu'],
    [1, 'cuda'],
    [2, 'cuda'],
  ] as const)(
    'leaves out a batch with gradients that are not finite on all ranks: accumulate %i, written for %s',
    async (accumulate, provider) => {
      const arrays = mlpData(24);
      const x = Float32Array.from(arrays.get('x')!.numbers());
      x[4 * 5] = Number.NaN;
      const setting: Setting = {
        model: mlp(),
        arrays: new Map([...arrays, ['x', Tensor.from('float32', [24, 4], x)]]),
        inject: { loss: CE, onNonfinite: 'skip', accumulate, provider },
        loop: { validation: undefined, trainMetrics: false },
      };
      const alone = await train(setting);
      const ranks = await onRanks(2, setting);
      expect(alone.skipped).toBe(2);
      expect(ranks.map(r => r.skipped)).toEqual([2, 2]);
      expect(difference(alone, ranks[0]!)).toBeLessThan(1e-6);
      expect(bits(ranks[1]!)).toEqual(bits(ranks[0]!));
    },
  );

  it('ends on all ranks if the loss is not finite on one', async () => {
    const arrays = mlpData(8);
    const x = Float32Array.from(arrays.get('x')!.numbers());
    x[0] = Number.POSITIVE_INFINITY;
    const setting: Setting = {
      model: mlp(),
      arrays: new Map([...arrays, ['x', Tensor.from('float32', [8, 4], x)]]),
      inject: { loss: { kind: 'mse' } },
    };
    setting.arrays.set('target', spread([8, 3], [-1, 1], 2));
    const results = await Promise.allSettled(
      localCollectives(2).map(collective => train(setting, { collective })),
    );
    for (const result of results) {
      expect(result.status).toBe('rejected');
      expect((result as PromiseRejectedResult).reason).toMatchObject({ code: 'non-finite' });
    }
  });

  it('rounds gradients to float16 on the way where asked to', async () => {
    const [, setting] = SETTINGS[0]!;
    const alone = await train(setting);
    const ranks = await onRanks(4, setting, { compress: 'fp16' });
    const far = difference(alone, ranks[0]!);
    expect(far).toBeGreaterThan(1e-6);
    expect(far).toBeLessThan(5e-3);
    for (const other of ranks) expect(bits(other)).toEqual(bits(ranks[0]!));
  });

  it('refuses to synchronize batch normalization where there is none, and with what steps cannot exchange', async () => {
    const injected = (model: Model, options: InjectOptions = {}) =>
      inject(model, { loss: CE, syncBatchNorm: true, lossDivisor: true, ...options }, sessionShapes);
    await expect(injected(mlp())).rejects.toThrow('--sync-batch-norm: the model has no batch normalization.');
    await expect(injected(normalized(), { batchNorm: 'eval' })).rejects.toThrow('--batch-norm eval');
    const [collective] = localCollectives(1);
    const hessian = await injected(normalized(), { optimizer: { name: 'adahessian' } });
    await expect(Trainer.create(hessian.model, { collective })).rejects.toThrow('products of the Hessian');
    const { model } = await injected(normalized());
    await expect(Trainer.create(model, { collective, syncEvery: 2 })).rejects.toThrow('--sync-every');
    const trainer = await Trainer.create(model, { collective });
    const [x, target] = ['x', 'target'].map(name => mlpData(1).get(name)!);
    await expect(trainer.step({ x: x!, target: target! })).rejects.toThrow('one value per channel');
    await trainer.release();
    writeDescription(model, { ...readStep(model), synchronized: { statistics: [], sums: ['none'] } });
    await expect(Trainer.create(model, { collective })).rejects.toThrow(
      "its synchronized value 'none' is not a copy",
    );
  });

  it('averages the running statistics of batch normalization', async () => {
    const setting: Setting = { model: normalized(), arrays: mlpData(17), inject: { loss: CE } };
    const ranks = await onRanks(4, setting);
    for (const other of ranks) expect(bits(other)).toEqual(bits(ranks[0]!));
    const [one] = await onRanks(1, setting);
    expect(difference(await train(setting), one!)).toBeLessThan(1e-6);
  });

  it('drops other places on each rank', async () => {
    const s = new Sketch();
    const x = s.input('x', ['batch', 64]);
    const d = s.add('Dropout', [s.add('Mul', [x, s.weight('w', [64])], 'm')], 'd');
    const injected = (await inject(s.model([d]), { loss: { kind: 'mse' }, lossDivisor: true }, sessionShapes))
      .model;
    const feeds = { x: Tensor.filled('float32', [1, 64], 1), target: Tensor.filled('float32', [1, 64], 0) };
    const losses = await Promise.all(
      localCollectives(2).map(async collective => {
        const trainer = await Trainer.create(injected, { collective });
        // Each rank alone has samples once.
        const own = [];
        for (const rank of [0, 1]) own.push((await trainer.step(rank === collective.rank ? feeds : {})).loss);
        await trainer.release();
        return own;
      }),
    );
    expect(losses[0]).toEqual(losses[1]);
    // The second batch of one process, and of the second rank.
    const trainer = await Trainer.create(injected);
    const alone = [(await trainer.step(feeds)).loss, (await trainer.step(feeds)).loss];
    await trainer.release();
    expect(losses[0]![0]).toBeCloseTo(alone[0]!, 6);
    expect(Math.abs(losses[0]![1]! - alone[1]!)).toBeGreaterThan(1e-4);
  });

  it('refuses a step that does not tell its divisor', async () => {
    const { model } = await inject(mlp(), { loss: CE }, sessionShapes);
    const [collective] = localCollectives(1);
    await expect(Trainer.create(model, { collective })).rejects.toThrow(AgdError);
    await expect(Trainer.create(model, { collective })).rejects.toThrow('--split');
  });
});

describe('evaluation', () => {
  const evaluate = async (
    size: number,
    metrics: string[],
    model: Model,
    arrays: Arrays,
    loss: InjectOptions['loss'],
  ) => {
    const injected = (await inject(model, { loss, lossDivisor: true }, sessionShapes)).model;
    const sent: number[] = [];
    const results = await Promise.all(
      localCollectives(size).map(async inner => {
        const collective = new Proxy(inner, {
          get(target, key) {
            const value = Reflect.get(target, key, target);
            if (key !== 'allGather') return typeof value === 'function' ? value.bind(target) : value;
            return (data: Uint8Array) => {
              if (inner.rank === 0) sent.push(data.length);
              return target.allGather(data);
            };
          },
        });
        const trainer = await Trainer.create(injected, { collective, threads: 1 });
        const data = bindData(arrays, trainer.inputs, { labels: ['target'] }).sharded(collective);
        const result = await trainer.evaluate(data.batches({ batchSize: 4, pad: true }), {
          metrics,
          collective,
        });
        await trainer.release();
        return result;
      }),
    );
    return { results, sent };
  };
  const COUNTED = [
    ...['accuracy', 'f1', 'iou-per-class', 'top-2', 'log-loss', 'perplexity', 'calibration-error'],
    'confusion-matrix',
  ];

  it.each([2, 3, 4])('sums what can be summed: %i ranks', async size => {
    // The last batch has one sample: not all ranks have a batch.
    const [model, arrays] = [mlp(), mlpData(21)];
    const {
      results: [one],
    } = await evaluate(1, COUNTED, model, arrays, CE);
    const { results, sent } = await evaluate(size, COUNTED, model, arrays, CE);
    for (const found of results) {
      expect(found).toEqual(results[0]);
      expect(found.loss).toBe(one!.loss);
      expect(found.confusion).toEqual(one!.confusion);
      expect(Object.keys(found.metrics)).toEqual(Object.keys(one!.metrics));
      for (const [name, value] of Object.entries(one!.metrics))
        expect(found.metrics[name]).toBeCloseTo(value, 12);
    }
    expect(results[0]!.metrics.accuracy).toBe(one!.metrics.accuracy);
    const { sent: whole } = await evaluate(size, [...COUNTED, 'auc'], model, arrays, CE);
    // Once what is kept is known to be sums, outputs stay where they are.
    expect(sent[1]).toBeLessThan(whole[1]! / 1.2);
  });

  it('sums errors of numbers, and gathers what it needs whole', async () => {
    const arrays = new Map(mlpData(21)).set('target', spread([21, 3], [-1, 1], 3));
    for (const metrics of [
      ['mae', 'rmse'],
      ['mae', 'r2'],
    ]) {
      const {
        results: [one],
      } = await evaluate(1, metrics, mlp(), arrays, { kind: 'mse' });
      const { results } = await evaluate(3, metrics, mlp(), arrays, { kind: 'mse' });
      for (const found of results)
        for (const [name, value] of Object.entries(one!.metrics))
          expect(found.metrics[name]).toBeCloseTo(value, 12);
    }
  });
});
