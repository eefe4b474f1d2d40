import { expect, it } from 'vitest';
import type { Value } from '../../../src/graph/ir.js';
import { Tensor } from '../../../src/graph/tensor.js';
import { contextOf, runPasses } from '../../../src/passes/common/context.js';
import { inject } from '../../../src/passes/inject.js';
import { PIPELINES } from '../../../src/passes/pipeline.js';
import { checkGradients } from '../../../src/runtime/check-gradients.js';
import { gradients } from '../../../src/runtime/gradients.js';
import { Session, sessionShapes } from '../../../src/runtime/session.js';
import { Body, control } from '../../ops/body.js';
import { floatsOf, ints, spread } from '../../ops/vjp.js';
import { Sketch } from '../../sample.js';

const loss = { kind: 'mse' } as const;

/** The heads of an attention are cut off where PyTorch counts the axes with Shape of Shape. */
it('finds the number of axes that arithmetic on shapes decides', async () => {
  const s = new Sketch();
  const int = (name: string, values: number[]) => s.weight(name, ints(values));
  const x = s.add('MatMul', [s.input('x', ['batch', 'time', 4]), s.weight('w', [4, 6])], 'xw');
  const shape = s.add('Shape', [x], 'shape');
  const rank = s.add('Shape', [shape], 'rank');
  const last = s.add('Mod', [s.add('Add', [int('minus', [-1]), rank], 'sum'), rank], 'last');
  const head = s.add('Slice', [shape, int('zero', [0]), last], 'head');
  const cut = s.add(
    'Reshape',
    [x, s.add('Concat', [head, int('parts', [2, 3])], 'parted', { axis: 0 })],
    'cut',
  );
  const up = s.add('Unsqueeze', [cut, int('front', [0])], 'up');
  const turned = s.add('Transpose', [up], 'turned', { perm: [3, 1, 2, 0, 4] });
  const y = s.add('Squeeze', [turned, int('axis', [-2])], 'y');
  const feeds = { x: spread([2, 5, 4]), target: spread([2, 2, 5, 3]) };
  const found = await gradients(s.model([y]), { loss }, feeds);
  expect(
    found.gradients
      .get('w')!
      .numbers()
      .some(v => v !== 0),
  ).toBe(true);
});

/** As PyTorch writes x.squeeze(-1), the form of which depends on the extent. */
it.each([1, 3])('takes the branch that the extents decide, of %i columns', async columns => {
  const s = new Sketch();
  const x = s.add('MatMul', [s.input('x', ['batch', 4]), s.weight('w', [4, columns])], 'xw');
  const extent = s.add('Gather', [s.add('Shape', [x], 'shape'), s.weight('at', ints([1], []))], 'extent');
  const is1 = s.add('Equal', [extent, s.weight('one', ints([1], []))], 'is1');
  const [yes, no] = [new Body('yes'), new Body('no')];
  const main = new Body('main');
  const [y] = control(main, 'If', [is1], ['y'], {
    then_branch: yes.outputs(
      yes.add('ReduceSum', [x, yes.constant('axes', ints([1]))], 'squeezed', { keepdims: 0 }),
    ),
    else_branch: no.outputs(no.add('Identity', [x], 'kept')),
  });
  const { nodes } = main.graph;
  main.graph.nodes = [];
  s.graph.append(...nodes);
  const target = columns === 1 ? floatsOf([1, 2]) : spread([2, 3]);
  const found = await gradients(s.model([y!]), { loss }, { x: spread([2, 4]), target });
  expect(found.gradients.get('w')!.dims).toEqual([4, columns]);
});

it('accepts one-element vectors as inputs of a Range once their rank is known', async () => {
  const s = new Sketch();
  const int = (name: string, values: number[]) => s.weight(name, ints(values));
  const x = s.add('MatMul', [s.input('x', ['batch', 4]), s.weight('w', [4, 3])], 'xw');
  const [yes, no] = [new Body('yes'), new Body('no')];
  const main = new Body('main');
  const is2 = s.add(
    'Equal',
    [s.add('Size', [s.add('Shape', [x], 'shape')], 'axes'), s.weight('two', ints([2], []))],
    'is2',
  );
  const [end] = control(main, 'If', [is2], ['end'], {
    then_branch: yes.outputs(
      yes.add('Slice', [int('limits', [5, 3]), int('one', [1]), int('many', [9])], 'last'),
    ),
    else_branch: no.outputs(no.add('Identity', [s.weight('scalar', ints([3], []))], 'none')),
  });
  const { nodes } = main.graph;
  main.graph.nodes = [];
  s.graph.append(...nodes);
  const range = s.add(
    'Range',
    [s.weight('zero', ints([0], [])), end!, s.weight('by', ints([1], []))],
    'range',
  );
  const y = s.add('Mul', [x, s.add('Cast', [range], 'steps', { to: 1 })], 'y');
  const found = await gradients(s.model([y]), { loss }, { x: spread([2, 4]), target: spread([2, 3]) });
  expect(found.gradients.get('w')!.dims).toEqual([4, 3]);
});

it('leaves integers that a number does not hold', async () => {
  const s = new Sketch();
  const x = s.add('MatMul', [s.input('x', ['batch', 4]), s.weight('w', [4, 6])], 'xw');
  const end = s.weight('end', Tensor.from('int64', [1], BigInt64Array.of(2n ** 63n - 1n)));
  const ends = s.add('Concat', [end, s.weight('also', ints([4]))], 'ends', { axis: 0 });
  const part = s.add('Slice', [x, s.weight('starts', ints([0, 1])), ends], 'part');
  const extents = s.add('Concat', [s.add('Shape', [part], 'shape'), s.weight('one', ints([1]))], 'to', {
    axis: 0,
  });
  const y = s.add('Reshape', [part, extents], 'y');
  const feeds = { x: spread([2, 4]), target: spread([2, 3, 1]) };
  const found = await gradients(s.model([y]), { loss }, feeds);
  expect(found.gradients.get('w')!.dims).toEqual([4, 6]);
});

/** As PyTorch writes x.view(x.shape[0], 2, -1 + 4): extents that stay in their place need no computing. */
it('keeps the names of extents that pass through arithmetic, so that nothing is summed for fear of a broadcast', async () => {
  const s = new Sketch();
  const scalar = (name: string, value: number) => s.weight(name, ints([value], []));
  const vector = (name: string, value: number) => s.weight(name, ints([value]));
  const x = s.add('MatMul', [s.input('x', ['batch', 6]), s.weight('w', [6, 6])], 'xw');
  const batch = s.add('Gather', [s.add('Shape', [x], 'shape'), scalar('first', 0)], 'batch');
  const front = s.add('Unsqueeze', [batch, vector('axis', 0)], 'front');
  const viewed = (from: Value, name: string, ...extents: number[]) =>
    s.add(
      'Reshape',
      [
        from,
        s.add('Concat', [front, ...extents.map((d, i) => vector(`${name}_${i}`, d))], `${name}_to`, {
          axis: 0,
        }),
      ],
      name,
    );
  const heads = s.add('Transpose', [viewed(x, 'split', 2, 3)], 'heads', { perm: [0, 2, 1] });
  const y = s.add('Add', [viewed(s.add('Tanh', [heads], 'tanh'), 'merged', 6), s.weight('b', [6])], 'y');
  const { model } = await inject(s.model([y]), { loss }, sessionShapes);
  expect(model.graph.nodes.map(n => n.opType)).not.toContain('NonZero');
  const merged = model.graph.nodes.find(n => n.outputs[0]!.name === 'merged')!;
  expect(merged.outputs[0]!.shape).toEqual(['batch', 6]);
  for (const size of [1, 3]) {
    const feeds = { x: spread([size, 6]), target: spread([size, 6], [-1, 1], 2) };
    const found = await gradients(s.model([y]), { loss }, feeds);
    const checks = await checkGradients(s.model([y]), { loss }, feeds, found);
    expect(checks.map(c => [c.name, c.passed])).toEqual([
      ['w', true],
      ['b', true],
    ]);
  }
});

/** F.pad of a strided slice: the pads are turned around in a matrix, the slice ends at the largest integer. */
it('evaluates the pads and bounds that exporters compute, for a device that would wait for them', async () => {
  const s = new Sketch();
  const int = (name: string, values: (number | bigint)[], dims?: number[]) =>
    s.weight(name, dims ? ints(values.map(Number), dims) : Tensor.ints(values));
  const x = s.add('MatMul', [s.input('x', [2, 3, 4]), s.weight('w', [4, 6])], 'xw');
  const end = s.add(
    'Unsqueeze',
    [
      s.weight('most', new Tensor('int64', [], new Uint8Array(new BigInt64Array([2n ** 63n - 1n]).buffer))),
      int('front', [0]),
    ],
    'end',
  );
  const halves = s.add('Slice', [x, int('from', [0]), end, int('axis', [2]), int('by', [2])], 'halves');
  const listed = s.add('Concat', [int('own', [1, 2]), int('others', [0, 0, 0, 0])], 'listed', { axis: 0 });
  const pairs = s.add('Reshape', [listed, int('pairs', [-1, 2])], 'paired');
  const turned = s.add(
    'Slice',
    [pairs, int('last', [-1]), int('first', [-(2 ** 40)]), int('zero', [0]), int('back', [-1])],
    'turned',
  );
  const columns = s.add('Transpose', [turned], 'columns', { perm: [1, 0] });
  const pads = s.add('Reshape', [columns, int('flat', [-1])], 'pads');
  const y = s.add('Pad', [halves, pads], 'y');
  const context = contextOf(s.model([y]), { provider: 'cuda' }, sessionShapes);
  const { work } = await runPasses(PIPELINES.normalize, context, ['work']);
  const pad = work.graph.nodes.at(-1)!;
  expect(work.graph.initializers.get(pad.inputs[1]!)?.numbers()).toEqual([0, 0, 1, 0, 0, 2]);
  expect(work.graph.outputs[0]!.shape).toEqual([2, 3, 6]);
  const session = await Session.create(work);
  const padded = (await session.run({ x: spread([2, 3, 4]) })).y!;
  await session.release();
  expect(padded.dims).toEqual([2, 3, 6]);
  expect(
    padded
      .numbers()
      .slice(0, 6)
      .map(v => v === 0),
  ).toEqual([true, false, false, false, true, true]);
});
