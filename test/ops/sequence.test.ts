import { describe, it } from 'vitest';
import type { Value } from '../../src/graph/ir.js';
import { Body, control, float32, model } from './body.js';
import { bools, checkModel, ints, spread } from './vjp.js';

const scalar = (n: number) => ints([n], []);
const truth = bools([1], []);

/** Checks a model of inputs of these shapes, with known extents and with symbolic ones. */
async function check(
  shapes: readonly (readonly number[])[],
  write: (main: Body, inputs: readonly Value[]) => Value[],
): Promise<void> {
  const tensors = shapes.map((dims, i) => spread(dims, [-1, 1], i + 1));
  for (const symbolic of [false, true]) {
    const main = new Body('main');
    const ins = shapes.map((dims, i) =>
      main.input(`x${i}`, float32(dims.map((d, axis) => (symbolic ? `d${i}_${axis}` : d)))),
    );
    const outs = write(main, ins);
    await checkModel(model(main, outs), ins, outs, tensors);
  }
}

describe('SequenceConstruct and SequenceAt', () => {
  it.each([
    [0, 2],
    [1, -1],
    [-3, -3],
  ])('at %i and %i', (i, j) =>
    check([[2, 3], [4], [2, 3]], (main, xs) => {
      const s = main.add('SequenceConstruct', xs, 's');
      const at = (k: number, name: string) =>
        main.add('SequenceAt', [s, main.constant(`${name}_at`, scalar(k))], name);
      return [main.add('Sin', [at(i, 'a')], 'y'), main.add('Exp', [at(j, 'b')], 'z')];
    }),
  );
});

describe('SequenceInsert and SequenceErase', () => {
  it.each([undefined, 0, 1, 2, -1, -2])('at %j', i =>
    check([[2], [3], [4]], (main, [a, b, x]) => {
      const place = i === undefined ? [] : [main.constant('place', scalar(i))];
      const s = main.add('SequenceConstruct', [a!, b!], 's');
      const t = main.add('SequenceInsert', [s, x!, ...place], 't');
      const at = main.add('SequenceAt', [t, main.constant('one', scalar(1))], 'at');
      const erased = main.add('SequenceErase', [t, ...(i === 2 ? [] : place)], 'erased');
      return [main.add('Sin', [at], 'y'), main.add('ConcatFromSequence', [erased], 'z', { axis: 0 })];
    }),
  );
});

describe('SplitToSequence and ConcatFromSequence', () => {
  it.each([
    { split: scalar(2), axis: 1 },
    { split: ints([1, 3, 1]), axis: -1 },
    { split: undefined, axis: 0 },
  ])('along axis $axis', ({ split, axis }) =>
    check([[4, 5]], (main, [x]) => {
      const parts = main.add(
        'SplitToSequence',
        [x!, ...(split ? [main.constant('split', split)] : [])],
        's',
        {
          axis,
        },
      );
      const last = main.add('SequenceAt', [parts, main.constant('last', scalar(-1))], 'part');
      const whole = main.add('ConcatFromSequence', [parts], 'whole', { axis: axis - 2 * Number(axis > 0) });
      return [main.add('Sin', [last], 'y'), main.add('Exp', [whole], 'z')];
    }),
  );
  it.each([0, 1, -1])('on an axis of its own, %i', axis =>
    check([[3, 2]], (main, [x]) => {
      const rows = main.add('SplitToSequence', [x!], 's', { axis: 0, keepdims: 0 });
      return [main.add('Sin', [main.add('ConcatFromSequence', [rows], 'y', { axis, new_axis: 1 })], 'z')];
    }),
  );
});

it('SequenceMap', () =>
  check([[4, 3], [3]], (main, [x, w]) => {
    const rows = main.add('SplitToSequence', [x!], 'rows', { axis: 0, keepdims: 0 });
    const body = new Body('body');
    const [row, scale] = [body.input('row', float32()), body.input('scale', float32())];
    const results = [body.add('Mul', [row, scale], 'row_y'), body.add('Sin', [row], 'row_z')];
    for (const result of results) result.type = float32();
    const graph = body.outputs(...results);
    const outs = control(main, 'SequenceMap', [rows, w!], ['ys', 'zs'], { body: graph });
    const [ys, zs] = outs.map((s, i) =>
      main.add('ConcatFromSequence', [s], `y${i}`, { axis: 0, new_axis: i }),
    );
    return [ys!, zs!];
  }));

describe('a Loop', () => {
  /** A Loop whose body computes the next states from the iteration's number and the states. */
  const loop = (
    main: Body,
    trips: number,
    states: readonly Value[],
    write: (b: Body, i: Value, states: readonly Value[]) => Value[],
  ) => {
    const body = new Body('body');
    const i = body.input('i', { kind: 'tensor', dtype: 'int64', shape: [] });
    const goOn = body.input('go_on', { kind: 'tensor', dtype: 'bool', shape: [] });
    const next = write(
      body,
      i,
      states.map((_, k) => body.input(`state${k}`)),
    );
    const graph = body.outputs(body.add('Identity', [goOn], 'still'), ...next);
    const bounds = [main.constant('count', scalar(trips)), main.constant('go', truth)];
    const names = states.map((_, k) => `last${k}`);
    return control(main, 'Loop', [...bounds, ...states], names, { body: graph });
  };

  it('that lengthens a sequence', () =>
    check([[2], [2]], (main, [h0, w]) => {
      const empty = main.add('SequenceEmpty', [], 'empty');
      const [last, all] = loop(main, 3, [h0!, empty], (body, _, [h, s]) => {
        const next = body.add('Tanh', [body.add('Mul', [h!, w!], 'hw')], 'next');
        return [next, body.add('SequenceInsert', [s!, next], 'longer')];
      });
      const stack = main.add('ConcatFromSequence', [all!], 'stack', { axis: 0, new_axis: 1 });
      // A rule that needs the number of axes, which follows from what the body puts in.
      return [last!, main.add('MatMul', [stack, main.add('Transpose', [stack], 'turned')], 'y')];
    }));

  it('that reads a sequence from outside', () =>
    check([[3, 2], [2]], (main, [x, h0]) => {
      const rows = main.add('SplitToSequence', [x!], 'rows', { axis: 0, keepdims: 0 });
      const [last] = loop(main, 3, [h0!], (body, i, [h]) => [
        body.add('Sin', [body.add('Mul', [h!, body.add('SequenceAt', [rows, i], 'row')], 'hr')], 'next'),
      ]);
      return [last!, main.add('ConcatFromSequence', [rows], 'again', { axis: 0 })];
    }));

  /** Each new element depends on the sequence so far, and stands at its end, or at its begin. */
  const readBack = (end: boolean) =>
    check([[2], [2]], (main, [x, w]) => {
      const s = main.add('SequenceConstruct', [x!], 's');
      const begin = main.constant('begin', scalar(0));
      const [t] = loop(main, 3, [s], (body, i, [own]) => {
        const before = body.add('Mul', [body.add('SequenceAt', [own!, i], 'at'), w!], 'before');
        const longer = body.add('SequenceInsert', [own!, body.add('Sin', [before], 'sin')], 'longer');
        const last = body.add('SequenceAt', [longer, body.add('Neg', [i], 'back')], 'last');
        return [
          body.add(
            'SequenceInsert',
            [longer, body.add('Exp', [last], 'exp'), ...(end ? [] : [begin])],
            'next',
          ),
        ];
      });
      return [main.add('ConcatFromSequence', [t!], 'y', { axis: 0 })];
    });
  it.each(['end', 'begin'])('that reads a sequence and puts elements at its %s', where =>
    readBack(where === 'end'),
  );
});

it('an If of which one branch reads a sequence', () =>
  check([[2], [2]], (main, [a, b]) => {
    const s = main.add('SequenceConstruct', [a!, b!], 's');
    const yes = new Body('yes');
    const no = new Body('no');
    const at = (body: Body, i: number, name: string) =>
      body.add('SequenceAt', [s, main.constant(name, scalar(i))], `${name}_y`);
    const [y] = control(main, 'If', [main.constant('cond', truth)], ['y'], {
      then_branch: yes.outputs(yes.add('Sin', [at(yes, 1, 'one')], 'yes_y')),
      else_branch: no.outputs(no.add('Cos', [at(no, 0, 'zero')], 'no_y')),
    });
    return [y!];
  }));
