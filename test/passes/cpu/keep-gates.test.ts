import { describe, expect, it } from 'vitest';
import { type Graph, Model } from '../../../src/graph/ir.js';
import { Tensor } from '../../../src/graph/tensor.js';
import { type AttrInit, float } from '../../../src/ops/core/builder.js';
import { keepGates } from '../../../src/passes/cpu/keep-gates.js';
import { Session } from '../../../src/runtime/session.js';
import { gradients, runnable, singleNode, spread } from '../../ops/vjp.js';

const [T, B, I, H] = [4, 16, 3, 64];
const small = (dims: readonly number[], seed: number) => spread(dims, [-0.3, 0.3], seed);

function operands(directions = 1, [batch, hidden] = [B, H]): (Tensor | null)[] {
  return [
    small([T, batch, I], 1),
    small([directions, 4 * hidden, I], 2),
    small([directions, 4 * hidden, hidden], 3),
    small([directions, 8 * hidden], 4),
    null,
    small([directions, batch, hidden], 5),
    small([directions, batch, hidden], 6),
    small([directions, 3 * hidden], 7),
  ];
}

type Case = { attrs?: AttrInit; omitted?: number[]; symbolic?: (input: number, axis: number) => boolean };

/** The gradients of an LSTM's operands, whether the pass changed it, and the operators then. */
async function run(tensors: readonly (Tensor | null)[], c: Case, change: boolean) {
  const attrs = { hidden_size: tensors[2]!.dims[2]!, ...c.attrs };
  const { model, ins, outs } = singleNode('LSTM', tensors, { ...c, attrs, outputs: 3 });
  const feeds = Object.fromEntries(ins.flatMap((v, i) => (v ? [[v.name, tensors[i]!]] : [])));
  const forward = await Session.create(await runnable(model));
  const y = await forward.run(feeds);
  await forward.release();
  const seeds = outs.filter((_, i) => !c.omitted?.includes(i));
  const dys = Object.fromEntries(seeds.map((o, i) => [o.name, spread(y[o.name]!.dims, [-1, 1], 10 + i)]));
  const wrt = ins.filter(v => v?.dtype === 'float32').map(v => v!);
  let changed = false;
  const operators: string[] = [];
  const written = (graph: Graph) => {
    graph.outputs = graph.outputs.map(v => outs.find(o => o.name === v.name) ?? v);
    const whole = Object.assign(new Model(graph), { opsetImports: model.opsetImports });
    if (change) changed = keepGates(whole);
    operators.push(...graph.nodes.map(node => node.opType));
  };
  return { grads: await gradients(model, wrt, dys, feeds, { written }, y), changed, operators };
}

const count = (operators: readonly string[], op: string) => operators.filter(o => o === op).length;

describe('an LSTM whose gradient is read', () => {
  it.each<[string, (Tensor | null)[], Case]>([
    ['with states and biases', operands().slice(0, 7), {}],
    ['without states', operands().slice(0, 4), {}],
    ['without biases', operands().slice(0, 7).with(3, null), {}],
    ['of which only the sequence is read', operands().slice(0, 7), { omitted: [1, 2] }],
    [
      'of a batch of any size',
      operands().slice(0, 7),
      { symbolic: (input, axis) => input === 0 && axis === 1 },
    ],
  ])('%s has the same gradients as a Scan', async (_, tensors, c) => {
    const before = await run(tensors, c, false);
    const after = await run(tensors, c, true);
    expect(after.changed).toBe(true);
    expect(count(after.operators, 'LSTM')).toBe(0);
    expect(count(after.operators, 'Scan')).toBe(2);
    expect(count(after.operators, 'MatMul')).toBe(count(before.operators, 'MatMul') - 1);
    for (const [i, grad] of after.grads.entries()) {
      const was = before.grads[i]!.numbers();
      const scale = Math.max(...was.map(Math.abs));
      const off = grad.numbers().map((v, j) => Math.abs(v - was[j]!));
      expect(grad.dims).toEqual(before.grads[i]!.dims);
      expect(Math.max(...off) / scale, `gradient ${i}`).toBeLessThan(1e-5);
    }
  });

  const lengths = Tensor.from(
    'int32',
    [B],
    Int32Array.from({ length: B }, (_, i) => 1 + (i % T)),
  );
  it.each<[string, (Tensor | null)[], Case]>([
    ['small', operands(1, [2, 4]).slice(0, 7), {}],
    ['reversed', operands().slice(0, 7), { attrs: { direction: 'reverse' } }],
    ['in both directions', operands(2).slice(0, 7), { attrs: { direction: 'bidirectional' } }],
    ['with peepholes', operands(), {}],
    ['of sequences of several lengths', operands().slice(0, 7).with(4, lengths), {}],
    [
      'with other activations',
      operands().slice(0, 7),
      { attrs: { activations: { type: 'strings', value: ['Sigmoid', 'Relu', 'Tanh'] } } },
    ],
    ['with clipping', operands().slice(0, 7), { attrs: { clip: float(0.5) } }],
  ])('%s stays', async (_, tensors, c) => {
    const { changed, operators } = await run(tensors, c, true);
    expect(changed).toBe(false);
    expect(count(operators, 'LSTM')).toBe(1);
  });
});
