/** What a model has to be fed, and how, from the file to the step. */
import { describe, expect, it } from 'vitest';
import type { Model } from '../../src/graph/ir.js';
import { Tensor } from '../../src/graph/tensor.js';
import { inject } from '../../src/passes/inject.js';
import { type BindOptions, bindData } from '../../src/runtime/data/bind.js';
import { gradients } from '../../src/runtime/gradients.js';
import { sessionShapes } from '../../src/runtime/session.js';
import { Trainer } from '../../src/runtime/train/trainer.js';
import { trainingLoop } from '../../src/runtime/train/training-loop.js';
import { spread } from '../ops/vjp.js';
import { mlp, mlpData, Sketch } from '../sample.js';

const LOSS = { kind: 'cross-entropy' } as const;

/** The losses of the first step and of an evaluation after it. */
async function firstLoss(model: Model, arrays: Map<string, Tensor>, options: BindOptions = {}) {
  const { model: injected } = await inject(model, { loss: { ...LOSS, output: 'y' } }, sessionShapes);
  const trainer = await Trainer.create(injected);
  try {
    const data = bindData(arrays, trainer.inputs, { labels: ['target'], ...options });
    const losses: number[] = [];
    for await (const e of trainingLoop(trainer, data, { epochs: 1, seed: 1, validation: data }))
      if (e.type === 'step') losses.push(e.loss);
    return {
      inputs: trainer.inputs.map(i => i.name),
      injected: injected.graph.inputs.map(v => v.name),
      losses,
    };
  } finally {
    await trainer.release();
  }
}

/** h = x W, the sum over a node's edges of their other ends' h: a graph convolution. */
function graphNet(): Model {
  const s = new Sketch();
  const x = s.input('x', ['nodes', 4]);
  const edges = s.input('edges', [2, 'edges'], 'int64');
  const one = (name: string, value: number) =>
    s.weight(name, Tensor.from('int64', [], BigInt64Array.of(BigInt(value))));
  const h = s.add('MatMul', [x, s.weight('w', [4, 3])], 'h');
  const from = s.add('Gather', [edges, one('zero', 0)], 'from', { axis: 0 });
  const to = s.add('Gather', [edges, one('one', 1)], 'to', { axis: 0 });
  const sent = s.add('Gather', [h, from], 'sent', { axis: 0 });
  const column = s.add('Unsqueeze', [to, s.weight('axes', Tensor.ints([1]))], 'column');
  return s.model([s.add('ScatterND', [h, column, sent], 'y', { reduction: 'add' })]);
}

describe('a graph network', () => {
  const nodes = 40;
  const data = new Map([
    ['x', spread([nodes, 4], [-1, 1], 1)],
    [
      'edges',
      Tensor.from(
        'int64',
        [2, 60],
        BigInt64Array.from({ length: 120 }, (_, i) => BigInt((i * 7) % nodes)),
      ),
    ],
    [
      'target',
      Tensor.from(
        'int64',
        [nodes],
        BigInt64Array.from({ length: nodes }, (_, i) => BigInt(i % 3)),
      ),
    ],
  ]);

  it('is trained on the whole graph, in the order that its edges number', async () => {
    const { losses } = await firstLoss(graphNet(), data, { whole: ['edges'] });
    const { loss } = await gradients(graphNet(), { loss: LOSS }, Object.fromEntries(data));
    expect(losses.length).toBe(1);
    expect(losses[0]).toBeCloseTo(loss!, 6);
  });

  it('says how, where nothing was said of it', async () => {
    await expect(firstLoss(graphNet(), data)).rejects.toThrow(/'edges' has 2; .*--whole edges/);
  });
});

/** The last state of a recurrent network whose input is [time, batch, features]. */
function recurrent(): Model {
  const s = new Sketch();
  const x = s.input('x', ['time', 'batch', 2]);
  const h = s.add('RNN', [x, s.weight('w', [1, 3, 2]), s.weight('r', [1, 3, 3])], 'all', { hidden_size: 3 });
  s.graph.nodes[0]!.outputs = [null, h];
  return s.model([s.add('Squeeze', [h, s.weight('axes', Tensor.ints([0]))], 'y')]);
}

it('a sequence network whose batch comes second is fed samples, not time steps', async () => {
  const [count, time] = [6, 4];
  const rows = spread([count, time, 2], [-1, 1], 3);
  const target = Tensor.from(
    'int64',
    [count],
    BigInt64Array.from({ length: count }, (_, i) => BigInt(i % 3)),
  );
  const across = Array.from({ length: time * count * 2 }, (_, i) => {
    const [t, n, f] = [Math.floor(i / (count * 2)), Math.floor(i / 2) % count, i % 2];
    return rows.numbers()[(n * time + t) * 2 + f]!;
  });
  const layout = Tensor.from('float32', [time, count, 2], Float32Array.from(across));
  const { loss } = await gradients(recurrent(), { loss: LOSS }, { x: layout, target });
  for (const x of [rows, layout]) {
    const arrays = new Map([
      ['x', x],
      ['target', target],
    ]);
    expect((await firstLoss(recurrent(), arrays)).losses[0]).toBeCloseTo(loss!, 6);
  }
});

describe('inputs that the loss does not need', () => {
  /** `mlp` with inputs that nothing reads, one of them of text, and an output of its own of another. */
  function extended(): Model {
    const model = mlp();
    const s = new Sketch();
    const ids = s.input('ids', ['batch', 'time'], 'int64');
    const text = s.input('text', ['batch'], 'string');
    const other = s.input('other', ['batch', 5]);
    const sine = s.add('Sin', [other], 'sine');
    model.graph.nodes.at(-1)!.outputs[0]!.name = 'y';
    model.graph.inputs.push(ids, text, other);
    const { nodes } = s.graph;
    s.graph.nodes = [];
    model.graph.append(...nodes);
    model.graph.addOutputs(sine);
    return model;
  }

  it('are not asked for', async () => {
    const { inputs, injected, losses } = await firstLoss(extended(), mlpData(64));
    expect(inputs).toEqual(['x', 'target']);
    expect(injected.slice(0, 3)).toEqual(['x', 'other', 'target']);
    expect(losses.length).toBe(2);
  });

  it('are not asked for by gradients either', async () => {
    const options = { loss: { ...LOSS, output: 'y' } };
    const { gradients: found } = await gradients(extended(), options, Object.fromEntries(mlpData(8)));
    expect([...found.keys()]).toContain('fc1.weight');
  });
});
