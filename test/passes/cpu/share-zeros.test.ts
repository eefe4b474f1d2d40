import { afterEach, describe, expect, it, vi } from 'vitest';
import { cloneModel } from '../../../src/graph/clone.js';
import { allGraphs, Graph, type Model, Node, Value } from '../../../src/graph/ir.js';
import { Tensor } from '../../../src/graph/tensor.js';
import { shareZeros } from '../../../src/passes/cpu/share-zeros.js';
import { inject } from '../../../src/passes/inject.js';
import type { InjectOptions } from '../../../src/passes/options.js';
import { scanSteps } from '../../../src/passes/run/scan-steps.js';
import { stateInputs } from '../../../src/passes/run/state-inputs.js';
import { type Feeds, Session, sessionShapes } from '../../../src/runtime/session.js';
import { Trainer } from '../../../src/runtime/train/trainer.js';
import { ints, spread } from '../../ops/vjp.js';
import { Sketch } from '../../sample.js';

/** As few rows as are worth it. */
const [ROWS, WIDTH] = [65536, 8];
const SPEC: InjectOptions = { loss: { kind: 'output', output: 'loss' } };

afterEach(() => {
  vi.restoreAllMocks();
});

type Part = { s: Sketch; onto: Value; ids: Value; rows: Value; i: number };
type Case = {
  tables?: number;
  rows?: number;
  looked?: number | string;
  fill?: number;
  reduction?: string;
  fed?: boolean;
  axis?: number;
  by?: string;
  typed?: boolean;
  into?: { op: string; domain: string };
  read?: (sum: Value, part: Part) => Value[];
};

const doubled = (sum: Value, { s, i }: Part) => [
  s.add(
    'Mul',
    [s.add('Reshape', [sum, s.weight(`flat${i}`, Tensor.ints([-1]))], `line${i}`), two(s, i)],
    `y${i}`,
  ),
];
const two = (s: Sketch, i: number) => s.weight(`two${i}`, Tensor.filled('float32', [], 2));

/** Rows summed into the same zeros, each read by `read`. */
function sums({
  tables = 3,
  rows = ROWS,
  looked = 'n',
  fill = 0,
  reduction = 'add',
  fed = false,
  axis = 0,
  by = '',
  typed = true,
  into = { op: 'Expand', domain: '' },
  read = doubled,
}: Case = {}): Model {
  const s = new Sketch();
  const zero = s.weight('zero', Tensor.filled('float32', [], fill));
  if (fed) s.graph.inputs.push(zero);
  const onto = s.add(into.op, [zero, s.weight('extents', Tensor.ints([rows, WIDTH]))], 'zeros');
  onto.producer!.domain = into.domain;
  onto.type = { kind: 'tensor', dtype: 'float32', shape: [rows, WIDTH] };
  const outputs = Array.from({ length: tables }, (_, i) => {
    const part = {
      s,
      onto,
      i,
      ids: s.input(`ids${i}`, [looked, WIDTH], 'int64'),
      rows: s.input(`rows${i}`, [looked, WIDTH]),
    };
    const sum = s.add('ScatterElements', [onto, part.ids, part.rows], `sum${i}`, { axis, reduction });
    sum.type = onto.type;
    sum.producer!.domain = by;
    const found = read(sum, part);
    if (typed)
      for (const value of found) if (value !== sum) value.type = { kind: 'tensor', dtype: 'float32' };
    return found;
  });
  const model = s.model(outputs.flat());
  model.irVersion = 8;
  return model;
}

const operators = ({ graph }: Model) => graph.nodes.map(node => node.opType);
const written = (model: Model) => operators(model).filter(op => op === 'ScatterElements').length;

/** Rows of a table: some often, some counted from its end. */
const some = (count: number, seed: number) =>
  spread([count], [-3, 4], seed)
    .numbers()
    .map(v => (v < 0 ? Math.floor(v) : Math.floor(v) * 2));

async function run(model: Model, feeds: Feeds): Promise<Uint8Array[]> {
  const session = await Session.create(model);
  const results = await session.run(feeds);
  await session.release();
  return model.graph.outputs.map(v => results[v.name]!.bytes.slice());
}

const feedsOf = (tables: number, count: number): Feeds =>
  Object.fromEntries(
    Array.from({ length: tables }, (_, i) => [
      [
        `ids${i}`,
        ints(
          some(count, i + 1).flatMap(row => Array(WIDTH).fill(row)),
          [count, WIDTH],
        ),
      ] as const,
      [`rows${i}`, spread([count, WIDTH], [-1, 1], i + 9)] as const,
    ]).flat(),
  );

describe('sums of rows', () => {
  it.each([
    ['of 40 rows', {}, 40],
    ['of no rows', {}, 0],
    ['of a known number of rows', { looked: 40 }, 40],
    ['along columns', { axis: 1 }, 40],
    ['that are read by slices', { read: slices }, 40],
  ])('%s have the same bits in zeros that they share', async (_, given: Case, count) => {
    const model = sums(given);
    const feeds = feedsOf(3, count);
    const before = await run(model, feeds);
    expect(shareZeros(model)).toBe(true);
    // All but the last one make zeros again of what they wrote, for the next one.
    expect(written(model)).toBe(5);
    expect(model.graph.nodes.filter(n => n.inputs[0]?.name === 'zeros')).toHaveLength(1);
    const after = await run(model, feeds);
    expect(after.map((bytes, i) => Buffer.compare(bytes, before[i]!))).toEqual([0, 0, 0]);
  });

  it.each<[string, Case]>([
    ['of a single table', { tables: 1 }],
    ['of few rows', { rows: ROWS - 1 }],
    ['of a large share of the rows', { looked: ROWS / 16 }],
    ['into other numbers', { fill: 1 }],
    ['into -0', { fill: -0 }],
    ['into what may be fed', { fed: true }],
    ['into sums with 0', { into: { op: 'Add', domain: '' } }],
    ['into what another domain makes of 0', { into: { op: 'Expand', domain: 'other' } }],
    ['of which the last one counts', { reduction: 'none' }],
    [
      'that are read twice',
      { read: (sum, part) => [...doubled(sum, part), part.s.add('Neg', [sum], `z${part.i}`)] },
    ],
    ['that are outputs', { read: (sum, part) => [...doubled(sum, part), sum] }],
    ['whose views are outputs', { read: (sum, { s, i }) => [s.add('Identity', [sum], `y${i}`)] }],
    ['that a branch reads', { read: branch }],
    ['by an operator of another domain', { by: 'other' }],
    ['whose reader has no known type', { typed: false }],
  ])('%s stay', (_, given) => {
    const model = sums(given);
    const before = operators(model);
    expect(shareZeros(model)).toBe(false);
    expect(operators(model)).toEqual(before);
  });
});

/** Reads in a Scan, as an update in tiles does. */
function slices(sum: Value, { s, i }: Part): Value[] {
  const tiled = s.add('Reshape', [sum, s.weight(`tiles${i}`, Tensor.ints([8, -1]))], `tiled${i}`);
  const body = new Graph(`body${i}`);
  const [slice, next] = [new Value(`slice${i}`), new Value(`next${i}`)];
  body.inputs = [slice];
  body.nodes = [new Node('Mul', [slice, two(s, i)], [next])];
  body.outputs = [next];
  return [s.add('Scan', [tiled], `y${i}`, { body, num_scan_inputs: 1 })];
}

function branch(sum: Value, { s, i }: Part): Value[] {
  const graphOf = (name: string, read: Value) => {
    const graph = new Graph(`${name}${i}`);
    const y = new Value(`${name}_y${i}`, { kind: 'tensor', dtype: 'float32' });
    graph.nodes = [new Node('Neg', [read], [y])];
    graph.outputs = [y];
    return graph;
  };
  const holds = s.weight(`holds${i}`, Tensor.filled('bool', [], 1));
  return [
    s.add('If', [holds], `y${i}`, {
      then_branch: graphOf('then', sum),
      else_branch: graphOf('else', two(s, i)),
    }),
  ];
}

it('keeps the order of readers that depend on each other', async () => {
  const before: Value[] = [];
  // Each is read after the next one, whatever the order of the sums.
  const model = sums({
    read: (sum, { s, i }) => {
      before.push(sum);
      if (i < 2) return [];
      return [2, 1, 0].map(k => {
        const last = s.graph.nodes.at(-1)!.outputs[0]!;
        const scale = k === 2 ? two(s, 2) : s.add('ReduceMean', [last], `mean${k}`, { keepdims: 0 });
        return s.add('Mul', [before[k]!, scale], `y${k}`);
      });
    },
  });
  const feeds = feedsOf(3, 40);
  const was = await run(model, feeds);
  expect(shareZeros(model)).toBe(true);
  const after = await run(model, feeds);
  expect(after.map((bytes, i) => Buffer.compare(bytes, was[i]!))).toEqual([0, 0, 0]);
});

/** The mean square of the products of rows of three tables. */
function tables(): Model {
  const s = new Sketch();
  const ids = s.input('ids', ['n', 'm'], 'int64');
  const [a, b, c] = ['a', 'b', 'c'].map(name =>
    s.add('Gather', [s.weight(name, [ROWS, WIDTH]), ids], `rows_of_${name}`),
  );
  const y = s.add('Mul', [s.add('Mul', [a!, b!], 'ab'), s.add('Tanh', [c!], 'tanh')], 'y');
  return s.model([s.add('ReduceMean', [s.add('Mul', [y, y], 'square')], 'loss', { keepdims: 0 })]);
}

it.each<[string, InjectOptions['optimizer'], boolean]>([
  ['AGD', { name: 'agd', weightDecay: 0.1 }, true],
  ['AGD with the largest squares', { name: 'agd', amsgrad: true, weightDecay: 0.1, fixedDecay: true }, true],
  ['Adam', { name: 'adam', weightDecay: 0.1 }, true],
  ['SGD with momentum', { name: 'sgd', momentum: 0.9, nesterov: true }, true],
  ['LAMB, which reads gradients more than once', { name: 'lamb' }, false],
])('steps of %s on lookup tables have the same bits', async (_, optimizer, applies) => {
  const { model } = await inject(tables(), { ...SPEC, optimizer }, sessionShapes);
  const ids = ints(
    [...some(20, 1), ...some(20, 2)].map(v => (v < 0 ? -1 : v * 3)),
    [2, 5, 4],
  );
  const updates = model.trainingInfo.flatMap(info => info.updates);
  const states = new Map([...model.graph.initializers].map(([v, t]) => [v.name, t]));
  const steps = () => stateInputs(scanSteps(model, { hoist: false }).model, updates);
  const feeds = {
    ids,
    lr: states.get('lr')!,
    ...Object.fromEntries(updates.map(u => [u.state, states.get(u.state)!])),
  };
  const plain = steps();
  const shared = cloneModel(steps());
  expect(shareZeros(shared)).toBe(applies);
  const [before, after] = [await run(plain, feeds), await run(shared, feeds)];
  expect(after.map((bytes, i) => Buffer.compare(bytes, before[i]!))).toEqual(before.map(() => 0));
});

/** What a trainer runs of ScatterElements, and its states after three steps. */
async function trained(given: Model, inPlace: boolean) {
  const { model } = await inject(given, SPEC, sessionShapes);
  const created = vi.spyOn(Session, 'create');
  const trainer = await Trainer.create(model, { inPlace });
  const batch = { ids: ints(some(20, 3), [5, 4]) };
  for (let i = 0; i < 3; i++) await trainer.step(batch);
  const states = [...trainer.state.values()].map(t => t.bytes.slice());
  await trainer.release();
  const run = created.mock.calls.at(-1)![0] as Model;
  const nodes = [...allGraphs(run.graph)].flatMap(graph => graph.nodes);
  return { states, scatters: nodes.filter(node => node.opType === 'ScatterElements').length };
}

it('is part of what a trainer runs, in place and not', async () => {
  const [once, twice] = [await trained(tables(), true), await trained(tables(), false)];
  expect([once.scatters, twice.scatters]).toEqual([5, 5]);
  expect(once.states.map((bytes, i) => Buffer.compare(bytes, twice.states[i]!))).toEqual(
    once.states.map(() => 0),
  );
});
