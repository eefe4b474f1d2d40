import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { loadModel } from '../../src/graph/files.js';
import { agdOnnx, workplace } from './run.js';

const outputs = async (path: string) => (await loadModel(path)).graph.outputs.map(v => v.name);

describe('differentiate', () => {
  it('says what the file takes and gives', async () => {
    const folder = await workplace();
    const flags = ['--of', 'logits', '--wrt', 'x,fc?.bias', '--mode', 'jvp'];
    const { code, out } = agdOnnx(folder, 'differentiate', 'model.onnx', ...flags);
    expect(code).toBe(0);
    expect(out).toBe(
      [
        'input   x_tangent: direction of x',
        'input   fc1.bias_tangent: direction of fc1.bias',
        'input   fc2.bias_tangent: direction of fc2.bias',
        'output  logits_tangent: of logits',
        'wrote model.grad.onnx\n',
      ].join('\n'),
    );
    expect(await outputs(join(folder, 'model.grad.onnx'))).toEqual(['logits', 'logits_tangent']);
  });

  it.each([
    [
      '--loss cross-entropy --target labels --wrt fc2.bias --mode hessian',
      ['loss', 'fc2.bias_fc2.bias_hessian'],
    ],
    ['--wrt fc1.bias --wrt {x,y} --mode vjp', ['logits', 'fc1.bias_grad', 'x_grad']],
    ['--of h,a --wrt x --mode jacobian --straight-through', ['h', 'a', 'h_x_jacobian', 'a_x_jacobian']],
  ])('takes %s', async (flags, names) => {
    const folder = await workplace();
    const { code, err } = agdOnnx(folder, 'differentiate', 'model.onnx', ...flags.split(' '), '-o', 'd.onnx');
    expect([code, err]).toEqual([0, '']);
    expect(await outputs(join(folder, 'd.onnx'))).toEqual(names);
  });

  it('writes the gradient for the execution provider that --for names', async () => {
    const folder = await workplace();
    const lenet = join(import.meta.dirname, '../../models/lenet.onnx');
    const operators = async (...flags: string[]) => {
      const of = ['--loss', 'cross-entropy', '--wrt', 'conv*', ...flags];
      const { code, err } = agdOnnx(folder, 'differentiate', lenet, ...of, '-o', 'd.onnx');
      expect([code, err]).toEqual([0, '']);
      return (await loadModel(join(folder, 'd.onnx'))).graph.nodes.map(n => n.opType);
    };
    expect(await operators()).toContain('MaxUnpool');
    expect(await operators('--for', 'cuda')).not.toContain('MaxUnpool');
  });

  it.each([
    [['--of', 'logits'], '--wrt is missing.'],
    [['--wrt', 'x'], "'logits' is of shape [batch,3], and a gradient is of a scalar"],
    [['--wrt', 'x', '--of', 'logits', '--loss', 'mse'], '--of cannot be combined with --loss.'],
    [['--wrt', 'x', '--mode', 'hesian'], "Did you mean 'hessian'?"],
    [['--wrt', 'weights', '--mode', 'vjp'], "--wrt 'weights' matches no floating-point input or initializer"],
    [['--wrt', 'x', '--mode', 'vjp', '-o', 'model.onnx'], 'model.onnx would overwrite what it is made from'],
  ])('refuses %j', async (flags, message) => {
    const { code, err } = agdOnnx(await workplace(), 'differentiate', 'model.onnx', ...flags);
    expect(code).toBe(1);
    expect(err).toContain(message);
  });
});
