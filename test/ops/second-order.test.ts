import { describe, it } from 'vitest';
import { Graph, Model, Node, Value } from '../../src/graph/ir.js';
import { Names } from '../../src/graph/names.js';
import { encodeModel } from '../../src/graph/proto/codec.js';
import type { Tensor } from '../../src/graph/tensor.js';
import { backward } from '../../src/ir.js';
import { type AttrInit, Builder, float, toAttrs } from '../../src/ops/core/builder.js';
import { inferShapes } from '../../src/passes/normalize/infer-shapes.js';
import { Session, sessionShapes } from '../../src/runtime/session.js';
import { checkModel, floatsOf, ints, spread } from './vjp.js';

const operands = [spread([2, 3], [0.2, 0.9]), spread([3], [1, 2], 7)];

describe('twice differentiable', () => {
  it.each(
    (
      'Exp Log Sqrt Reciprocal Sin Cos Tan Asin Acos Atan Sinh Cosh Asinh Atanh Erf ' +
      'Elu Selu Celu Sigmoid Tanh HardSwish Softplus Softsign Mish Softmax LogSoftmax'
    ).split(' '),
  )('%s', op => checkTwice(op, [spread([2, 3], op.endsWith('elu') ? [-2, -0.1] : [0.2, 0.9])]));
  it.each('Mul Div Pow'.split(' '))('%s', op => checkTwice(op, operands));
  it('Acosh', () => checkTwice('Acosh', [spread([2, 3], [1.5, 3])]));
  it('Pow at 0', () => checkTwice('Pow', [floatsOf([0, 0, 0.5, -1]), ints([0, 2, 2, 3])]));
  it.each(['none', 'tanh'])('Gelu %s', approximate =>
    checkTwice('Gelu', [spread([2, 3])], { approximate }, 20),
  );
  it('Swish', () => checkTwice('Swish', [spread([2, 3])], { alpha: float(1.5) }, 24));
  it('PRelu', () => checkTwice('PRelu', [spread([2, 3], [-1, -0.1]), spread([3])]));
  it('MatMul', () => checkTwice('MatMul', [spread([2, 2, 3]), spread([3, 2], [-1, 1], 2)]));
  it('Gemm', () => checkTwice('Gemm', [spread([2, 3]), spread([3, 2], [-1, 1], 2)], { alpha: float(0.5) }));
  it.each(['ij,jk->ik', 'ij,jj->i', 'ij,jk->'])('Einsum %s', equation =>
    checkTwice('Einsum', [spread([2, 3]), spread([3, 3], [-1, 1], 2)], { equation }),
  );
  it('Det', () => checkTwice('Det', [spread([3, 3])]));
  describe.each('Prod L2 LogSum LogSumExp SumSquare'.split(' '))('Reduce%s', reduction => {
    it.each([0, 1])('keepdims %i', keepdims =>
      checkTwice(`Reduce${reduction}`, [spread([2, 3], [0.5, 2]), ints([1])], { keepdims }),
    );
  });
  it('CumProd', () => checkTwice('CumProd', [spread([2, 3], [0.5, 2]), ints([1], [])], {}, 26));
});

/** The second derivative is zero, and only the cotangent has a gradient. */
describe('linear, at least in pieces', () => {
  it.each('Neg Abs Relu LeakyRelu ThresholdedRelu Shrink HardSigmoid'.split(' '))('%s', op =>
    checkTwice(op, [spread([2, 3])], {}, 18, 'dy'),
  );
  it.each('Add Sub Max Min Sum Mean'.split(' '))('%s', op => checkTwice(op, operands, {}, 18, 'dy'));
  it('Mod', () => checkTwice('Mod', [spread([2, 3]), floatsOf([1.2])], { fmod: 1 }, 18, 'dy'));
  it('Clip', () =>
    checkTwice('Clip', [spread([2, 3]), floatsOf([-1], []), floatsOf([0.7], [])], {}, 18, 'dy'));
  it.each('Sum Mean Max Min L1'.split(' '))('Reduce%s', reduction =>
    checkTwice(`Reduce${reduction}`, [spread([2, 3]), ints([1])], { keepdims: 0 }, 18, 'dy'),
  );
  it('CumSum', () => checkTwice('CumSum', [spread([2, 3]), ints([1], [])], {}, 18, 'dy'));
});

/** Checks the gradient of the operator's vector-Jacobian product, for its inputs and for the cotangent. */
async function checkTwice(
  op: string,
  tensors: Tensor[],
  attrs: AttrInit = {},
  opset = 18,
  only?: 'dy',
): Promise<void> {
  const graph = new Graph('test');
  const ins = tensors.map((t, i) => new Value(`x${i}`, { kind: 'tensor', dtype: t.dtype, shape: t.dims }));
  const y = new Value('y');
  graph.inputs = [...ins];
  graph.nodes = [new Node(op, ins, [y], toAttrs(attrs))];
  graph.outputs = [new Value('y')];
  const model = new Model(graph);
  model.opsetImports = new Map([['', opset]]);
  const forward = await Session.create(encodeModel(model));
  const feeds = Object.fromEntries(tensors.map((t, i) => [`x${i}`, t]));
  const dims = (await forward.run(feeds)).y!.dims;
  await forward.release();
  await inferShapes(model, sessionShapes);
  const g = new Builder(graph, { names: Names.of(model), opsets: model.opsetImports });
  const dy = g.newValue('dy', { kind: 'tensor', dtype: 'float32', shape: dims });
  graph.inputs.push(dy);
  const wrt = ins.filter(v => v.dtype === 'float32');
  const gradients = backward(g, new Map([[y, g.of(dy)]]), wrt);
  const outs = gradients.map((e, i) => {
    const out = new Value(`dx${i}`);
    g.identity(e!.value, out);
    return out;
  });
  graph.outputs = outs.map(v => new Value(v.name));
  await checkModel(model, [...ins, dy], outs, [...tensors, spread(dims, [-1, 1], 9)], {
    step: 2e-3,
    wrt: only && [tensors.length],
  });
}
