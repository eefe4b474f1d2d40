import { describe, expect, it } from 'vitest';
import { type AttrInit, float } from '../../src/ops/core/builder.js';
import { Body, control, float32, model } from './body.js';
import { bools, checkModel, floatsOf, gradients, ints, spread } from './vjp.js';

describe('If', () => {
  it.each([0, 1])('takes the gradient of the branch with condition %i', async taken => {
    const main = new Body('main');
    const cond = main.input('cond', { kind: 'tensor', dtype: 'bool', shape: [] });
    const [x, w] = [main.input('x', float32([2, 3])), main.input('w', float32([3]))];
    const yes = new Body('yes');
    yes.add('Mul', [x, w], 'yes_y');
    const no = new Body('no');
    const t = no.add('Tanh', [x], 'no_t');
    const [y, z] = control(main, 'If', [cond], ['y', 'z'], {
      then_branch: yes.outputs(yes.graph.nodes[0]!.outputs[0]!, yes.add('Exp', [w], 'yes_z')),
      else_branch: no.outputs(no.add('Add', [t, t], 'no_y'), no.add('Sin', [w], 'no_z')),
    });
    const tensors = [bools([taken], []), spread([2, 3]), spread([3], [-1, 1], 2)];
    await checkModel(model(main, [y!, z!]), [cond, x, w], [y!, z!], tensors);
  });
});

it.each([0, 1])('takes zeros that a branch returns as they are, condition %i', async taken => {
  const main = new Body('main');
  const cond = main.input('cond', { kind: 'tensor', dtype: 'bool', shape: [] });
  const x = main.input('x', float32([2]));
  const [yes, no] = [new Body('yes'), new Body('no')];
  const [y] = control(main, 'If', [cond], ['y'], {
    then_branch: yes.outputs(yes.constant('none', floatsOf([0, 0]))),
    else_branch: no.outputs(no.add('Sin', [x], 'some')),
  });
  await checkModel(model(main, [y!]), [cond, x], [y!], [bools([taken], []), spread([2])]);
});

describe('Scan', () => {
  /** h = tanh(x w + h u), all h stacked; w and u are captured. */
  function recurrence(attrs: AttrInit, symbolic: boolean) {
    const main = new Body('main');
    const dim = (name: string, n: number) => (symbolic ? name : n);
    const h0 = main.input('h0', float32([dim('b', 2), 3]));
    const x = main.input('x', float32([dim('t', 4), dim('b', 2), 3]));
    const [w, u] = [main.input('w', float32([3, 3])), main.input('u', float32([3, 3]))];
    const body = new Body('body');
    const [h, slice] = [body.input('h'), body.input('slice')];
    const sum = body.add(
      'Add',
      [body.add('MatMul', [slice, w], 'xw'), body.add('MatMul', [h, u], 'hu')],
      'sum',
    );
    const next = body.add('Tanh', [sum], 'next');
    const graph = body.outputs(next, body.add('Mul', [next, slice], 'out'));
    const [last, all] = control(main, 'Scan', [h0, x], ['last', 'all'], {
      body: graph,
      num_scan_inputs: 1,
      ...attrs,
    });
    return { model: model(main, [last!, all!]), ins: [h0, x, w, u], outs: [last!, all!] };
  }
  const tensors = [
    spread([2, 3]),
    spread([4, 2, 3], [-1, 1], 2),
    spread([3, 3], [-1, 1], 3),
    spread([3, 3], [-1, 1], 4),
  ];

  it.each([
    {},
    { scan_input_directions: [1] },
    { scan_output_directions: [1] },
    { scan_input_directions: [1], scan_output_directions: [1] },
  ])('with %j', async attrs => {
    for (const symbolic of [false, true]) {
      const { model: m, ins, outs } = recurrence(attrs, symbolic);
      await checkModel(m, ins, outs, tensors);
    }
  });
  it('of which only the last state is read', async () => {
    const { model: m, ins, outs } = recurrence({}, false);
    await checkModel(m, ins, outs, tensors, { cotangents: [0] });
  });
  it('along other axes', async () => {
    const main = new Body('main');
    const [s0, x] = [main.input('s0', float32([2])), main.input('x', float32([2, 3]))];
    const body = new Body('body');
    const [s, slice] = [body.input('s'), body.input('slice')];
    const next = body.add('Mul', [s, body.add('Exp', [slice], 'e')], 'next');
    const graph = body.outputs(next, body.add('Sin', [next], 'out'));
    const attrs = { body: graph, num_scan_inputs: 1, scan_input_axes: [1], scan_output_axes: [1] };
    const outs = control(main, 'Scan', [s0, x], ['last', 'all'], attrs);
    await checkModel(model(main, outs), [s0, x], outs, [spread([2]), spread([2, 3], [-1, 1], 2)]);
  });
});

describe('Loop', () => {
  /** v = sin(v w) + c, with c a weight of the body, while the trip count lasts and the condition holds. */
  function iteration(trips: number, until?: number) {
    const main = new Body('main');
    const count = main.constant('count', ints([trips], []));
    const cond = main.constant('cond', bools([1], []));
    const [v0, w] = [main.input('v0', float32([3])), main.input('w', float32([3]))];
    const body = new Body('body');
    const [iter, keep, v] = [
      body.input('iter', { kind: 'tensor', dtype: 'int64', shape: [] }),
      body.input('keep', { kind: 'tensor', dtype: 'bool', shape: [] }),
      body.input('v', float32([3])),
    ];
    const c = body.constant('c', floatsOf([0.1, 0.2, 0.3]));
    const next = body.add('Add', [body.add('Sin', [body.add('Mul', [v, w], 'vw')], 'sin'), c], 'next');
    const goOn =
      until === undefined
        ? body.add('Identity', [keep], 'go_on')
        : body.add('Less', [iter, body.constant('until', ints([until], []))], 'go_on');
    const graph = body.outputs(goOn, next, body.add('Mul', [next, next], 'out'));
    const outs = control(main, 'Loop', [count, cond, v0, w].slice(0, 3), ['v', 'all'], { body: graph });
    return { model: model(main, outs), ins: [v0, w, null], outs, c };
  }
  it.each([
    [4, undefined],
    [1, undefined],
    [0, undefined],
    [9, 2],
  ])('of %j trips, until %j', async (trips, until) => {
    const { model: m, ins, outs } = iteration(trips, until);
    await checkModel(m, ins, outs, [spread([3]), spread([3], [-1, 1], 2), null]);
    const again = iteration(trips, until);
    await checkModel(again.model, again.ins, again.outs, [spread([3]), spread([3], [-1, 1], 2), null], {
      cotangents: [0],
    });
  });
  it.each([[[0, 1]], [[1]]])('whose carried value grows, cotangents of %j', async cotangents => {
    const main = new Body('main');
    const bounds = [main.constant('count', ints([3], [])), main.constant('cond', bools([1], []))];
    const [v0, w] = [main.input('v0', float32([1, 2])), main.input('w', float32([1, 2]))];
    const body = new Body('body');
    body.input('iter', { kind: 'tensor', dtype: 'int64', shape: [] });
    const keep = body.input('keep', { kind: 'tensor', dtype: 'bool', shape: [] });
    const v = body.input('v', float32());
    const more = body.add('Sin', [body.add('Mul', [v, w], 'vw')], 'more');
    const sum = body.add('ReduceSum', [more], 'sum', { keepdims: 0 });
    const next = body.add('Concat', [v, more], 'next', { axis: 0 });
    const graph = body.outputs(body.add('Identity', [keep], 'go_on'), next, sum);
    const outs = control(main, 'Loop', [...bounds, v0], ['last', 'sums'], { body: graph });
    const tensors = [spread([1, 2]), spread([1, 2], [-1, 1], 2)];
    await checkModel(model(main, outs), [v0, w], outs, tensors, { cotangents });
  });
  it('that carries a value unchanged, within a Loop, with a Scan in it', async () => {
    const main = new Body('main');
    const [v0, w, x] = [
      main.input('v0', float32([2])),
      main.input('w', float32([2])),
      main.input('x', float32([3, 2])),
    ];
    const begin = (body: Body, level: string) => [
      body.input(`iter_${level}`, { kind: 'tensor', dtype: 'int64', shape: [] }),
      body.input(`keep_${level}`, { kind: 'tensor', dtype: 'bool', shape: [] }),
      body.input(`v_${level}`, float32([2])),
      body.input(`w_${level}`, float32([2])),
    ];
    const bounds = ['outer', 'inner'].map(level => [
      main.constant(`count_${level}`, ints([2], [])),
      main.constant(`cond_${level}`, bools([1], [])),
    ]);
    const step = new Body('step');
    const [h, slice] = [step.input('h', float32([2])), step.input('slice', float32([2]))];
    const [outer, inner] = [new Body('outer'), new Body('inner')];
    const [, keep, v, own] = begin(outer, 'outer');
    const [, keepInner, vInner, ownInner] = begin(inner, 'inner');
    const next = step.add(
      'Sin',
      [step.add('Add', [step.add('Mul', [h, ownInner!], 'ho'), slice], 'hos')],
      'next',
    );
    const scanned = { body: step.outputs(next), num_scan_inputs: 1 };
    const [scan] = control(inner, 'Scan', [vInner!, x], ['scan'], scanned);
    const same = inner.add('Identity', [ownInner!], 'same_inner');
    const innerBody = inner.outputs(inner.add('Identity', [keepInner!], 'on_inner'), scan!, same);
    const [vNext] = control(outer, 'Loop', [...bounds[1]!, v!, own!], ['v_next', 'w_next'], {
      body: innerBody,
    });
    const outerBody = outer.outputs(
      outer.add('Identity', [keep!], 'on_outer'),
      outer.add('Mul', [vNext!, own!], 'v_last'),
      outer.add('Identity', [own!], 'same_outer'),
    );
    const outs = control(main, 'Loop', [...bounds[0]!, v0, w], ['v', 'w_same'], { body: outerBody });
    const tensors = [spread([2]), spread([2], [-1, 1], 2), spread([3, 2], [-1, 1], 3)];
    await checkModel(model(main, outs), [v0, w, x], outs, tensors);
  });
});

describe('random numbers in a body', () => {
  /** The slices of x times the state before, which starts with w; random numbers come to the products. */
  const noisy = (op: 'Add' | 'Mul', attrs: AttrInit = {}) => {
    const main = new Body('main');
    const [w, x] = [main.input('w', float32([3])), main.input('x', float32([2, 3]))];
    const body = new Body('body');
    const [state, slice] = [body.input('state'), body.input('slice')];
    const noise = body.add('RandomNormalLike', [slice], 'noise', attrs);
    const next = body.add('Mul', [state, slice], 'next');
    const graph = body.outputs(next, body.add(op, [noise, next], 'out'));
    const made = control(main, 'Scan', [w, x], ['last', 'all'], { body: graph, num_scan_inputs: 1 });
    return { model: model(main, made), w, dys: { all: spread([2, 3]) } };
  };
  const feeds = { w: spread([3]), x: spread([2, 3], [1, 2]) };
  const gradientOf = ({ model, w, dys }: ReturnType<typeof noisy>) => gradients(model, [w], dys, feeds);

  it('are refused where the backward pass would read others', async () => {
    await expect(gradientOf(noisy('Mul'))).rejects.toThrow(/random numbers in its body/);
    await expect(gradientOf(noisy('Mul', { seed: float(1) }))).rejects.toThrow(/random numbers in its body/);
  });
  it('need a seed in a branch, with which both passes draw the same', async () => {
    const branched = (attrs: AttrInit) => {
      const main = new Body('main');
      const w = main.input('w', float32([3]));
      const taken = main.constant('taken', bools([1], []));
      const branch = (name: string) => {
        const body = new Body(name);
        const noise = body.add('RandomNormalLike', [w], `${name}_noise`, attrs);
        return body.outputs(body.add('Mul', [noise, w], `${name}_y`));
      };
      const branches = { then_branch: branch('yes'), else_branch: branch('no') };
      const [y] = control(main, 'If', [taken], ['y'], branches);
      return gradients(model(main, [y!]), [w], { y: floatsOf([1, 1, 1]) }, { w: spread([3]) });
    };
    await branched({ seed: float(1) });
    await expect(branched({})).rejects.toThrow(/random numbers in its body/);
  });
  it('are nothing to it where it reads none', async () => {
    await gradientOf(noisy('Add'));
  });
});
