/** Lookup tables of which a step changes only the rows that it looks up. */
import { describe, expect, it } from 'vitest';
import { withInitializers } from '../../../src/graph/clone.js';
import { type Model, Node, Value } from '../../../src/graph/ir.js';
import { decodeModel, encodeModel } from '../../../src/graph/proto/codec.js';
import { Tensor } from '../../../src/graph/tensor.js';
import { trainingPart } from '../../../src/passes/common/part-of-model.js';
import { inject } from '../../../src/passes/inject.js';
import type { InjectOptions } from '../../../src/passes/options.js';
import { scanRows } from '../../../src/passes/run/scan-rows.js';
import { splitStep } from '../../../src/passes/run/split-step.js';
import { stateInputs } from '../../../src/passes/run/state-inputs.js';
import { gradients } from '../../../src/runtime/gradients.js';
import { type Feeds, Session, sessionShapes } from '../../../src/runtime/session.js';
import { Trainer } from '../../../src/runtime/train/trainer.js';
import { floatsOf, ints, spread } from '../../ops/vjp.js';
import { Sketch } from '../../sample.js';

const [ROWS, WIDTH, BATCH, STEPS] = [7, 3, 5, 6];
const TABLES = ['user', 'item', 'word', 'bias'];
const LOSS: InjectOptions['loss'] = { kind: 'output', output: 'loss' };
const AGD = { lr: 0.05, delta: 0.1, weightDecay: 0.2 };

/** Four tables: by a column of `ids`, by two columns through a copy, by a matrix of int32, and of single numbers. */
function tables(): Model {
  const s = new Sketch();
  const ids = s.input('ids', ['n', 2], 'int64');
  const words = s.input('words', ['n', 'm'], 'int64');
  const x = s.input('x', ['n', WIDTH]);
  const column = (i: number) =>
    s.add('Gather', [ids, s.weight(`column_${i}`, Tensor.filled('int64', [], i))], `id_${i}`, { axis: 1 });
  const [a, b] = [column(0), column(1)];
  const axis = s.weight('axis', Tensor.ints([1]));
  const item = s.weight('item', [ROWS, WIDTH]);
  const u = s.add('Gather', [s.weight('user', [ROWS, WIDTH]), a], 'u');
  const v = s.add('Gather', [s.add('Identity', [item], 'item_again'), b], 'v');
  const v2 = s.add('Gather', [item, a], 'v2', { axis: 0 });
  const narrow = s.add('Cast', [words], 'narrow', { to: 6 });
  const t = s.add('Gather', [s.weight('word', [ROWS, WIDTH]), narrow], 't');
  const tw = s.add('ReduceSum', [t, axis], 'tw', { keepdims: 0 });
  const z = s.add('Unsqueeze', [s.add('Gather', [s.weight('bias', [ROWS]), b], 'zb'), axis], 'z');
  const product = s.add('Mul', [s.add('MatMul', [u, s.weight('w', [WIDTH, WIDTH])], 'uw'), v], 'product');
  const sum = s.add('Add', [product, s.add('Mul', [tw, x], 'tx')], 'sum');
  const y = s.add('Tanh', [s.add('Add', [s.add('Mul', [sum, v2], 'q'), z], 'qz')], 'y');
  const square = s.add('Mul', [y, y], 'square');
  return s.model([s.add('ReduceMean', [square], 'loss', { keepdims: 0 })]);
}

/** Numbers of rows, some of which occur often (0), some counted from the end, and some never (ROWS - 2). */
const some = (dims: number[], seed: number) => {
  const choice = [0, 0, 1, 2, 3, 4, -1, ROWS - 1];
  return ints(
    spread(dims, [0, choice.length], seed)
      .numbers()
      .map(v => choice[Math.min(Math.floor(v), choice.length - 1)]!),
    dims,
  );
};

const batches = (steps = STEPS): Feeds => ({
  ids: some([steps, BATCH, 2], 1),
  words: some([steps, BATCH, 4], 2),
  x: spread([steps, BATCH, WIDTH], [-1, 1], 3),
});

/** Batches in which each table's rows all occur. */
const complete = (): Feeds => {
  const order = (offset: number) => Array.from({ length: ROWS }, (_, i) => (i + offset) % ROWS);
  const step = (k: number) => order(k).flatMap((row, i) => [row, order(2 * k)[i]!]);
  const ids = Array.from({ length: STEPS }, (_, k) => step(k)).flat();
  return {
    ids: ints(ids, [STEPS, ROWS, 2]),
    words: ints(ids, [STEPS, ROWS, 2]),
    x: spread([STEPS, ROWS, WIDTH], [-1, 1], 3),
  };
};

function slice(feeds: Feeds, from: number, to: number): Feeds {
  return Object.fromEntries(
    Object.entries(feeds).map(([name, { dtype, dims, bytes }]) => {
      const size = bytes.length / dims[0]!;
      return [name, new Tensor(dtype, [to - from, ...dims.slice(1)], bytes.slice(from * size, to * size))];
    }),
  );
}

/** A single step's batch. */
const batchAt = (feeds: Feeds, step: number): Feeds =>
  Object.fromEntries(
    Object.entries(slice(feeds, step, step + 1)).map(([name, t]) => [
      name,
      new Tensor(t.dtype, t.dims.slice(1), t.bytes),
    ]),
  );

const injected = async (options: Partial<InjectOptions> = {}, model = tables()) =>
  (await inject(model, { loss: LOSS, optimizer: AGD, lazyRows: ['*'], ...options }, sessionShapes)).model;

/** The state after the steps, in runs of so many. */
async function trained(model: Model, feeds: Feeds, ...runs: number[]): Promise<Map<string, Tensor>> {
  const trainer = await Trainer.create(model);
  let done = 0;
  for (const steps of runs) {
    await trainer.steps(slice(feeds, done, done + steps));
    done += steps;
  }
  await trainer.release();
  return new Map(trainer.state);
}

const bits = (state: ReadonlyMap<string, Tensor>) =>
  Object.fromEntries([...state].map(([name, t]) => [name, Buffer.from(t.bytes).toString('hex')]));

/** Row by row in float64, each step's gradients by the whole model. */
async function byRows(feeds: Feeds): Promise<Map<string, number[]>> {
  const model = tables();
  const { lr, delta, weightDecay } = AGD;
  const [beta1, beta2] = [0.9, 0.999];
  const weights = new Map(
    [...model.graph.initializers]
      .filter(([, t]) => t.dtype === 'float32')
      .map(([v, t]) => [v.name, t.numbers()]),
  );
  const [h, b] = [1, 2].map(() => new Map([...weights].map(([name, w]) => [name, w.map(() => 0)])));
  const steps = feeds.x!.dims[0]!;
  for (let t = 1; t <= steps; t++) {
    const batch = batchAt(feeds, t - 1);
    const ids = batch.ids!.numbers().map(i => (i + ROWS) % ROWS);
    const [a, c] = [0, 1].map(column => ids.filter((_, i) => i % 2 === column)) as [number[], number[]];
    const words = batch.words!.numbers().map(i => (i + ROWS) % ROWS);
    const used: Record<string, number[]> = { user: a, item: [...a, ...c], word: words, bias: c };
    const current = withInitializers(model, name => {
      const w = weights.get(name);
      const dims = [...model.graph.initializers].find(([v]) => v.name === name)![1].dims;
      return w && floatsOf(w, dims);
    });
    const found = await gradients(current, { loss: LOSS }, batch);
    for (const [name, w] of weights) {
      const grad = found.gradients.get(name)!.numbers();
      const width = used[name] ? w.length / ROWS : w.length;
      for (const row of new Set(used[name] ?? [0]))
        for (let i = row * width; i < (row + 1) * width; i++) {
          const [hs, bs] = [h!.get(name)!, b!.get(name)!];
          const s = ((1 - beta1) / (1 - beta1 ** t)) * (grad[i]! - hs[i]!);
          hs[i]! += s;
          bs[i] = beta2 * bs[i]! + (1 - beta2) * s * s;
          const root = Math.sqrt(1 - beta2 ** t);
          w[i]! -=
            lr * weightDecay * w[i]! + (lr * root * hs[i]!) / Math.max(Math.sqrt(bs[i]!), delta * root);
        }
    }
  }
  return weights;
}

describe('rows that a step looks up', () => {
  it('change as in a loop over them, and the others not at all', async () => {
    const [state, expected] = [await trained(await injected(), batches(), STEPS), await byRows(batches())];
    for (const [name, values] of expected) {
      const found = state.get(name)!.numbers();
      values.forEach((value, i) => {
        expect(found[i], `${name}[${i}]`).toBeCloseTo(value, 5);
      });
    }
    for (const [value, tensor] of tables().graph.initializers) {
      if (!TABLES.includes(value.name)) continue;
      const size = tensor.bytes.length / ROWS;
      const row = (t: Tensor, i: number) => [...t.bytes.subarray(i * size, (i + 1) * size)];
      expect(row(state.get(value.name)!, ROWS - 2)).toEqual(row(tensor, ROWS - 2));
      expect(row(state.get(value.name)!, 0)).not.toEqual(row(tensor, 0));
      const average = state.get(`${value.name}_exp_avg_corrected`)!;
      expect(row(average, ROWS - 2)).toEqual(Array(size).fill(0));
    }
  });

  it.each<[string, Partial<InjectOptions>]>([
    ['AGD', {}],
    ['AGD within bounds', { clipGradNorm: 0.05, clipGradValue: 0.01 }],
    ['AGD that skips', { onNonfinite: 'skip' }],
    ['AGD with compensation', { compensate: true }],
    ['AdamW', { optimizer: { name: 'adamw' }, groups: [{ match: 'user', options: { lr: 0.1 } }] }],
    ['SGD with momentum', { optimizer: { name: 'sgd', lr: 0.1, momentum: 0.9 } }],
  ])('change to the same bits however many steps a run does: %s', async (_, options) => {
    const model = await injected(options);
    const one = bits(await trained(model, batches(), ...Array(STEPS).fill(1)));
    expect(bits(await trained(model, batches(), STEPS))).toEqual(one);
    expect(bits(await trained(model, batches(), 2, 3, 1))).toEqual(one);
  });

  it.each<[string, Partial<InjectOptions>]>([
    ['AGD', {}],
    ['AGD within a bound', { clipGradValue: 0.01 }],
    ['AdamW', { optimizer: { name: 'adamw' } }],
    ['NAdam, a state of which is a scalar', { optimizer: { name: 'nadam' } }],
  ])('are the whole table where each batch has all of them: %s', async (_, options) => {
    const lazy = await trained(await injected(options), complete(), STEPS);
    const dense = await trained(await injected({ ...options, lazyRows: undefined }), complete(), STEPS);
    expect(bits(lazy)).toEqual(bits(dense));
  });

  it('have the norm of the whole gradient', async () => {
    const bound = { clipGradNorm: 0.01 };
    const lazy = await trained(await injected(bound), slice(batches(), 0, 1), 1);
    const dense = await trained(await injected({ ...bound, lazyRows: undefined }), slice(batches(), 0, 1), 1);
    // An average that was zero is now the gradient, in both.
    for (const name of ['w', ...TABLES].map(n => `${n}_exp_avg_corrected`)) {
      const found = lazy.get(name)!.numbers();
      dense
        .get(name)!
        .numbers()
        .forEach((value, i) => {
          expect(found[i]).toBeCloseTo(value, 7);
        });
      expect(Math.max(...found.map(Math.abs))).toBeGreaterThan(1e-5);
    }
  });

  it('change as with PyTorch 2.13 SparseAdam', async () => {
    const s = new Sketch();
    const rows = Tensor.from(
      'float32',
      [5, 2],
      Float32Array.from({ length: 10 }, (_, i) => i / 10),
    );
    const y = s.add('Gather', [s.weight('table', rows), s.input('ids', [3], 'int64')], 'y');
    const product = s.add('Mul', [y, s.input('x', [3, 2])], 'product');
    const model = s.model([s.add('ReduceSum', [product], 'loss', { keepdims: 0 })]);
    const x = [1, -2, 0.5, 1, 2, 0.25, -1, 1, 1, 1, -0.5, 2, 3, -1, 1, 0.5, -2, 1];
    const feeds = { ids: ints([0, 0, 3, 1, 3, 3, 0, 0, 0], [3, 3]), x: floatsOf(x, [3, 3, 2]) };
    const optimizer = { name: 'adam', lr: 0.1 } as const;
    const state = await trained(await injected({ optimizer }, model), feeds, 1, 2);
    SPARSE_ADAM.forEach((value, i) => {
      expect(state.get('table')!.numbers()[i]).toBeCloseTo(value, 6);
    });
  });
});

describe('the file', () => {
  it.each<[string, Partial<InjectOptions>]>([
    ['AGD', {}],
    ['AGD within a bound on the norm', { clipGradNorm: 0.05 }],
    ['AGD within a bound on numbers', { clipGradValue: 0.01 }],
    ['AGD with compensation', { compensate: true }],
    ['AGD that skips', { onNonfinite: 'skip' }],
    [
      'AdamW at two rates',
      { optimizer: { name: 'adamw' }, groups: [{ match: 'user', options: { lr: 0.1 } }] },
    ],
    ['SGD', { optimizer: { name: 'sgd', lr: 0.1 } }],
    ['NAdam', { optimizer: { name: 'nadam' } }],
    ['SAM', { sam: { rho: 0.05 } }],
    ['some tables alone', { lazyRows: ['user', 'word'] }],
    ['some tables frozen', { freeze: ['item'] }],
  ])('does by itself what the trainer does, also in two halves: %s', async (_, options) => {
    const model = await injected(options);
    const expected = bits(await trained(decodeModel(encodeModel(model)), batches(), STEPS));
    const updates = model.trainingInfo.flatMap(info => info.updates);
    const { gradients: first, update } = await splitStep(model, sessionShapes);
    const whole = await Session.create(stateInputs(model, updates));
    const halves = await Promise.all([first, update].map(half => Session.create(half)));
    const start = () => Object.fromEntries([...model.graph.initializers].map(([v, t]) => [v.name, t]));
    const next = (results: Feeds, before: Feeds) => ({
      ...before,
      ...Object.fromEntries(updates.map(u => [u.state, results[u.value]!])),
    });
    const feed = ({ inputs }: Session, from: Feeds) =>
      Object.fromEntries(inputs.map(name => [name, from[name]!]));
    let [state, split] = [start(), start()];
    for (let step = 0; step < STEPS; step++) {
      const batch = batchAt(batches(), step);
      state = next(await whole.run(feed(whole, { ...state, ...batch })), state);
      const handed = await halves[0]!.run(feed(halves[0]!, { ...split, ...batch }));
      split = next(
        { ...handed, ...(await halves[1]!.run(feed(halves[1]!, { ...split, ...handed }))) },
        split,
      );
    }
    const changed = (all: Feeds) => bits(new Map(updates.map(u => [u.state, all[u.state]!])));
    expect(changed(state)).toEqual(expected);
    expect(changed(split)).toEqual(expected);
    for (const session of [whole, ...halves]) await session.release();
  });

  it('writes equal rows equally, whichever a runtime writes last', async () => {
    const model = await injected();
    const [, at, values] = model.graph.nodes.find(n => n.outputs[0]?.name === 'item_new')!.inputs;
    model.graph.outputs = [at!, values!];
    const session = await Session.create(stateInputs(model, model.trainingInfo[0]!.updates));
    const state = Object.fromEntries([...model.graph.initializers].map(([v, t]) => [v.name, t]));
    const from: Feeds = { ...state, ...batchAt(batches(), 0) };
    const results = await session.run(Object.fromEntries(session.inputs.map(name => [name, from[name]!])));
    const rows = results[at!.name]!.numbers();
    const written = rows.map((row, i) => {
      const numbers = results[values!.name]!.numbers().slice(i * WIDTH, (i + 1) * WIDTH);
      return `${(row + ROWS) % ROWS}: ${numbers}`;
    });
    expect(new Set(written).size).toBe(new Set(rows.map(row => (row + ROWS) % ROWS)).size);
    expect(new Set(written).size).toBeLessThan(rows.length);
    await session.release();
  });

  it('computes activations again to the same bits', async () => {
    const again = await injected({ checkpointActivations: 4 });
    expect(again.graph.nodes.some(node => node.outputs.some(v => v?.name.endsWith('_again')))).toBe(true);
    expect(bits(await trained(again, batches(), STEPS))).toEqual(
      bits(await trained(await injected(), batches(), STEPS)),
    );
  });
});

describe('the trainer', () => {
  it('goes back to the last good step', async () => {
    const feeds = batches();
    const x = feeds.x!.data as Float32Array;
    x[3 * BATCH * WIDTH] = Number.NaN;
    const model = await injected();
    const trainer = await Trainer.create(model);
    await trainer.steps(slice(feeds, 0, 1));
    await expect(trainer.steps(slice(feeds, 1, STEPS))).rejects.toThrow('step 4: the data for');
    expect(bits(trainer.state)).toEqual(bits(await trained(model, batches(), 3)));
    await trainer.release();
  });

  it('undoes an update that was not finite', async () => {
    const model = await injected();
    const trainer = await Trainer.create(model);
    await trainer.steps(slice(batches(), 0, 3));
    const good = bits(trainer.state);
    const last = trainer.steps(slice(batches(), 3, 4), { lr: Number.POSITIVE_INFINITY });
    await expect(last).rejects.toThrow('The update of step 4');
    expect(bits(trainer.state)).toEqual(good);
    await trainer.release();
  });

  it('leaves the model and its snapshots as they are', async () => {
    const model = await injected();
    const before = bits(new Map([...model.graph.initializers].map(([v, t]) => [v.name, t])));
    const trainer = await Trainer.create(model);
    await trainer.steps(slice(batches(), 0, 2));
    const snapshot = trainer.snapshot();
    const then = bits(trainer.state);
    await trainer.steps(slice(batches(), 2, STEPS));
    expect(bits(new Map([...model.graph.initializers].map(([v, t]) => [v.name, t])))).toEqual(before);
    const second = await Trainer.create(snapshot);
    expect(bits(second.state)).toEqual(then);
    await second.steps(slice(batches(), 2, STEPS));
    expect(bits(second.state)).toEqual(bits(trainer.state));
    await trainer.release();
    await second.release();
  });
});

describe('tables of a run', () => {
  const groupsOf = async (options: Partial<InjectOptions> = {}) =>
    scanRows(trainingPart(decodeModel(encodeModel(await injected(options))))).groups.map(({ tables }) =>
      tables.map(t => t.states[0]),
    );

  it.each<[string, Partial<InjectOptions>]>([
    ['AGD', {}],
    ['AGD within a bound on the norm', { clipGradNorm: 0.05 }],
    ['AdamW', { optimizer: { name: 'adamw' } }],
    ['SGD', { optimizer: { name: 'sgd', lr: 0.1 } }],
  ])('of one width are updated as one: %s', async (_, options) => {
    expect(await groupsOf(options)).toEqual([['item', 'user', 'word'], ['bias']]);
  });

  it.each<[string, Partial<InjectOptions>, string[][]]>([
    [
      'options',
      { groups: [{ match: 'item', options: { lr: 0.1 } }] },
      [['user', 'word'], ['item'], ['bias']],
    ],
    ['starts', { groups: [{ match: 'word', options: { lr: 0.1 } }] }, [['item', 'user'], ['word'], ['bias']]],
    ['perturbations', { sam: { rho: 0.05 } }, [['user'], ['item'], ['word'], ['bias']]],
    ['branches', { onNonfinite: 'skip' }, [['user'], ['item'], ['word'], ['bias']]],
  ])('stay apart with other %s', async (_, options, expected) => {
    expect(await groupsOf(options)).toEqual(expect.arrayContaining(expected));
  });

  it('stay apart where something else reads what is computed on the way', async () => {
    const model = trainingPart(await injected());
    const { graph } = model;
    const put = graph.outputs.find(v => v.name === 'item_new')!.producer!;
    graph.addOutputs(put.inputs[2]!);
    const groups = scanRows(model).groups.map(({ tables }) => tables.map(t => t.states[0]));
    expect(groups).toEqual([['item'], ['user', 'word'], ['bias']]);
  });

  it('stay apart where something else reads the numbers of rows', async () => {
    const model = trainingPart(await injected());
    const { graph } = model;
    const rows = graph.nodes.flatMap(n => n.outputs).find(v => v?.name === 'user_rows')!;
    const again = new Value('again');
    graph.append(new Node('Identity', [rows], [again]));
    graph.addOutputs(again);
    const groups = scanRows(model).groups.map(({ tables }) => tables.map(t => t.states[0]));
    expect(groups).toEqual([['item'], ['user'], ['word'], ['bias']]);
  });

  it.each([ROWS, -ROWS - 1, 2 ** 40])('have no row %d: nothing changes', async row => {
    const trainer = await Trainer.create(await injected());
    const feeds = slice(batches(), 0, 2);
    await trainer.steps(feeds);
    const before = bits(trainer.state);
    const ids = feeds.ids!.numbers().with(-1, row);
    const wrong = { ...feeds, ids: ints(ids, feeds.ids!.dims as number[]) };
    await expect(trainer.steps(wrong)).rejects.toThrow(
      `The data look up row ${row} of 'item', which has ${ROWS} rows: expected -${ROWS} to ${ROWS - 1}.`,
    );
    expect(bits(trainer.state)).toEqual(before);
    await trainer.steps(slice(batches(), 2, STEPS));
    expect(bits(trainer.state)).toEqual(bits(await trained(await injected(), batches(), 2, STEPS - 2)));
    await trainer.release();
  });
});

describe('refused', () => {
  it.each<[string, Partial<InjectOptions>]>([
    ['accumulate', { accumulate: 2 }],
    ['ema', { ema: 0.9 }],
    ['cautious', { cautious: true }],
    ['scheduleFree', { scheduleFree: {} }],
    ['stateBits', { stateBits: 8 }],
    ['telemetry', { telemetry: 1 }],
    ['adahessian', { optimizer: { name: 'adahessian' } }],
    ['prodigy', { optimizer: { name: 'prodigy' } }],
    ['schedule-free-sgd', { optimizer: { name: 'schedule-free-sgd' } }],
  ])('beside %s, which takes whole tables', async (what, options) => {
    await expect(injected(options)).rejects.toThrow(`and ${what} takes whole tables`);
  });

  it('for what is not looked up only', async () => {
    await expect(injected({ lazyRows: ['w'] })).rejects.toThrow("--lazy-rows 'w' matches no lookup table");
    const model = tables();
    const item = [...model.graph.initializers.keys()].find(v => v.name === 'item')!;
    model.graph.addOutputs(item);
    await expect(injected({ lazyRows: ['item'] }, model)).rejects.toThrow('matches no lookup table');
  });

  it('for rows that the parameters decide', async () => {
    const s = new Sketch();
    const score = s.add('MatMul', [s.input('x', ['n', 4]), s.weight('w', [4, ROWS])], 'score');
    const best = s.add('ArgMax', [score], 'best', { axis: 1, keepdims: 0 });
    const code = s.add('Gather', [s.weight('code', [ROWS, 2]), best], 'code_of');
    const sum = (x: Value, name: string) => s.add('ReduceSum', [x], name, { keepdims: 0 });
    const model = s.model([s.add('Add', [sum(code, 'codes'), sum(score, 'scores')], 'loss')]);
    await expect(injected({ lazyRows: ['code'] }, model)).rejects.toThrow('matches no lookup table');
  });
});

const SPARSE_ADAM = [
  ...[-0.185616403, 0.222863999, 0.274413659, 0.225586341, 0.4, 0.5, 0.416940275, 0.520281473, 0.8, 0.9],
];
