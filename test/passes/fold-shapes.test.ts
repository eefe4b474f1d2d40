import { expect, it } from 'vitest';
import { gradients } from '../../src/runtime/gradients.js';
import { Body, control } from '../ops/body.js';
import { floatsOf, ints, spread } from '../ops/vjp.js';
import { Sketch } from '../sample.js';

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
  s.graph.nodes.push(...main.graph.nodes);
  const target = columns === 1 ? floatsOf([1, 2]) : spread([2, 3]);
  const found = await gradients(s.model([y!]), { loss }, { x: spread([2, 4]), target });
  expect(found.gradients.get('w')!.dims).toEqual([4, columns]);
});

it('lets a Range have vectors of one element where its number of axes comes to be known', async () => {
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
  s.graph.nodes.push(...main.graph.nodes);
  const range = s.add(
    'Range',
    [s.weight('zero', ints([0], [])), end!, s.weight('by', ints([1], []))],
    'range',
  );
  const y = s.add('Mul', [x, s.add('Cast', [range], 'steps', { to: 1 })], 'y');
  const found = await gradients(s.model([y]), { loss }, { x: spread([2, 4]), target: spread([2, 3]) });
  expect(found.gradients.get('w')!.dims).toEqual([4, 3]);
});
