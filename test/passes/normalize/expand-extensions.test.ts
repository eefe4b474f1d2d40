import { expect, it } from 'vitest';
import { type Expr, expansion } from '../../../src/extend.js';
import { allGraphs, FunctionDef, type Model, type Value } from '../../../src/graph/ir.js';
import { Tensor } from '../../../src/graph/tensor.js';
import { addOperator, loadOperators } from '../../../src/ops/index.js';
import { inject } from '../../../src/passes/inject.js';
import { checkGradients } from '../../../src/runtime/check-gradients.js';
import { gradients } from '../../../src/runtime/gradients.js';
import { sessionShapes } from '../../../src/runtime/session.js';
import { Body, control, float32, model } from '../../ops/body.js';
import { spread } from '../../ops/vjp.js';

await loadOperators();

// Needs the number of axes, so that the types of what an operator reads have to be known where it is replaced.
addOperator(
  { domain: 'com.example', opType: 'Center' },
  expansion<readonly [Expr]>(({ inputs: [x] }) => [x.sub(x.mean([x.rank - 1], { keepdims: true })).tanh()]),
);

const center = (b: Body, x: Value, name: string) => {
  const y = b.add('Center', [x], name);
  b.graph.nodes.at(-1)!.domain = 'com.example';
  return y;
};
/** The same in standard operators. */
const written: typeof center = (b, x, name) => {
  const axes = b.add('Constant', [], `${name}_axes`, { value: Tensor.ints([-1]) });
  const mean = b.add('ReduceMean', [x, axes], `${name}_mean`);
  return b.add('Tanh', [b.add('Sub', [x, mean], `${name}_centered`)], name);
};

type Op = typeof center;

function start() {
  const main = new Body('main');
  const x = main.input('x', float32(['n', 4]));
  const w = main.constant('w', spread([4, 4], [-1, 1], 3));
  return { main, h: main.add('MatMul', [x, w], 'h'), w };
}

const trip = (main: Body, count: number) => [
  main.constant('count', Tensor.from('int64', [], BigInt64Array.of(BigInt(count)))),
  main.constant('yes', Tensor.filled('bool', [], 1)),
];

function loopBody(condition: string) {
  const body = new Body('body');
  body.input('i', { kind: 'tensor', dtype: 'int64', shape: [] });
  const going = body.input('going', { kind: 'tensor', dtype: 'bool', shape: [] });
  const state = body.input('state');
  return { body, state, stays: () => body.add('Identity', [going], condition) };
}

const MODELS: Record<string, (op: Op) => Model> = {
  'a branch'(op) {
    const { main, h, w } = start();
    const [yes, no] = [new Body('yes'), new Body('no')];
    yes.outputs(op(yes, yes.add('MatMul', [op(yes, h, 'a'), w], 'b'), 'c'));
    no.outputs(no.add('Neg', [h], 'd'));
    const total = main.add('ReduceMax', [h], 'max', { keepdims: 0 });
    const condition = main.add(
      'Greater',
      [total, main.constant('low', Tensor.filled('float32', [], -1e9))],
      'is',
    );
    const branches = { then_branch: yes.graph, else_branch: no.graph };
    return model(main, control(main, 'If', [condition], ['y'], branches));
  },
  'a loop that reads what another writes before it'(op) {
    const { main, h } = start();
    const before = op(main, h, 'before');
    const { body, state, stays } = loopBody('on');
    body.outputs(stays(), body.add('Add', [op(body, state, 's'), before], 'next'));
    return model(main, control(main, 'Loop', [...trip(main, 3), h], ['y'], { body: body.graph }));
  },
  'a loop whose state grows'(op) {
    const { main, h } = start();
    const { body, state, stays } = loopBody('on');
    body.outputs(stays(), body.add('Concat', [state, op(body, state, 's')], 'next', { axis: 0 }));
    const [grown] = control(main, 'Loop', [...trip(main, 2), h], ['grown'], { body: body.graph });
    return model(main, [main.add('Mul', [grown!, grown!], 'y')]);
  },
  'a scan'(op) {
    const { main, h } = start();
    const body = new Body('body');
    const [state, row] = [body.input('state'), body.input('row')];
    const next = body.add('Add', [op(body, state, 's'), row], 'next');
    body.outputs(next, op(body, next, 'given'));
    const zero = main.constant('zero', spread([4], [0, 1], 5));
    const attrs = { body: body.graph, num_scan_inputs: 1 };
    return model(main, [control(main, 'Scan', [zero, h], ['last', 'y'], attrs)[1]!]);
  },
  'a branch in a loop'(op) {
    const { main, h } = start();
    const { body, state, stays } = loopBody('on');
    const [yes, no] = [new Body('yes'), new Body('no')];
    yes.outputs(op(yes, body.add('Sin', [state], 'sin'), 'a'));
    no.outputs(no.add('Neg', [state], 'b'));
    const branches = { then_branch: yes.graph, else_branch: no.graph };
    const [next] = control(body, 'If', [body.graph.inputs[1]!], ['next'], branches);
    body.outputs(stays(), next!);
    return model(main, control(main, 'Loop', [...trip(main, 2), h], ['y'], { body: body.graph }));
  },
  'a function, and a branch in it'(op) {
    const { main, h } = start();
    const f = new FunctionDef('local', 'F');
    const body = new Body('F');
    const a = body.input('a');
    const inner = op(body, a, 'inner');
    const flag = body.add(
      'Cast',
      [body.add('ReduceMax', [body.add('Abs', [inner], 'abs')], 'm', { keepdims: 0 })],
      'flag',
      {
        to: 9,
      },
    );
    const [yes, no] = [new Body('yes'), new Body('no')];
    yes.outputs(op(yes, inner, 'c'));
    no.outputs(no.add('Neg', [inner], 'd'));
    const branches = { then_branch: yes.graph, else_branch: no.graph };
    body.outputs(control(body, 'If', [flag], ['out'], branches)[0]!);
    f.body = body.graph;
    f.opsetImports = new Map([
      ['', 18],
      ['com.example', 1],
    ]);
    const y = main.add('F', [h], 'y');
    main.graph.nodes.at(-1)!.domain = 'local';
    const made = model(main, [y]);
    made.functions = [f];
    made.opsetImports.set('local', 1);
    return made;
  },
};

it.each(Object.entries(MODELS))('replaces an operator in %s', async (_, make) => {
  const feeds = { x: spread([3, 4], [-1, 1], 7) };
  const options = { wrt: ['x', 'w'], cotangents: ['y'] };
  const ours = make(center);
  ours.opsetImports.set('com.example', 1);
  const standard = make(written);
  const dy = async (of: Model) => ({ ...feeds, y_cotangent: spread(await shapeOf(of), [-1, 1], 9) });
  const fed = await dy(standard);
  const found = await gradients(ours, options, fed);
  const wanted = await gradients(standard, options, fed);
  for (const [name, tensor] of wanted.gradients) {
    const expected = tensor.numbers();
    found.gradients
      .get(name)!
      .numbers()
      .forEach((x, i) => {
        expect(x).toBeCloseTo(expected[i]!, 5);
      });
  }
  const checks = await checkGradients(ours, options, fed, found);
  expect(checks.map(c => [c.name, c.passed])).toEqual(checks.map(c => [c.name, true]));
  const { model: injected } = await inject(ours, { loss: { kind: 'mse' } }, sessionShapes);
  const left = [...allGraphs(injected.graph)].flatMap(graph =>
    graph.nodes.filter(n => n.domain === 'com.example'),
  );
  expect(left).toEqual([]);
});

async function shapeOf(of: Model): Promise<number[]> {
  const { Session } = await import('../../../src/runtime/session.js');
  const runner = await Session.create(of);
  const { y } = await runner.run({ x: spread([3, 4], [-1, 1], 7) });
  await runner.release();
  return [...y!.dims];
}
