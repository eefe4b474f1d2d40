import { describe, expect, it } from 'vitest';
import { type Attr, FunctionDef, Graph, Model, Node, Value } from '../../../src/graph/ir.js';
import { encodeModel } from '../../../src/graph/proto/codec.js';
import { Tensor } from '../../../src/graph/tensor.js';
import { type AttrInit, float, floats, toAttrs } from '../../../src/ops/core/builder.js';
import { upgradeOpset } from '../../../src/passes/normalize/upgrade-opset.js';
import { Session } from '../../../src/runtime/session.js';
import { bools, floatsOf, ints, spread } from '../../ops/vjp.js';

type Case = { attrs?: AttrInit; outputs?: number; constants?: readonly number[]; untyped?: boolean };

/** A model of one node; `constants` are the positions of inputs that are initializers. */
function single(opType: string, opset: number, tensors: readonly (Tensor | null)[], c: Case = {}) {
  const graph = new Graph('old');
  const feeds: Record<string, Tensor> = {};
  const inputs = tensors.map((t, i) => {
    if (!t) return null;
    const value = new Value(`x${i}`, { kind: 'tensor', dtype: t.dtype, shape: t.dims });
    if (c.constants?.includes(i)) graph.initializers.set(value, t);
    else graph.inputs.push(value);
    if (!c.constants?.includes(i)) feeds[value.name] = t;
    return value;
  });
  if (c.untyped) {
    // An Identity before the node hides its input's type from whoever does not infer types.
    const hidden = new Value('hidden');
    graph.append(new Node('Identity', [inputs[0]!], [hidden]));
    inputs[0] = hidden;
  }
  const outputs = Array.from({ length: c.outputs ?? 1 }, (_, i) => new Value(`y${i}`));
  graph.append(new Node(opType, inputs, outputs, toAttrs(c.attrs ?? {})));
  graph.outputs = [...outputs];
  const model = new Model(graph);
  model.opsetImports.set('', opset);
  return { model, feeds };
}

async function run(model: Model, feeds: Record<string, Tensor>): Promise<number[][]> {
  const session = await Session.create(encodeModel(model));
  const results = await session.run(feeds);
  await session.release();
  return model.graph.outputs.map(v => [...results[v.name]!.dims, ...results[v.name]!.numbers()]);
}

/** The runtime gives the same numbers before and after the upgrade. */
async function expectSame(model: Model, feeds: Record<string, Tensor>): Promise<void> {
  const before = await run(model, feeds);
  expect(upgradeOpset(model)).toBe(true);
  expect(model.opset).toBe(18);
  const after = await run(model, feeds);
  after.forEach((got, i) => {
    expect(got.length).toBe(before[i]!.length);
    got.forEach((g, j) => {
      expect(g).toBeCloseTo(before[i]![j]!, 6);
    });
  });
}

async function check(
  opType: string,
  opset: number,
  inputs: readonly (Tensor | null)[],
  c: Case = {},
): Promise<void> {
  const { model, feeds } = single(opType, opset, inputs, c);
  await expectSame(model, feeds);
}

describe('attributes that became inputs', () => {
  const reductions = 'L1 L2 LogSum LogSumExp Max Mean Min Prod Sum SumSquare'.split(' ');
  it.each(reductions)('Reduce%s', async op => {
    const x = spread([2, 3, 2], [0.5, 2]);
    await check(`Reduce${op}`, 7, [x], { attrs: { axes: [0, 2], keepdims: 0 } });
    await check(`Reduce${op}`, 11, [x], { attrs: { axes: [-2] } });
    await check(`Reduce${op}`, 12, [x]);
  });
  it('ReduceSum with axes from a function it stands in', async () => {
    const { model, feeds } = single('Total', 12, [spread([2, 3])], { attrs: { over: [1] } });
    model.graph.nodes[0]!.domain = 'local';
    model.opsetImports.set('local', 1);
    const total = new FunctionDef('local', 'Total');
    const [x, y] = [new Value('x'), new Value('y')];
    const sum = new Node('ReduceSum', [x], [y]);
    sum.setAttr('axes', { type: 'ref', value: 'over', of: 'ints' });
    total.attributeNames = ['over'];
    total.body.inputs = [x];
    total.body.outputs = [y];
    total.body.nodes = [sum];
    total.opsetImports.set('', 12);
    model.functions = [total];
    await expectSame(model, feeds);
    expect(total.opsetImports.get('')).toBe(18);
  });
  it('Squeeze and Unsqueeze', async () => {
    await check('Squeeze', 11, [spread([1, 3, 1])], { attrs: { axes: [0, -1] } });
    await check('Squeeze', 7, [spread([1, 3, 1])]);
    await check('Unsqueeze', 7, [spread([3])], { attrs: { axes: [0, 2] } });
  });
  it('Slice', async () => {
    await check('Slice', 9, [spread([4, 3])], { attrs: { starts: [1, -2], ends: [100, -1] } });
    await check('Slice', 7, [spread([4, 3])], { attrs: { starts: [1], ends: [2], axes: [1] } });
    const toTheEnd: Attr = { type: 'ints', value: [2n ** 63n - 1n] };
    await check('Slice', 9, [spread([4, 3])], { attrs: { starts: [1], ends: toTheEnd } });
  });
  it('Split', async () => {
    await check('Split', 7, [spread([6, 2])], { attrs: { split: [1, 2, 3] }, outputs: 3 });
    await check('Split', 11, [spread([2, 6])], { attrs: { axis: -1 }, outputs: 3 });
    await check('Split', 13, [spread([6]), ints([4, 2])], { outputs: 2 });
    await check('Split', 17, [spread([6])], { outputs: 2 });
  });
  it('Pad', async () => {
    await check('Pad', 7, [spread([2, 3])], { attrs: { pads: [1, 0, 0, 2], value: float(1.5) } });
    await check('Pad', 10, [spread([2, 3])], { attrs: { pads: [0, 1, 0, 2], mode: 'reflect' } });
    await check('Pad', 10, [Tensor.filled('float64', [2], 3)], {
      attrs: { pads: [1, 1], value: float(1.5) },
    });
  });
  it('Clip', async () => {
    const x = spread([9], [-8, 8]);
    await check('Clip', 7, [x], { attrs: { min: float(-1), max: float(6) } });
    await check('Clip', 10, [x], { attrs: { max: float(1) }, untyped: true });
    await check('Clip', 7, [x]);
  });
  it('Clip between numbers of the type of its input', async () => {
    // Two floating-point types in the model: which one the bounds must have is known only to the runtime.
    const graph = new Graph('mixed');
    const [x, half, y, z] = [
      new Value('x', { kind: 'tensor', dtype: 'float32', shape: [2] }),
      new Value('half'),
      new Value('y'),
      new Value('z'),
    ];
    graph.inputs = [x];
    graph.nodes = [
      new Node('Cast', [x], [half], toAttrs({ to: 10 })),
      new Node('Clip', [half], [y], toAttrs({ min: float(0), max: float(6) })),
      new Node('Cast', [y], [z], toAttrs({ to: 1 })),
    ];
    graph.outputs = [z];
    const model = new Model(graph);
    model.opsetImports.set('', 10);
    upgradeOpset(model);
    expect(await run(model, { x: floatsOf([-3, 8]) })).toEqual([[2, 0, 6]]);
  });
  it('TopK', () => check('TopK', 9, [spread([2, 5])], { attrs: { k: 3, axis: 1 }, outputs: 2 }));
});

describe('training', () => {
  it('Dropout', async () => {
    await check('Dropout', 7, [spread([4])], { attrs: { ratio: float(0.3) } });
    const { model } = single('Dropout', 10, [spread([4])], { attrs: { ratio: float(0.25) }, outputs: 2 });
    model.graph.outputs = model.graph.outputs.slice(0, -1);
    upgradeOpset(model);
    const [ratio, dropout] = model.graph.nodes;
    expect(dropout!.inputs[1]).toBe(ratio!.outputs[0]);
    expect(ratio!.attrs.get('value')).toMatchObject({ value: { dtype: 'float32', dims: [] } });
  });
  const statistics = [spread([3], [0.5, 2]), spread([3]), spread([3]), spread([3], [0.5, 2])];
  it('BatchNormalization', async () => {
    await check('BatchNormalization', 7, [spread([4, 3, 2]), ...statistics], { attrs: { spatial: 1 } });
    await check('BatchNormalization', 9, [spread([4, 3, 2]), ...statistics], {
      attrs: { epsilon: float(0.1) },
    });
  });
  it('BatchNormalization in training', async () => {
    const inputs = [spread([4, 3, 2]), ...statistics];
    const { model, feeds } = single('BatchNormalization', 9, inputs, {
      outputs: 5,
      attrs: { momentum: float(0.7) },
    });
    model.graph.outputs = model.graph.outputs.slice(0, 3);
    await expectSame(model, feeds);
  });
});

describe('other meanings', () => {
  describe.each(['Softmax', 'LogSoftmax', 'Hardmax'])('%s', op => {
    it.each([undefined, 0, 1, 2, -1, -2])('from axis %s on', async axis => {
      if (axis === undefined || axis >= 0) await check(op, 7, [spread([2, 3, 2])], { attrs: { axis } });
      await check(op, 11, [spread([2, 3, 2])], { attrs: { axis } });
      await check(op, 12, [spread([2, 3, 2])], { attrs: { axis }, untyped: true });
    });
    it('stays one node where the axis is the last', () => {
      const { model } = single(op, 11, [spread([2, 3])]);
      upgradeOpset(model);
      expect(model.graph.nodes.map(n => n.opType)).toEqual([op]);
    });
  });
  it('RoiAlign', () =>
    check('RoiAlign', 10, [spread([1, 1, 5, 5]), floatsOf([0.3, 0.4, 3.6, 3.2], [1, 4]), ints([0])], {
      attrs: { output_height: 2, output_width: 2, sampling_ratio: 2 },
    }));
  it('Scatter', () =>
    check('Scatter', 9, [spread([3, 2]), ints([0, 2], [1, 2]), spread([1, 2])], { attrs: { axis: 0 } }));

  const image = spread([1, 2, 4, 5]);
  it('Upsample', async () => {
    for (const mode of ['nearest', 'linear']) {
      await check('Upsample', 7, [image], { attrs: { mode, scales: floats([1, 1, 2, 1.7]) } });
      await check('Upsample', 9, [image, floatsOf([1, 1, 1.3, 3])], { attrs: { mode } });
    }
  });
  it.each([[[1, 1, 2, 1.7]], [[1, 1, 0.6, 0.5]], [[1, 1, 0.6, 1.7]]])('Resize by %j', async scales => {
    for (const mode of ['nearest', 'linear']) {
      await check('Resize', 10, [image, floatsOf(scales)], { attrs: { mode } });
      await check('Resize', 10, [image, floatsOf(scales)], { attrs: { mode }, constants: [1] });
    }
  });
  it('Resize, enlarging by known scales, stays one node', () => {
    const { model } = single('Resize', 10, [image, floatsOf([1, 1, 2, 2])], { constants: [1] });
    upgradeOpset(model);
    expect(model.graph.nodes.map(n => n.opType)).toEqual(['Resize']);
  });
  it('Resize to sizes', async () => {
    const inputs = [image, floatsOf([]), floatsOf([]), ints([1, 2, 7, 3])];
    const attrs = { mode: 'cubic', coordinate_transformation_mode: 'align_corners' };
    const { model, feeds } = single('Resize', 11, inputs, { attrs, constants: [1, 2, 3] });
    await expectSame(model, feeds);
    expect(model.graph.nodes[0]!.inputs.map(v => v?.name)).toEqual(['x0', undefined, undefined, 'x3']);
  });
  it('Resize of a region', () =>
    check(
      'Resize',
      11,
      [image, floatsOf([0, 0, 0.2, 0.3, 1, 1, 0.8, 0.9]), floatsOf([]), ints([1, 2, 3, 3])],
      {
        attrs: { mode: 'linear', coordinate_transformation_mode: 'tf_crop_and_resize' },
        constants: [1, 2, 3],
      },
    ));
  it.each([0, 1])('Scan over each element of a batch, direction %i', direction => {
    const body = new Graph('body');
    const [state, x, sum, y] = ['state', 'x', 'sum', 'y'].map(
      name => new Value(name, { kind: 'tensor', dtype: 'float32', shape: [2] }),
    );
    body.inputs = [state!, x!];
    body.nodes = [
      new Node('Add', [state!, x!], [sum!]),
      new Node('Clip', [sum!], [y!], toAttrs({ max: float(0.5) })),
    ];
    body.outputs = [sum!, y!];
    const attrs = { body, num_scan_inputs: 1, directions: [direction] };
    return check('Scan', 8, [null, spread([3, 2]), spread([3, 4, 2])], { attrs, outputs: 2 });
  });
});

describe('models', () => {
  it('reach subgraphs', async () => {
    const branch = (axes: number[]) => {
      const graph = new Graph(`branch_${axes}`);
      const value = new Value(`y_${axes}`);
      graph.nodes = [new Node('ReduceMean', [x], [value], toAttrs({ axes, keepdims: 0 }))];
      graph.outputs = [value];
      return graph;
    };
    const { model, feeds } = single('If', 11, [bools([1], [])]);
    const x = new Value('x', { kind: 'tensor', dtype: 'float32', shape: [2, 2] });
    model.graph.inputs.push(x);
    feeds.x = spread([2, 2]);
    model.graph.nodes[0]!.attrs = toAttrs({ then_branch: branch([0]), else_branch: branch([1]) });
    await expectSame(model, feeds);
  });
  it('whose initializers are inputs too lose these inputs', () => {
    const { model } = single('Add', 7, [spread([2]), spread([2])], { constants: [1] });
    model.irVersion = 3;
    model.graph.inputs.push(...model.graph.initializers.keys());
    expect(upgradeOpset(model)).toBe(true);
    expect(model.graph.inputs.map(v => v.name)).toEqual(['x0']);
    expect(model.irVersion).toBe(8);
  });
  it('of the operator set, or of a newer one, are left alone', () => {
    for (const opset of [18, 21]) {
      const { model } = single('Add', opset, [spread([2]), spread([2])]);
      expect(upgradeOpset(model)).toBe(false);
      expect(model.opset).toBe(opset);
    }
  });

  it.each([
    [
      { op: 'Affine', opset: 7 },
      "Cannot upgrade 'Affine' (node 'y0') of operator set 7: ONNX withdrew this operator.",
    ],
    [{ op: 'BatchNormalization', opset: 7, attrs: { spatial: 0 } }, 'statistics of single elements'],
    [{ op: 'Dropout', opset: 7, outputs: 2 }, 'its mask is read'],
    [{ op: 'BatchNormalization', opset: 9, outputs: 5 }, 'its saved statistics are read'],
  ])('refuse %j', (c, message) => {
    const { model } = single(c.op, c.opset, [spread([2])], c as Case);
    expect(() => upgradeOpset(model)).toThrow(message);
  });
  it('refuse a Scan over sequences of different lengths', () => {
    const attrs = { body: new Graph('body'), num_scan_inputs: 1 };
    const { model } = single('Scan', 8, [ints([1, 2]), spread([2, 3, 2])], { attrs });
    expect(() => upgradeOpset(model)).toThrow('sequences of different lengths');
  });
});
