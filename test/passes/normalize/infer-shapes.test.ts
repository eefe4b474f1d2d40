import { expect, it } from 'vitest';
import { Graph, Model, Node, type Shape, Value } from '../../../src/graph/ir.js';
import { listTypes } from '../../../src/graph/proto/codec.js';
import { Tensor } from '../../../src/graph/tensor.js';
import { toAttrs } from '../../../src/ops/core/builder.js';
import { inferShapes } from '../../../src/passes/normalize/infer-shapes.js';
import { Session, sessionShapes } from '../../../src/runtime/session.js';
import { spread } from '../../ops/vjp.js';
import { Sketch } from '../../sample.js';

it('distinguishes an unknown rank from a scalar, and infers ranks from inputs', async () => {
  const x = new Value('x', { kind: 'tensor', dtype: 'float32', shape: [2, 'n'] });
  const axes = new Value('axes', { kind: 'tensor', dtype: 'int64', shape: [1] });
  const [total, dropped, kept, root] = ['total', 'dropped', 'kept', 'root'].map(name => new Value(name));
  const graph = new Graph('test');
  graph.inputs = [x, axes];
  graph.nodes = [
    new Node('ReduceSum', [x], [total!], toAttrs({ keepdims: 0 })),
    new Node('ReduceSum', [x, axes], [dropped!], toAttrs({ keepdims: 0 })),
    new Node('ReduceSum', [x, axes], [kept!]),
    new Node('Sqrt', [kept!], [root!]),
  ];
  graph.outputs = [new Value('root')];
  const model = new Model(graph);
  model.opsetImports = new Map([['', 18]]);
  expect(await inferShapes(model, sessionShapes)).toBe(true);
  expect(total!.shape).toEqual([]);
  expect(dropped!.shape).toBeUndefined();
  expect(kept!.shape).toEqual([null, null]);
  expect(root!.shape).toEqual([null, null]);
});

it('gives an element of a sequence its rank, where the runtime takes it for a scalar', async () => {
  const s = new Sketch();
  const place = s.weight('place', Tensor.zeros('int64', []));
  const x = s.input('x', ['n', 6]);
  const lengths = s.add('Constant', [], 'lengths', { value_ints: [2, 4] });
  const parts = s.add('SplitToSequence', [x, lengths], 'parts', { axis: 1 });
  const part = s.add('SequenceAt', [parts, place], 'part');
  const sum = s.add('ReduceSum', [x], 'sum', { keepdims: 0 });
  const scalar = s.add('SequenceAt', [s.add('SequenceConstruct', [sum], 'scalars'), place], 'scalar');
  // As it does in some graphs, with an extent of 0 for the element's Shape.
  const told = async (model: Model) => {
    const types = await sessionShapes(model);
    if (types.has('part')) types.set('part', { kind: 'tensor', dtype: 'float32', shape: [] });
    if (types.has('part_shape')) types.set('part_shape', { kind: 'tensor', dtype: 'int64', shape: [0] });
    return types;
  };
  await inferShapes(s.model([s.add('Add', [part, scalar], 'y')]), told);
  expect([part.shape, scalar.shape]).toEqual([['n', null], []]);
});

it('gives a pool that rounds up the windows that the kernel computes', async () => {
  const s = new Sketch();
  // Rounded up (2 - 1) / 2 + 1 are two windows, of which the second would begin after the end.
  const attrs = { kernel_shape: [1, 1], strides: [2, 2], ceil_mode: 1 };
  const y = s.add('MaxPool', [s.input('x', [1, 1, 2, 2])], 'y', attrs);
  const model = s.model([y]);
  await inferShapes(model, sessionShapes);
  const session = await Session.create(model);
  const { y: got } = await session.run({ x: spread([1, 1, 2, 2]) });
  await session.release();
  expect(y.shape).toEqual(got!.dims);
});

/** A node in the middle of a graph, between others, on inputs of these shapes. */
function between(opType: string, shapes: readonly Shape[]): { model: Model; y: Value } {
  const s = new Sketch();
  const inputs = shapes.map((shape, i) => s.add('Neg', [s.input(`x${i}`, shape)], `n${i}`));
  const y = s.add(opType, inputs, 'y');
  return { model: s.model([s.add('Neg', [y], 'z')]), y };
}

it.each<[string, Shape[]]>([
  ...['Neg', 'Exp', 'Sqrt', 'Tanh', 'Sigmoid', 'Relu', 'Softplus', 'Softsign', 'Identity'].map(
    (op): [string, Shape[]] => [op, [['n', 3, null]]],
  ),
  ['Log', [[]]],
  ['Add', [[2, 3], [3]]],
  [
    'Sub',
    [
      ['n', 1],
      ['n', 'm'],
    ],
  ],
  [
    'Mul',
    [
      ['n', 4],
      ['m', 1],
    ],
  ],
  ['Div', [['n'], [5]]],
  [
    'Add',
    [
      [null, 2],
      ['n', 1],
    ],
  ],
  [
    'Mul',
    [
      [0, 3],
      [1, 3],
    ],
  ],
  ['Add', [[], [2, 'n']]],
  [
    'MatMul',
    [
      ['n', 3],
      [3, 4],
    ],
  ],
  ['MatMul', [[3], [3]]],
  ['MatMul', [[3], [3, 4]]],
  ['MatMul', [[2, 'n'], ['n']]],
  [
    'MatMul',
    [
      ['b', 1, 2, 'n'],
      [7, 'm', 5],
    ],
  ],
  ['MatMul', [[4], ['b', 4, 5]]],
])('types %s of %j without the runtime, as the runtime would', async (op, shapes) => {
  const { model, y } = between(op, shapes);
  let asked: Model | undefined;
  await inferShapes(model, probe => {
    asked ??= probe;
    return sessionShapes(probe);
  });
  expect(asked!.graph.nodes.map(node => node.outputs[0]!.name)).toEqual(['z']);
  const whole = between(op, shapes).model;
  whole.graph.outputs = [new Value('y')];
  const told = (await sessionShapes(whole)).get('y');
  expect(told).toBeDefined();
  expect(y.type).toEqual(told);
});

it.each<[string, Shape[]]>([
  [
    'Add',
    [
      [2, 3],
      [4, 3],
    ],
  ],
  ['Add', [['n', 2], [3]]],
  [
    'MatMul',
    [
      ['n', 3],
      [4, 2],
    ],
  ],
  [
    'MatMul',
    [
      [2, 3, 4],
      [3, 4, 5],
    ],
  ],
  ['MatMul', [[], [3]]],
  ['Tanh', [[2], [2]]],
  ['Add', [[2]]],
])('lets the runtime refuse %s of %j', async (op, shapes) => {
  await expect(inferShapes(between(op, shapes).model, sessionShapes)).rejects.toThrow(
    expect.objectContaining({ code: 'runtime' }),
  );
});

it('continues to query if a value determines a shape', async () => {
  const s = new Sketch();
  const shift = s.weight('shift', [6]);
  const sum = s.add('Add', [s.input('x', ['n', 6]), shift], 'sum');
  const shape = s.weight('shape', Tensor.ints([0, 2, 3]));
  const y = s.add('Reshape', [sum, shape], 'y');
  const z = s.add('Neg', [y], 'z');
  const body = new Graph('then');
  body.outputs = [new Value('inner')];
  body.nodes = [new Node('Neg', [sum], [body.outputs[0]!])];
  const other = new Graph('else');
  other.outputs = [new Value('outer')];
  other.nodes = [new Node('Abs', [sum], [other.outputs[0]!])];
  const chosen = s.add('If', [s.input('c', [], 'bool')], 'chosen', { then_branch: body, else_branch: other });
  const model = s.model([z, chosen]);
  const inputs: string[][] = [];
  await inferShapes(model, probe => {
    inputs.push([...probe.graph.inputs, ...probe.graph.initializers.keys()].map(v => v.name));
    return sessionShapes(probe);
  });
  expect(inputs[0]).toEqual(['x', 'c', 'sum', 'shape']);
  expect(z.shape).toEqual(['n', 2, 3]);
  expect(chosen.shape).toEqual(['n', 6]);
});

it('queries without the contents of large tensors, integers too', async () => {
  const s = new Sketch();
  const packed = s.weight('packed', Tensor.zeros('uint8', [300, 300]));
  const y = s.add('DequantizeLinear', [packed, s.weight('scale', [])], 'y');
  const model = s.model([y]);
  const stored: string[] = [];
  await inferShapes(model, probe => {
    stored.push(...[...probe.graph.initializers.keys()].map(v => v.name));
    return sessionShapes(probe);
  });
  expect(stored).toEqual(['scale']);
  expect(y.shape).toEqual([300, 300]);
});

it('takes a declared number for the named extent that an operator passes on, and no other one', async () => {
  const s = new Sketch();
  const x = s.input('x', ['b', 't', 3]);
  const declared = (value: Value, shape: Shape) =>
    Object.assign(value, { type: { kind: 'tensor', dtype: 'float32', shape } });
  const rows = declared(s.add('Transpose', [x], 'rows', { perm: [1, 0, 2] }), [4, 'b', 3]);
  const y = declared(s.add('MatMul', [rows, s.weight('w', [3, 2])], 'y'), [4, 'b', 2]);
  const sum = declared(s.add('Add', [y, s.weight('four', [4, 1, 2])], 'sum'), [4, 'b', 2]);
  const flat = declared(s.add('Reshape', [y, s.weight('shape', Tensor.ints([-1, 2]))], 'flat'), [8, 2]);
  const z = declared(s.add('Softmax', [y], 'z'), [4, 'b', 2]);
  const model = s.model([sum, flat, z]);
  listTypes(model.graph, [rows, y]);
  await inferShapes(model, sessionShapes);
  expect([rows, y, z].map(v => v.shape)).toEqual([
    ['t', 'b', 3],
    ['t', 'b', 2],
    ['t', 'b', 2],
  ]);
  expect(sum.shape).toEqual([4, 'b', 2]);
  expect(flat.shape![1]).toBe(2);
});
