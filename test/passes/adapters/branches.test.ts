/** Adapters of layers in branches: a merged decoder has one branch for its first tokens, and one with a cache. */
import { expect, it } from 'vitest';
import { checkGraph } from '../../../src/graph/check-graph.js';
import { decodeModel, encodeModel } from '../../../src/graph/proto/codec.js';
import { Tensor } from '../../../src/graph/tensor.js';
import { addAdapters } from '../../../src/passes/adapters/add-adapters.js';
import { addScales } from '../../../src/passes/adapters/add-scales.js';
import { mergeAdapters } from '../../../src/passes/adapters/merge-adapters.js';
import { Session } from '../../../src/runtime/session.js';
import { Body, control, float32, model } from '../../ops/body.js';
import { bools, spread } from '../../ops/vjp.js';

/** y = sin(x) W or cos(x) W. */
function merged() {
  const main = new Body('main');
  const x = main.input('x', float32([2, 3]));
  const first = main.input('first', { kind: 'tensor', dtype: 'bool', shape: [1] });
  const w = main.constant('proj.weight', spread([3, 4]));
  const branch = (name: string, opType: string) => {
    const body = new Body(name);
    return body.outputs(body.add('MatMul', [body.add(opType, [x], `${name}.x`), w], `${name}.y`));
  };
  const [y] = control(main, 'If', [first], ['y'], {
    then_branch: branch('then', 'Sin'),
    else_branch: branch('else', 'Cos'),
  });
  return model(main, [y!]);
}

const x = spread([2, 3], [-1, 1], 3);
async function both(made: ReturnType<typeof merged>) {
  checkGraph(made.graph);
  const session = await Session.create(decodeModel(encodeModel(made)));
  const results = [];
  for (const first of [1, 0])
    results.push(...(await session.run({ x, first: bools([first], [1]) })).y!.numbers());
  await session.release();
  return results;
}

const apart = (a: readonly number[], b: readonly number[]) =>
  Math.max(...a.map((v, i) => Math.abs(v - b[i]!)));

it('layers of branches with one weight have one adapter, which merges into it', async () => {
  const adapted = addAdapters(merged(), [{ match: 'proj', r: 2 }], undefined, 0);
  expect(await both(adapted)).toEqual(await both(merged()));
  const b = [...adapted.graph.initializers.keys()].filter(v => v.name.endsWith('lora_B'));
  expect(b.map(v => v.name)).toEqual(['proj.weight.lora_B']);
  adapted.graph.initializers.set(b[0]!, spread([2, 4], [-1, 1], 5));
  const trained = await both(adapted);
  const plain = await both(merged());
  for (const half of [0, 8]) expect(trained.slice(half, half + 8)).not.toEqual(plain.slice(half, half + 8));
  const { model: joined, merged: names } = mergeAdapters(adapted);
  expect(names).toEqual(['proj.weight']);
  expect([...joined.graph.initializers.keys()].map(v => v.name)).toEqual(['proj.weight']);
  const found = await both(joined);
  expect(apart(found, trained)).toBeLessThan(1e-5);
});

it('IA3 scales the layers of both branches', async () => {
  const scaled = addScales(merged(), [{ match: 'proj' }], undefined);
  const [vector] = [...scaled.graph.initializers.keys()].filter(v => v.name.endsWith('ia3_l'));
  scaled.graph.initializers.set(vector!, Tensor.filled('float32', [4], 2));
  const doubled = (await both(merged())).map(v => 2 * v);
  expect(apart(await both(scaled), doubled)).toBeLessThan(1e-5);
  const joined = mergeAdapters(scaled);
  expect(joined.merged).toEqual(['proj.weight']);
  expect(apart(await both(joined.model), doubled)).toBeLessThan(1e-5);
});

it('DoRA is refused there', () => {
  expect(() => addAdapters(merged(), [{ match: 'proj', r: 2, dora: true }], undefined, 0)).toThrow(
    "layer 'proj' (MatMul, 3 to 4): in a branch; use one without dora.",
  );
});
