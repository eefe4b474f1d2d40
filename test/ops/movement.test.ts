import { describe, it } from 'vitest';
import type { Value } from '../../src/graph/ir.js';
import { Body, float32, model } from './body.js';
import { bools, checkModel, checkVjp, floatsOf, type Input, ints, spread, type VjpCase } from './vjp.js';

/** Checks with known extents, with hidden ones, and with the integer inputs known only at run time. */
async function check(opType: string, inputs: readonly Input[], c: VjpCase = {}): Promise<void> {
  const constants = inputs.flatMap((x, i) => (x && 'dtype' in x && x.dtype === 'int64' ? [i] : []));
  await checkVjp(opType, inputs, { ...c, constants });
  await checkVjp(opType, inputs, { ...c, constants, symbolic: true });
  await checkVjp(opType, inputs, { ...c, symbolic: true });
}

describe('shapes and axes', () => {
  it.each([[[6]], [[3, -1]], [[0, 1, -1]]])('Reshape to %j', shape =>
    check('Reshape', [[2, 3], ints(shape)]),
  );
  it('Reshape to an empty axis', () => check('Reshape', [[0, 3], ints([3, 0])], { attrs: { allowzero: 1 } }));
  it.each([0, 1, 2, -1])('Flatten at %i', axis => check('Flatten', [[2, 3, 2]], { attrs: { axis } }));
  it('Squeeze', () => check('Squeeze', [[1, 3, 1, 2], ints([0, -2])]));
  it('Squeeze of every axis of extent 1', () => checkVjp('Squeeze', [[1, 3, 1, 2]]));
  it('Unsqueeze', () => check('Unsqueeze', [[3, 2], ints([0, -1])]));
  it('Identity', () => check('Identity', [[2, 3]]));
  it.each([undefined, [2, 0, 1], [0, 2, 1]])('Transpose by %j', perm =>
    check('Transpose', [[2, 3, 4]], { attrs: { perm } }),
  );
  it.each([[[2, 3, 4]], [[1]], [[2, 1, 1, 4]]])('Expand to %j', shape =>
    check('Expand', [[3, 1], ints(shape.length === 1 ? [3, 2] : shape)]),
  );
  it('Expand of a scalar', () => check('Expand', [[], ints([2, 2])]));
  it.each([[[2, 3]], [[1, 1]], [[3, 1]]])('Tile %j times', repeats => check('Tile', [[2, 3], ints(repeats)]));
});

describe('parts', () => {
  it.each([0, 1, -1])('Concat along %i', axis =>
    check(
      'Concat',
      [
        [2, 3],
        [2, 3],
        [2, 3],
      ],
      { attrs: { axis } },
    ),
  );
  it('Concat of unequal parts, one of them without a gradient', () =>
    check(
      'Concat',
      [
        [2, 1, 2],
        [2, 3, 2],
        [2, 2, 2],
      ],
      { attrs: { axis: 1 }, wrt: [0, 2] },
    ));
  it('Split into equal parts', () =>
    check('Split', [[2, 6]], { attrs: { axis: -1, num_outputs: 3 }, outputs: 3 }));
  it('Split into parts of which the last is smaller', () =>
    check('Split', [[5, 2]], { attrs: { num_outputs: 3 }, outputs: 3 }));
  it('Split into given parts', () =>
    check('Split', [[2, 6], ints([1, 3, 2])], { attrs: { axis: 1 }, outputs: 3 }));
  it('Split, one part without a cotangent', () =>
    check('Split', [[6], ints([1, 3, 2])], { outputs: 3, cotangents: [0, 2] }));

  it.each([
    ['the middle', [1, 0], [3, 2], undefined, undefined],
    ['negative bounds', [-2], [-1], [-2], undefined],
    ['bounds beyond the ends', [-100, 1], [100, 100], [0, 1], [1, 1]],
    ['nothing', [2], [2], [0], undefined],
    ['every other', [0], [100], [0], [2]],
    ['backwards', [-1, 3], [-100, 0], [1, 0], [-1, -2]],
    ['whole axes backwards', [-1, -1], [-(2 ** 40), -(2 ** 40)], [0, -1], [-1, -1]],
    ['backwards from the middle', [1], [-(2 ** 40)], [0], [-1]],
  ] as [string, number[], number[], number[]?, number[]?][])(
    'Slice: %s',
    async (_, starts, ends, axes, steps) => {
      const [a, s] = [axes, steps].map(v => (v ? ints(v) : null));
      await check('Slice', [[4, 3, 2], ints(starts), ints(ends), a!, s!]);
    },
  );

  const pads = [
    ['around', [1, 0, 2, 1], undefined],
    ['cropping', [-1, 1, 0, -2], undefined],
    ['one axis', [2, 1], [-1]],
  ] as [string, number[], number[]?][];
  it.each(pads)('Pad with a constant: %s', async (_, amounts, axes) => {
    const at = axes ? ints(axes) : null;
    await check('Pad', [[3, 4], ints(amounts), floatsOf([0.5], []), at]);
    await check('Pad', [[3, 4], ints(amounts), floatsOf([0.5]), at]);
    await check('Pad', [[3, 4], ints(amounts), null, at], { opset: 21 });
  });
  describe.each(['reflect', 'edge', 'wrap'])('Pad in mode %s', mode => {
    it.each(pads)('%s', (_, amounts, axes) =>
      check('Pad', [[3, 4], ints(amounts), null, axes ? ints(axes) : null], { attrs: { mode }, opset: 19 }),
    );
  });

  it.each([
    [[2, 5], undefined],
    [
      [6, 3],
      [0, 1],
    ],
    [[3], [-1]],
    [
      [5, 3],
      [1, 0],
    ],
  ] as [number[], number[]?][])('CenterCropPad to %j along %j', (shape, axes) =>
    check('CenterCropPad', [[3, 4], ints(shape)], { attrs: { axes } }),
  );
  it.each([0, 1])('Trilu, upper = %i', async upper => {
    await check('Trilu', [[2, 3, 4]], { attrs: { upper } });
    await check('Trilu', [[4, 3], ints([-1], [])], { attrs: { upper } });
  });
  it('Compress', async () => {
    await check('Compress', [[2, 3], bools([1, 0, 0, 1, 1])]);
    await check('Compress', [[2, 3], bools([1, 0, 1])], { attrs: { axis: -1 } });
  });
});

describe('permutations', () => {
  it.each(['DCR', 'CRD'])('DepthToSpace in mode %s', mode =>
    check('DepthToSpace', [[1, 8, 2, 1]], { attrs: { blocksize: 2, mode } }),
  );
  it('SpaceToDepth', () => check('SpaceToDepth', [[2, 1, 4, 2]], { attrs: { blocksize: 2 } }));
  it.each([0, 1])('ReverseSequence along %i', time_axis =>
    check('ReverseSequence', [[3, 3, 2], ints([1, 2, 3])], {
      attrs: { time_axis, batch_axis: 1 - time_axis },
    }),
  );
});

it.each([
  [[1], [3]],
  [
    [1, -2],
    [3, 3],
  ],
])('Slice cuts as many axes as there are starts %j, where only the run tells', async (from, to) => {
  const main = new Body('main');
  const x = main.input('x', float32(['n', 3]));
  const [starts, ends] = ['starts', 'ends'].map(name =>
    main.input(name, { kind: 'tensor', dtype: 'int64', shape: ['axes'] }),
  ) as [Value, Value];
  const y = main.add('Slice', [x, starts, ends], 'y');
  await checkModel(model(main, [y]), [x, starts, ends], [y], [spread([4, 3]), ints(from), ints(to)]);
});

describe('Slice between transposes', () => {
  it.each([[[0]], [[2, 1]]])('of axes %j', async axes => {
    const main = new Body('main');
    const x = main.input('x', float32([3, 2, 4]));
    const [starts, ends] = [1, 2].map((n, i) => main.constant(`at${i}`, ints(axes.map(() => n))));
    const turned = main.add('Transpose', [x], 'turned', { perm: [2, 0, 1] });
    const cut = main.add('Slice', [turned, starts!, ends!, main.constant('axes', ints(axes))], 'cut');
    const y = main.add('Transpose', [cut], 'y', { perm: [1, 2, 0] });
    await checkModel(model(main, [y]), [x], [y], [spread([3, 2, 4])]);
  });
});
