import { describe, expect, it } from 'vitest';
import { Graph, type Model, Node, Value } from '../../../src/graph/ir.js';
import { Names } from '../../../src/graph/names.js';
import { encodeModel } from '../../../src/graph/proto/codec.js';
import { Tensor } from '../../../src/graph/tensor.js';
import { Builder, toAttrs } from '../../../src/ops/core/builder.js';
import { drawRandom, numberBatches } from '../../../src/passes/differentiate/draw-random.js';
import { trainDropout } from '../../../src/passes/differentiate/train-dropout.js';
import { gradients } from '../../../src/runtime/gradients.js';
import { Session } from '../../../src/runtime/session.js';
import { bools, floatsOf, spread } from '../../ops/vjp.js';
import { Sketch } from '../../sample.js';

const SIZE = 64;
const x = spread([SIZE], [1, 2]);

/** Outputs y0 and y1, the same dropout of x each. */
function twice(inputs: (s: Sketch) => (Value | null)[]): Model {
  const s = new Sketch();
  const operands = [s.input('x', ['n']), ...inputs(s)];
  return s.model([s.add('Dropout', operands, 'y0'), s.add('Dropout', operands, 'y1')]);
}
const ratio = (value: number) => (s: Sketch) => [s.weight('ratio', floatsOf([value], []))];

/** Which elements of y0 and y1 are dropped, in each of some runs of a new session. */
async function masks(
  model: Model,
  mode: 'train' | 'eval',
  seed = 0,
  runs: readonly number[] = [0, 1, 2, 3],
): Promise<boolean[][][]> {
  const g = new Builder(model.graph, { names: Names.of(model), opsets: model.opsetImports });
  trainDropout(g, mode);
  const batch = g.input('batch_number', { kind: 'tensor', dtype: 'int64', shape: [] });
  numberBatches(g, drawRandom(g, seed), () => batch);
  const session = await Session.create(encodeModel(model));
  const drawn: boolean[][][] = [];
  for (const run of runs) {
    const batch_number = Tensor.filled('int64', [], run);
    const results = await session.run({ x, batch_number });
    drawn.push(['y0', 'y1'].map(y => results[y]!.numbers().map(v => v === 0)));
  }
  await session.release();
  return drawn;
}

const share = (dropped: boolean[]) => dropped.filter(Boolean).length / dropped.length;

describe('trainDropout', () => {
  it.each([
    [0.25, ratio(0.25)],
    [0.5, () => []],
  ])('drops a share of %d', async (want, inputs) => {
    const [dropped] = await masks(twice(inputs), 'train', 1, [0]);
    expect(Math.abs(share(dropped!.flat()) - want)).toBeLessThan(0.12);
  });

  it('draws the same masks for the same seed, in every session', async () => {
    const first = await masks(twice(ratio(0.5)), 'train', 3);
    expect(await masks(twice(ratio(0.5)), 'train', 3)).toEqual(first);
    expect(await masks(twice(ratio(0.5)), 'train', 4)).not.toEqual(first);
  });

  it('draws masks of their own for every node and run', async () => {
    const drawn = (await masks(twice(ratio(0.5)), 'train')).flat().map(String);
    expect(new Set(drawn).size).toBe(drawn.length);
  });

  it('draws other masks for seeds that differ by multiples of 2^31 and of 2^31 - 1, and far apart', async () => {
    const seeds = [5, 5 + 2 ** 31 - 1, 5 + 2 ** 31, 5 + 2 ** 47];
    const drawn = await Promise.all(seeds.map(seed => masks(twice(ratio(0.5)), 'train', seed, [0])));
    expect(new Set(drawn.flat(2).map(String)).size).toBe(2 * seeds.length);
    const late = await masks(twice(ratio(0.5)), 'train', 0, [61_629, 67_111, 2 ** 31 - 2]);
    expect(new Set(late.flat().map(String)).size).toBe(6);
  });

  it('does nothing at a ratio of 0, and in eval mode', async () => {
    const on = (s: Sketch) => [...ratio(0.5)(s), s.weight('on', bools([1], []))];
    const drawn = [await masks(twice(ratio(0)), 'train'), await masks(twice(on), 'eval')];
    expect(drawn.flat(3).some(Boolean)).toBe(false);
  });
});

/** loss = sum(x * dropout(w)) with a branch, sum(x * dropout(w) * steps) with a loop of one step. */
function within(opType: 'If' | 'Scan', value = 0.5): Model {
  const s = new Sketch();
  const w = s.weight('w', spread([SIZE], [1, 2], 5));
  const rate = s.weight('ratio', floatsOf([value], []));
  const dropped = new Value('dropped');
  const body = (name: string, v: Value) => {
    const graph = new Graph(name);
    graph.outputs = [new Value(`${name}_y`)];
    graph.append(new Node('Dropout', [v, rate], [...graph.outputs]));
    return graph;
  };
  if (opType === 'If') {
    const condition = s.weight('condition', bools([1], []));
    const branches = { then_branch: body('then', w), else_branch: body('else', w) };
    s.graph.append(new Node('If', [condition], [dropped], toAttrs(branches)));
  } else {
    const state = new Value('state', w.type);
    const step = body('step', state);
    const slice = new Value('slice', { kind: 'tensor', dtype: 'float32', shape: [SIZE] });
    step.inputs = [state, slice];
    const next = new Value('next');
    step.append(new Node('Mul', [step.outputs[0]!, slice], [next]));
    step.outputs = [next];
    const steps = s.input('steps', [1, SIZE]);
    s.graph.append(new Node('Scan', [w, steps], [dropped], toAttrs({ body: step, num_scan_inputs: 1 })));
  }
  const product = s.add('Mul', [s.input('x', [SIZE]), dropped], 'product');
  return s.model([s.add('ReduceSum', [product], 'loss_value', { keepdims: 0 })]);
}

describe('dropout in bodies', () => {
  const options = { loss: { kind: 'output', output: 'loss_value' }, wrt: ['w'] } as const;
  const sumOf = (a: Tensor, b: Tensor) => a.numbers().reduce((sum, v, i) => sum + v * b.numbers()[i]!, 0);

  it('drops in a branch, and in its backward pass the same', async () => {
    const model = within('If');
    const { loss, gradients: found } = await gradients(model, { ...options, dropout: 'train' }, { x });
    const dw = found.get('w')!;
    expect(dw.numbers()).toContain(0);
    // The loss is linear in w.
    const w = [...model.graph.initializers].find(([v]) => v.name === 'w')![1];
    expect(sumOf(dw, w)).toBeCloseTo(loss!, 3);
  });

  it('drops in a loop, and in its backward pass the same', async () => {
    const steps = Tensor.filled('float32', [1, SIZE], 1);
    const feeds = { x, steps };
    const model = within('Scan');
    const { loss, gradients: found } = await gradients(model, { ...options, dropout: 'train' }, feeds);
    expect(found.get('w')!.numbers()).toContain(0);
    const w = [...model.graph.initializers].find(([v]) => v.name === 'w')![1];
    expect(sumOf(found.get('w')!, w)).toBeCloseTo(loss!, 3);
    for (const [model, dropout] of [
      [within('Scan'), 'eval'],
      [within('Scan', 0), 'train'],
    ] as const) {
      const wrt = ['w', 'steps'];
      const { gradients: found } = await gradients(model, { ...options, wrt, dropout }, feeds);
      expect(found.get('w')!.numbers()).toEqual(x.numbers());
    }
  });
});
