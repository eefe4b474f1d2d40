import { expect, it } from 'vitest';
import { Tensor } from '../../../src/graph/tensor.js';
import { readOriginal } from '../../../src/passes/file/embed-original.js';
import { inject } from '../../../src/passes/inject.js';
import { tieTransposedInitializers } from '../../../src/passes/normalize/tie-transposed-initializers.js';
import { gradients } from '../../../src/runtime/gradients.js';
import { sessionShapes } from '../../../src/runtime/session.js';
import { Trainer } from '../../../src/runtime/train/trainer.js';
import { ints, spread } from '../../ops/vjp.js';
import { Sketch } from '../../sample.js';

const table = spread([5, 3]);
const turned = () => {
  const x = table.numbers();
  return Tensor.from(
    'float32',
    [3, 5],
    Float32Array.from({ length: 15 }, (_, i) => x[(i % 5) * 3 + Math.floor(i / 5)]!),
  );
};

/** A language model whose last layer is its embedding, which the exporter wrote down twice (`untied`), or once. */
function languageModel(untied: boolean) {
  const s = new Sketch();
  const embed = s.weight('embed', table);
  const h = s.add('Tanh', [s.add('Gather', [embed, s.input('x', ['batch'], 'int64')], 'e')], 'h');
  const head = untied
    ? s.weight('onnx::MatMul_9', turned())
    : s.add('Transpose', [embed], 'head', { perm: [1, 0] });
  return s.model([s.add('MatMul', [h, head], 'logits')]);
}

const feeds = { x: ints([0, 3, 3, 1]), target: ints([1, 2, 4, 0]) };
const loss = { kind: 'cross-entropy' } as const;

it('makes one parameter of an embedding and its transposed copy', async () => {
  const want = await gradients(languageModel(false), { loss }, feeds);
  const got = await gradients(languageModel(true), { loss }, feeds);
  expect([...got.gradients.keys()]).toEqual(['embed']);
  expect(got.gradients.get('embed')!.numbers()).toEqual(want.gradients.get('embed')!.numbers());
});

it('exports a file in which they are tied', async () => {
  const { model } = await inject(languageModel(true), { loss }, sessionShapes);
  const trainer = await Trainer.create(model);
  await trainer.step(feeds);
  const { graph } = readOriginal(trainer.snapshot());
  await trainer.release();
  expect([...graph.initializers.keys()].map(v => v.name)).toEqual(['embed']);
  expect(graph.nodes.map(n => n.opType)).toEqual(['Transpose', 'Gather', 'Tanh', 'MatMul']);
});

it('leaves matrices that only resemble each other', () => {
  const other = turned();
  other.data[7] = 9;
  for (const [a, b] of [
    [table, other],
    [Tensor.filled('float32', [5, 3], 1), Tensor.filled('float32', [3, 5], 1)],
    [table, spread([5, 3])],
  ]) {
    const s = new Sketch();
    s.weight('a', a!);
    s.weight('b', b!);
    expect(tieTransposedInitializers(s.model([]))).toBe(false);
  }
});
