/** The backward pass is made of the operators that have gradients: differentiated again it gives Hessian-vector products. */
import { describe, it } from 'vitest';
import { type Model, Value } from '../../../src/graph/ir.js';
import { Names } from '../../../src/graph/names.js';
import { backward } from '../../../src/ir.js';
import { Builder } from '../../../src/ops/core/builder.js';
import { inferShapes } from '../../../src/passes/normalize/infer-shapes.js';
import { sessionShapes } from '../../../src/runtime/session.js';
import { Body, control, float32, model } from '../../ops/body.js';
import { bools, checkModel, ints, spread } from '../../ops/vjp.js';

/** Replaces the outputs of a model that computes a loss by the loss's gradients. */
async function differentiate(m: Model, loss: Value, wrt: readonly Value[]): Promise<Value[]> {
  await inferShapes(m, sessionShapes);
  const g = new Builder(m.graph, { names: Names.of(m), opsets: m.opsetImports });
  const gradients = backward(g, new Map([[loss, g.of(loss).ones()]]), wrt);
  const outs = gradients.map((e, i) => {
    const out = g.newValue(`gradient_of_${wrt[i]!.name}`);
    g.identity(e!.value, out);
    return out;
  });
  m.graph.outputs = outs.map(v => new Value(v.name));
  return outs;
}

/** Compares the Hessian times a vector with differences of the gradient. */
async function checkHessian(
  shapes: Record<string, readonly number[]>,
  write: (main: Body, v: Record<string, Value>) => Value,
): Promise<void> {
  const names = Object.keys(shapes);
  const tensors = names.map((name, i) => spread(shapes[name]!, [-0.9, 0.9], i + 1));
  for (const symbolic of [false, true]) {
    const main = new Body('main');
    const ins = names.map(name =>
      main.input(name, float32(shapes[name]!.map((d, axis) => (symbolic ? `${name}_${axis}` : d)))),
    );
    const loss = write(main, Object.fromEntries(names.map((name, i) => [name, ins[i]!])));
    const m = model(main, [loss]);
    const gradients = await differentiate(m, loss, ins);
    await checkModel(m, ins, gradients, tensors, { step: 4e-3 });
  }
}

const labels = ints([1, 0, 2]);

describe('Hessian-vector products of', () => {
  it('a multilayer perceptron with cross-entropy', () =>
    checkHessian({ x: [3, 4], w1: [4, 5], b1: [5], w2: [5, 3] }, (main, { x, w1, b1, w2 }) => {
      const h = main.add('Tanh', [main.add('Gemm', [x!, w1!, b1!], 'z')], 'h');
      const logits = main.add('MatMul', [h, w2!], 'logits');
      return main.add('SoftmaxCrossEntropyLoss', [logits, main.constant('labels', labels)], 'loss');
    }));

  it('a normalized layer with softmax and a squared error', () =>
    checkHessian({ x: [2, 4], gamma: [4], beta: [4], y: [2, 4] }, (main, { x, gamma, beta, y }) => {
      const n = main.add('LayerNormalization', [x!, gamma!, beta!], 'n');
      const p = main.add('Softmax', [main.add('Sigmoid', [n], 's')], 'p', { axis: -1 });
      const d = main.add('Sub', [p, y!], 'd');
      return main.add('ReduceSum', [main.add('Mul', [d, d], 'square')], 'loss', { keepdims: 0 });
    }));

  it('a convolutional net', () =>
    checkHessian({ x: [2, 2, 5, 5], k: [3, 2, 3, 3], w: [12, 2] }, (main, { x, k, w }) => {
      const h = main.add(
        'Tanh',
        [main.add('Conv', [x!, k!], 'c', { pads: [1, 1, 0, 0], kernel_shape: [3, 3] })],
        'h',
      );
      const pooled = main.add('AveragePool', [h], 'pooled', { kernel_shape: [2, 2], strides: [2, 2] });
      const logits = main.add('MatMul', [main.add('Flatten', [pooled], 'flat'), w!], 'logits');
      const targets = main.constant('labels', ints([1, 0]));
      return main.add('SoftmaxCrossEntropyLoss', [logits, targets], 'loss');
    }));

  it('a recurrence', () =>
    checkHessian({ h0: [2], x: [3, 2], w: [2] }, (main, { h0, x, w }) => {
      const body = new Body('body');
      const [h, slice] = [body.input('h'), body.input('slice')];
      const next = body.add(
        'Tanh',
        [body.add('Add', [body.add('Mul', [h, w!], 'hw'), slice], 'sum')],
        'next',
      );
      const graph = body.outputs(next, body.add('Identity', [next], 'out'));
      const [, all] = control(main, 'Scan', [h0!, x!], ['last', 'all'], { body: graph, num_scan_inputs: 1 });
      return main.add('ReduceSum', [main.add('Sin', [all!], 'sin')], 'loss', { keepdims: 0 });
    }));

  it('a recurrent layer', () =>
    checkHessian({ x: [3, 2, 2], w: [1, 8, 2], r: [1, 8, 2], b: [1, 16] }, (main, { x, w, r, b }) => {
      const h = main.add('LSTM', [x!, w!, r!, b!], 'h', { hidden_size: 2 });
      return main.add('ReduceSum', [main.add('Sin', [h], 'sin')], 'loss', { keepdims: 0 });
    }));

  it('pooled maxima', () =>
    checkHessian({ x: [1, 2, 4, 4], k: [2, 2, 1, 1] }, (main, { x, k }) => {
      const h = main.add('MaxPool', [main.add('Conv', [x!, k!], 'c', { kernel_shape: [1, 1] })], 'h', {
        kernel_shape: [2, 2],
      });
      const y = main.add('ReduceLogSumExp', [h], 'y', { keepdims: 0 });
      return main.add('Mul', [y, y], 'loss');
    }));

  it('a loop that collects its states', () =>
    checkHessian({ h0: [2], w: [2] }, (main, { h0, w }) => {
      const bounds = [main.constant('count', ints([3], [])), main.constant('cond', bools([1], []))];
      const body = new Body('body');
      body.input('iter', { kind: 'tensor', dtype: 'int64', shape: [] });
      const keep = body.input('keep', { kind: 'tensor', dtype: 'bool', shape: [] });
      const [h, all] = [body.input('h'), body.input('all')];
      const next = body.add('Tanh', [body.add('Mul', [h, w!], 'hw')], 'next');
      const graph = body.outputs(
        body.add('Identity', [keep], 'go_on'),
        next,
        body.add('SequenceInsert', [all, next], 'longer'),
      );
      const states = [h0!, main.add('SequenceEmpty', [], 'none')];
      const [, found] = control(main, 'Loop', [...bounds, ...states], ['last', 'found'], { body: graph });
      const stack = main.add('ConcatFromSequence', [found!], 'stack', { axis: 0, new_axis: 1 });
      return main.add('ReduceSum', [main.add('Sin', [stack], 'sin')], 'loss', { keepdims: 0 });
    }));
});
