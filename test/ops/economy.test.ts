/** Only what is needed is built: nothing for inputs that are frozen, and the cheap form where extents are known. */
import { describe, expect, it } from 'vitest';
import { loadOperators, opDef } from '../../src/ops/index.js';
import { Body, float32, model } from './body.js';
import { EXAMPLES, type Example } from './examples.js';
import { trace } from './operators-page.js';

await loadOperators();

/** The operators of the nodes that a backward pass adds, where all extents are known. */
async function known(e: Example, only?: string): Promise<string[]> {
  const { graph, nodes } = await trace(e, false, false, only);
  const own = graph.nodes.find(n => n.opType === e.op);
  return nodes.flatMap(n => (n === own ? [] : [n.opType])).sort();
}

const example = (op: string) => EXAMPLES.find(e => e.op === op && e.domain === '')!;

describe('the gradient of one input builds nothing for the others', () => {
  const COSTLY = /^(MatMul|Gemm|Conv|Reduce|Scatter|Gather|Loop|Scan)/;
  it.each<[op: string, input: string, costly: string[]]>([
    ['MatMul', 'A', ['MatMul']],
    ['MatMul', 'B', ['Gemm']],
    ['Gemm', 'A', ['Gemm']],
    ['Gemm', 'C', ['ReduceSum']],
    ['Mul', 'A', ['ReduceSum']],
    ['Conv', 'X', ['Conv', 'Gather']],
    ['Conv', 'W', ['Gather', 'MatMul', 'ReduceSum']],
    ['Conv', 'B', ['ReduceSum']],
    ['LayerNormalization', 'B', ['ReduceSum']],
    ['InstanceNormalization', 'B', ['ReduceSum']],
    ['BatchNormalization', 'B', ['ReduceSum']],
    ['Clip', 'input', []],
    ['Clip', 'min', ['ReduceSum']],
    ['Where', 'X', ['ReduceSum']],
    ['Gather', 'data', ['ScatterElements']],
    ['ScatterElements', 'data', ['ScatterElements']],
    ['ScatterElements', 'updates', ['GatherElements']],
    ['Concat', 'inputs', []],
  ])('%s: %s', async (op, input, costly) => {
    expect((await known(example(op), input)).filter(type => COSTLY.test(type))).toEqual(costly);
  });
});

describe('where extents are known', () => {
  const rules = EXAMPLES.filter(e => e.domain === '' && opDef({ domain: '', opType: e.op })!.kind === 'rule');

  it('rules ask the run for none, but for these', async () => {
    const asking: string[] = [];
    for (const e of rules)
      if ((await known(e)).some(type => /^(Shape|Size|NonZero)$/.test(type))) asking.push(e.op);
    // How long a Range or a sequence is, and how often a Loop runs, is not known before.
    const open = /Range|Loop|Sequence/;
    expect(asking.filter(op => !open.test(op))).toEqual(['Col2Im', 'DFT']);
  });
  it('of the same symbol nothing is summed, and a bias is summed over the others', async () => {
    const add = async (b: readonly (number | string)[]) => {
      const make = () => {
        const main = new Body('main');
        const ins = [main.input('a', float32(['n', 3])), main.input('b', float32(b))];
        const outs = [main.add('Add', ins, 'y')];
        return { model: model(main, outs), ins, outs };
      };
      return known({ ...example('Add'), make });
    };
    expect(await add(['n', 3])).toEqual([]);
    expect(await add([3])).toEqual(['ReduceSum']);
    expect(await add(['m', 3])).toContain('NonZero');
  });
  it('the gradient of a weight that is read transposed is the product that lies as the weight does', async () => {
    const layer = (outputs: number) => {
      const make = () => {
        const main = new Body('main');
        const ins = [main.input('x', float32([2, 5, 4])), main.input('w', float32([outputs, 4]))];
        const b = main.add('Transpose', [ins[1]!], 'b', { perm: [1, 0] });
        const outs = [main.add('MatMul', [ins[0]!, b], 'y')];
        return { model: model(main, outs), ins, outs };
      };
      return known({ ...example('MatMul'), make });
    };
    // Of the result, which the gradient of the layer's Transpose undoes.
    const nodes = ['Gemm', 'MatMul', 'Reshape', 'Reshape'];
    expect(await layer(8)).toEqual([...nodes, 'Transpose']);
    // Of few outputs, the other product is the faster one.
    expect(await layer(7)).toEqual(nodes);
  });
});
