import { expect, it } from 'vitest';
import { Graph, Model } from '../../src/graph/ir.js';
import { Names } from '../../src/graph/names.js';
import { Tensor } from '../../src/graph/tensor.js';
import { Builder } from '../../src/ops/core/builder.js';
import { type PlannedSchedule, parseSchedule, planLengths, scheduleFactor } from '../../src/ops/schedules.js';
import { output } from '../../src/passes/update/transition.js';
import { Session } from '../../src/runtime/session.js';

/** Numbers of torch.optim.lr_scheduler at some update counts; warm-ups by SequentialLR and LinearLR. */
const PYTORCH: [string, [done: number, factor: number][]][] = [
  [
    'constant',
    [
      [0, 1.0],
      [1, 1.0],
      [50, 1.0],
    ],
  ],
  [
    'constant:warmup=4',
    [
      [0, 0.25],
      [1, 0.4375],
      [3, 0.8125],
      [4, 1.0],
      [9, 1.0],
    ],
  ],
  [
    'constant:warmup=10,start=0.3',
    [
      [0, 0.3],
      [1, 0.37],
      [7, 0.79],
      [10, 1.0],
      [11, 1.0],
    ],
  ],
  [
    'linear:total=20,final=0.1',
    [
      [0, 1.0],
      [1, 0.955],
      [13, 0.4149999999999999],
      [20, 0.09999999999999996],
      [25, 0.09999999999999996],
    ],
  ],
  [
    'linear:total=25,warmup=5',
    [
      [0, 0.2],
      [4, 0.8400000000000001],
      [5, 1.0],
      [6, 0.95],
      [18, 0.35],
      [25, 0.0],
      [30, 0.0],
    ],
  ],
  [
    'cosine:total=30',
    [
      [0, 1.0],
      [1, 0.9972609476841366],
      [10, 0.75],
      [29, 0.0027390523158632987],
      [30, 0.0],
    ],
  ],
  [
    'cosine:total=110,warmup=10,final=0.1',
    [
      [0, 0.1],
      [9, 0.9100000000000001],
      [10, 1.0],
      [37, 0.8475903393956433],
      [109, 0.10022204783542078],
      [110, 0.1],
    ],
  ],
  [
    'cosine:period=10,final=0.05',
    [
      [0, 1.0],
      [1, 0.976751845240198],
      [9, 0.07324815475980208],
      [10, 1.0],
      [11, 0.976751845240198],
      [29, 0.07324815475980208],
      [30, 1.0],
      [105, 0.525],
    ],
  ],
  [
    'cosine:period=7,multiply=2,warmup=3',
    [
      [0, 0.3333333333333333],
      [2, 0.7777777777777778],
      [3, 1.0],
      [9, 0.04951556604879048],
      [10, 1.0],
      [23, 0.012536043909088135],
      [24, 1.0],
      [51, 0.003143895053378698],
      [52, 1.0],
      [107, 0.0007865924910916977],
      [108, 1.0],
    ],
  ],
  [
    'step:every=5,gamma=0.3',
    [
      [0, 1.0],
      [4, 1.0],
      [5, 0.3],
      [9, 0.3],
      [10, 0.09],
      [26, 0.00243],
    ],
  ],
  [
    'exponential:gamma=0.97,warmup=2',
    [
      [0, 0.5],
      [1, 0.75],
      [2, 1.0],
      [3, 0.97],
      [60, 0.17090728985181922],
    ],
  ],
  [
    'inverse-sqrt:warmup=8',
    [
      [0, 0.125],
      [7, 0.8906250000000001],
      [8, 1.0],
      [9, 0.9428090415820634],
      [24, 0.5773502691896257],
      [100, 0.282842712474619],
    ],
  ],
  [
    'inverse-sqrt:timescale=50',
    [
      [0, 1.0],
      [1, 0.9901475429766743],
      [150, 0.5],
    ],
  ],
  [
    'one-cycle:total=40',
    [
      [0, 0.040000000000000036],
      [1, 0.059443372665041294],
      [10, 0.9805566273349586],
      [11, 1.0],
      [12, 0.9968561175222016],
      [30, 0.2339870258064848],
      [39, 4e-6],
    ],
  ],
  [
    'one-cycle:total=50,peak=0.25,start=0.1,final=0.001',
    [
      [0, 0.09999999999999998],
      [5, 0.45844479412631467],
      [11, 0.9958086757163488],
      [12, 0.9995618536343798],
      [49, 0.001],
    ],
  ],
];

it.each(PYTORCH)("%s is PyTorch's", async (text, expected) => {
  const session = await factorSession(text);
  for (const [done, factor] of expected) {
    const { factor: got } = await session.run({ done: Tensor.filled('int64', [], done) });
    expect(got!.dtype).toBe('float64');
    expect(Math.abs(got!.numbers()[0]! - factor), `after ${done} updates`).toBeLessThan(1e-14);
  }
  await session.release();
});

it('restarts where it should, however late', async () => {
  const session = await factorSession('cosine:period=3,multiply=2');
  const at = async (done: number) =>
    (await session.run({ done: Tensor.filled('int64', [], done) })).factor!.numbers()[0]!;
  const start = 3 * (2 ** 40 - 1);
  expect(await at(start)).toBe(1);
  expect(await at(start - 1)).toBeLessThan(1e-20);
  await session.release();
});

it.each([
  ['toString', "Unknown schedule 'toString'"],
  ['cosin:total=3', "Unknown schedule 'cosin'; expected one of constant, linear"],
  ['cosine:total=10,every=3', "Schedule 'cosine' takes warmup, start, total, final, not 'every'"],
  ['linear:total=10,warmup=10', 'the warm-up of 10 updates must end before total (10)'],
  ['linear:total=2.5', 'total is a whole number above 0, not 2.5'],
  [
    'linear:total=ten',
    'total is a number of updates, epochs as in 3epochs, or a share of total as in 5%, not ten',
  ],
  ['linear:total', "'total' is not of the form name=number"],
  ['step:every=10,gamma=0', 'gamma is a number above 0, not 0'],
  ['inverse-sqrt', 'needs timescale'],
  ['cosine:total=50%', 'total is not a share of itself'],
  [
    'step:every=3days',
    'every is a number of updates, epochs as in 3epochs, or a share of total as in 5%, not 3days',
  ],
  ['linear:warmup=120%', 'or a share of total as in 5%, not 120%'],
  ['plateau:factor=2', 'factor is a number between 0 and 1, not 2'],
  ['one-cycle:total=40,warmup=4', "takes total, peak, start, final, not 'warmup'"],
  ['one-cycle:total=10,peak=0.05', 'peak is the share of total that goes up, between 0.1 and 1, not 0.05'],
])('refuses %s', (text, message) => {
  expect(() => parseSchedule(text)).toThrow(message);
});

it.each([
  ['cosine:warmup=5%,total=10epochs', { warmup: 100, total: 2000 }],
  ['linear:warmup=2epochs', { warmup: 400, total: 6000 }],
  ['cosine:warmup=5%', { warmup: 300, total: 6000 }],
  ['step:every=3epochs', { every: 600 }],
  ['step:every=25%', { every: 1500 }],
  ['cosine:period=0.5epochs', { period: 100 }],
  ['linear:total=80,warmup=10%', { warmup: 8, total: 80 }],
  ['plateau:factor=0.5,patience=2,warmup=1epoch', { warmup: 200, factor: 0.5, patience: 2 }],
])('plans %s in epochs of 200 updates, of a run of 30', async (text, lengths) => {
  const updates = (epochs = 30) => 200 * epochs;
  const { kind, ...planned } = await planLengths(parseSchedule(text), updates);
  expect(planned).toMatchObject(lengths);
});

it('resolves shares of a total, but not epochs, without data', async () => {
  expect(await planLengths(parseSchedule('linear:total=80,warmup=10%'))).toMatchObject({ warmup: 8 });
  for (const text of ['step:every=3epochs', 'linear:total=2epochs', 'step:every=5%'])
    await expect(planLengths(parseSchedule(text))).rejects.toThrow('has a length only where there are data');
});

/** A graph of nothing but the factor. */
function factorSession(text: string): Promise<Session> {
  const model = new Model(new Graph('schedule'));
  model.opsetImports = new Map([['', 18]]);
  const g = new Builder(model.graph, { names: Names.of(model), opsets: model.opsetImports });
  const done = g.newValue('done', { kind: 'tensor', dtype: 'int64', shape: [] });
  g.graph.inputs.push(done);
  output(g, scheduleFactor(parseSchedule(text) as PlannedSchedule, g.of(done).cast('float64')), 'factor');
  return Session.create(model);
}
