import { expect, it } from 'vitest';
import { checkGraph } from '../../src/graph/check-graph.js';
import type { Model } from '../../src/graph/ir.js';
import { inject } from '../../src/passes/inject.js';
import { scanSteps } from '../../src/passes/run/scan-steps.js';
import { sessionShapes } from '../../src/runtime/session.js';
import { Body, control, float32 } from '../ops/body.js';
import { bools, ints } from '../ops/vjp.js';
import { mlp, Sketch } from '../sample.js';

/** h = tanh(x w + h), in a Scan that captures the weight w. */
function recurrent(): Model {
  const s = new Sketch();
  const main = Object.assign(new Body('main'), { graph: s.graph });
  const x = s.input('x', [4, 2, 3]);
  const body = new Body('body');
  const [h, slice] = [body.input('h', float32([2, 3])), body.input('slice', float32([2, 3]))];
  const product = body.add('MatMul', [slice, s.weight('w', [3, 3])], 'xw');
  const next = body.add('Tanh', [body.add('Add', [product, h], 'sum')], 'next');
  const attrs = { body: body.outputs(next, body.add('Mul', [next, slice], 'out')), num_scan_inputs: 1 };
  const [last] = control(main, 'Scan', [s.weight('h0', [2, 3]), x], ['last', 'all'], attrs);
  return s.model([last!]);
}

/** v = sin(v w), four times, in a Loop that captures the weight w. */
function looping(): Model {
  const s = new Sketch();
  const main = Object.assign(new Body('main'), { graph: s.graph });
  const x = s.input('x', [3]);
  const [count, goOn] = [main.constant('count', ints([4], [])), main.constant('cond', bools([1], []))];
  const body = new Body('body');
  body.input('iteration', { kind: 'tensor', dtype: 'int64', shape: [] });
  const keep = body.input('keep', { kind: 'tensor', dtype: 'bool', shape: [] });
  const product = body.add('Mul', [body.input('v', float32([3])), s.weight('w', [3])], 'vw');
  const next = body.add('Sin', [product], 'next');
  const attrs = { body: body.outputs(body.add('Identity', [keep], 'go_on'), next) };
  return s.model(control(main, 'Loop', [count, goOn, x], ['y'], attrs));
}

/** y = x w where the mean of x is above 0, else tanh(x w). */
function branching(): Model {
  const s = new Sketch();
  const main = Object.assign(new Body('main'), { graph: s.graph });
  const x = s.input('x', ['batch', 4]);
  const product = s.add('MatMul', [x, s.weight('w', [4, 3])], 'xw');
  const mean = s.add('ReduceMean', [x], 'mean', { keepdims: 0 });
  const condition = s.add('Cast', [s.add('Relu', [mean], 'positive')], 'condition', { to: 9 });
  const [yes, no] = [new Body('yes'), new Body('no')];
  const attrs = {
    then_branch: yes.outputs(yes.add('Identity', [product], 'as_is')),
    else_branch: no.outputs(no.add('Tanh', [product], 'bounded')),
  };
  return s.model(control(main, 'If', [condition], ['y'], attrs));
}

it.each<[string, Model, object]>([
  ['layers', mlp(), {}],
  ['layers, accumulated, clipped and averaged', mlp(), { accumulate: 2, clipGradNorm: 1, ema: 0.9 }],
  ['layers that are computed again', mlp(), { checkpointActivations: true }],
  ['layers, whose step is skipped where it is not finite', mlp(), { onNonfinite: 'skip' }],
  ['layers in float16', mlp(), { precision: 'fp16' }],
  ['a Scan', recurrent(), {}],
  ['a Scan in float16', recurrent(), { precision: 'fp16' }],
  ['a Loop in bfloat16', looping(), { precision: 'bf16' }],
  ['an If in float16', branching(), { precision: 'fp16' }],
  ['a Loop', looping(), {}],
  ['an If', branching(), {}],
])('links what is injected as its lists say: %s', async (_, source, more) => {
  const before = () => checkGraph(source.graph);
  before();
  const { model } = await inject(source, { loss: { kind: 'mse' }, ...more }, sessionShapes);
  checkGraph(model.graph);
  before();
  const { model: scanned } = scanSteps(model);
  checkGraph(scanned.graph);
  checkGraph(model.graph);
  expect(scanned.graph.nodes.some(node => node.opType === 'Scan')).toBe(true);
});
