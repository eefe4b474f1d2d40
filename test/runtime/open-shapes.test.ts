/** Numbers of axes that the runtime does not infer: told by the file, or by the data. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { loadModel, saveModel } from '../../src/graph/files.js';
import type { Model, Value } from '../../src/graph/ir.js';
import { Tensor } from '../../src/graph/tensor.js';
import { floats } from '../../src/ops/core/builder.js';
import { inject } from '../../src/passes/inject.js';
import { writeSafetensors } from '../../src/runtime/data/safetensors.js';
import { gradients } from '../../src/runtime/gradients.js';
import { Session, sessionShapes } from '../../src/runtime/session.js';
import type { TrainEvent } from '../../src/runtime/train/events.js';
import { runTrainJob } from '../../src/runtime/train/train-job.js';
import { Body, float32, model as modelOf } from '../ops/body.js';
import { spread } from '../ops/vjp.js';
import { mlpData, Sketch } from '../sample.js';

const LOSS = { kind: 'cross-entropy' } as const;

/** The linear layer on what `before` makes of x; as PyTorch exports it, but for `before`. */
function classifier(before: (s: Sketch, x: Value) => Value, shape = ['batch', 1, 4] as (string | number)[]) {
  const s = new Sketch();
  const h = before(s, s.input('x', shape));
  return s.model([s.add('Gemm', [h, s.weight('w', [4, 3]), s.weight('b', [3])], 'y')]);
}

/** Without axes it drops those of extent 1, and nothing says which these are. */
const squeezed = (shape?: (string | number)[]) => (s: Sketch, x: Value) => {
  const h = s.add('Squeeze', [x], 'h');
  if (shape) h.type = float32(shape);
  return h;
};

const samples = () => {
  const { x, target } = Object.fromEntries(mlpData(16));
  return { x: new Tensor('float32', [16, 1, 4], x!.bytes), target: target! };
};

/** As PyTorch exports `x.squeeze(1)` of a batch and another axis of any size. */
function squeezesIf(): Model {
  const main = new Body('main');
  const x = main.input('x', float32(['batch', 'seq', 4]));
  const at = main.constant('at', Tensor.ints([1]));
  const one = main.constant('one', Tensor.ints([1]));
  const extent = main.add('Gather', [main.add('Shape', [x], 'shape'), at], 'extent', { axis: 0 });
  const [dropped, kept] = [new Body('dropped'), new Body('kept')];
  const branches = {
    then_branch: dropped.outputs(dropped.add('Squeeze', [x, at], 'dropped')),
    else_branch: kept.outputs(kept.add('Identity', [x], 'kept')),
  };
  const h = main.add('If', [main.add('Equal', [extent, one], 'isOne')], 'h', branches);
  const w = main.constant('w', spread([4, 3], [-0.5, 0.5], 3));
  return modelOf(main, [main.add('MatMul', [h, w], 'y')]);
}

/** As scikit-learn's converters write it. */
const scaled = (s: Sketch, x: Value) => {
  const h = s.add('Scaler', [x], 'h', { offset: floats([1, 2, 3, 4]), scale: floats([0.5, 2, 1, 1]) });
  s.graph.nodes.at(-1)!.domain = 'ai.onnx.ml';
  return h;
};
const withScaler = () => {
  const model = classifier(scaled, ['batch', 4]);
  model.opsetImports.set('ai.onnx.ml', 1);
  return model;
};

function shapeless(): Model {
  const s = new Sketch();
  const x = s.input('x', []);
  x.type = { kind: 'tensor', dtype: 'float32' };
  return s.model([s.add('MatMul', [x, s.weight('w', [4, 3])], 'y')]);
}

describe('inject', () => {
  it('takes what the file declares, but for the batch that it was made with', async () => {
    const { model } = await inject(classifier(squeezed(['batch', 4])), { loss: LOSS }, sessionShapes);
    const h = (m: Model) => m.graph.nodes.flatMap(n => n.outputs).find(v => v?.name === 'h')!;
    expect(h(model).shape).toEqual(['batch', 4]);
    const traced = await inject(classifier(squeezed([1, 4])), { loss: LOSS }, sessionShapes);
    expect(h(traced.model).shape).toEqual([null, 4]);
  });

  it('knows what the operators of scikit-learn write', async () => {
    const { report } = await inject(withScaler(), { loss: LOSS }, sessionShapes);
    expect(report.parameters.map(p => p.value.name)).toEqual(['w', 'b']);
  });

  it('says what tells the number of axes', async () => {
    await expect(inject(squeezesIf(), { loss: LOSS }, sessionShapes)).rejects.toThrow(
      "No gradient through 'h': its number of axes is not known before the model runs. `train` and `grad` take it from the data",
    );
  });

  it('names the input that has no shape', async () => {
    await expect(inject(shapeless(), { loss: { kind: 'mse' } }, sessionShapes)).rejects.toThrow(
      "Input 'x' has no shape in the file, and the gradient depends on its number of axes.",
    );
  });
});

describe('train and grad', () => {
  let folder: string;
  beforeEach(async () => {
    folder = await mkdtemp(join(tmpdir(), 'agd-onnx-test-'));
  });
  afterEach(() => rm(folder, { recursive: true, force: true }));

  const flat = () => {
    const { x, target } = samples();
    return { x: new Tensor('float32', [16, 4], x.bytes), target };
  };

  it.each<[string, () => Model, Record<string, Tensor>]>([
    ['a Squeeze of what is 1', () => classifier(squeezed()), samples()],
    ['a branch on an extent', squeezesIf, samples()],
    ['an input without shape', shapeless, flat()],
    ["scikit-learn's operators", withScaler, flat()],
  ])('take it from the first batch: %s', async (_, make, { x, target }) => {
    const [file, data, output] = ['model.onnx', 'data.safetensors', 'trained.onnx'].map(f => join(folder, f));
    await saveModel(make(), file!);
    await writeSafetensors(
      data!,
      new Map([
        ['images', x!],
        ['target', target!],
      ]),
    );
    const events: TrainEvent[] = [];
    const bind = { map: { x: 'images', target: 'target' } };
    await runTrainJob(
      {
        model: file!,
        data: data!,
        validation: data!,
        output: output!,
        inject: { loss: LOSS },
        epochs: 3,
        batchSize: 8,
        bind,
      },
      e => events.push(e),
    );
    const losses = events.flatMap(e => (e.type === 'epoch' ? [e.validation!.loss] : []));
    expect(losses).toHaveLength(3);
    expect(losses[2]).toBeLessThan(losses[0]!);

    const feeds = { x: x!, target: target! };
    const trained = await gradients(await loadModel(output!), { loss: LOSS }, feeds);
    expect(trained.loss).toBeCloseTo(losses[2]!, 5);
    const session = await Session.create(await loadModel(output!));
    expect((await session.run({ x: x! })).y!.dims).toEqual([16, 3]);
    await session.release();
  });
});

describe('a target of an extent that only a run tells', () => {
  /** A score for each position of x before `end`; of classes, or one number. */
  function cutScores(classes?: number): Model {
    const s = new Sketch();
    const ints = (name: string, n: number) => s.weight(name, Tensor.ints([n]));
    const bounds = [ints('start', 0), s.input('end', [1], 'int64'), ints('axis', 1)];
    const scores = s.add('MatMul', [s.input('x', ['n', 'm', 4]), s.weight('w', [4, classes ?? 1])], 'scores');
    const y = s.add('Slice', [scores, ...bounds], 'y');
    return s.model([classes ? y : s.add('Squeeze', [y, ints('last', 2)], 'numbers')]);
  }
  const feeds = (target: Tensor) => ({ x: spread([2, 5, 4]), end: Tensor.ints([4]), target });
  const kinds = ['mse', 'cross-entropy', 'bce-with-logits', 'nll', 'dice'] as const;

  it.each(kinds)(
    'of another length than the output of %s is refused, as neither a part is read nor one repeated',
    async kind => {
      const ofClasses = /cross-entropy|nll/.test(kind);
      const target = (m: number) => Tensor.filled(ofClasses ? 'int64' : 'float32', [2, m], 1);
      const grad = (m: number) =>
        gradients(cutScores(ofClasses ? 3 : undefined), { loss: { kind } }, feeds(target(m)));
      for (const m of [1, 3, 5])
        await expect(grad(m)).rejects.toMatchObject({
          code: 'bad-shape',
          message: `Target 'target' is [2,${m}], but its output needs one of [2,4].`,
        });
      expect(
        (await grad(4)).gradients
          .get('w')!
          .numbers()
          .some(d => d !== 0),
      ).toBe(true);
    },
  );

  it.each(['mse', 'cross-entropy'] as const)(
    'with the axes of the output of %s in another order is refused',
    async kind => {
      const ofClasses = kind === 'cross-entropy';
      const s = new Sketch();
      const scores = s.add(
        'MatMul',
        [s.input('x', ['n', 20, 4]), s.weight('w', [4, ofClasses ? 3 : 1])],
        'scores',
      );
      const y = s.add('Reshape', [scores, s.input('extents', [4], 'int64')], 'y');
      const axis = s.weight('last', Tensor.ints([3]));
      const out = ofClasses
        ? s.add('Transpose', [y], 'chw', { perm: [0, 3, 1, 2] })
        : s.add('Squeeze', [y, axis], 'values');
      const model = s.model([out]);
      const grad = (dims: number[], [h, w] = [4, 5]) =>
        gradients(
          model,
          { loss: { kind } },
          {
            x: spread([2, 20, 4]),
            extents: Tensor.ints([2, h!, w!, ofClasses ? 3 : 1]),
            target: Tensor.filled(ofClasses ? 'int64' : 'float32', [2, ...dims], 1),
          },
        );
      await expect(grad([5, 4])).rejects.toMatchObject({
        code: 'bad-shape',
        message:
          "Target 'target' has as many elements as its output, but other extents: its axes may be in another order.",
      });
      await expect(grad([4, 4])).rejects.toThrow(
        "Target 'target' is [2,4,4], but its output needs one of [2,4,5].",
      );
      const { loss } = await grad([4, 5]);
      // Where an axis is of length 1, the order of the elements is the same.
      expect((await grad([20, 1], [1, 20])).loss).toBeCloseTo(loss!);
    },
  );
});
