/**
 * ONNX's training operators. `onnx-training.json` holds the ONNX project's own tests of them, the numbers as that
 * project computes them.
 */
import { expect, it } from 'vitest';
import type { Tensor } from '../../../src/graph/tensor.js';
import { loadOperators } from '../../../src/ops/index.js';
import { lowerTrainingOperators } from '../../../src/passes/import/lower-training-operators.js';
import { sessionShapes } from '../../../src/runtime/session.js';
import { buildCase, type Case, readCases, runCase, type Stored, type StoredNode } from './case.js';

await loadOperators();

const run = async (c: Case, constants: boolean): Promise<Record<string, Tensor>> => {
  const model = buildCase(c, constants, false);
  await lowerTrainingOperators(model, sessionShapes);
  expect(model.graph.nodes.map(n => n.domain).filter(Boolean)).toEqual([]);
  return runCase(model, c);
};

const CASES = readCases('onnx-training.json');

it.each(CASES.map(c => [c.name, c] as const))('%s passes the ONNX project’s test', async (_, c) => {
  for (const constants of [false, true]) {
    const results = await run(c, constants);
    for (const [name, [dtype, dims, data]] of Object.entries(c.outputs)) {
      expect([name, results[name]!.dtype, results[name]!.dims]).toEqual([name, dtype, dims]);
      results[name]!.numbers().forEach((x, i) => {
        expect(Math.abs(x - data[i]!), `${name}[${i}]`).toBeLessThan(2e-6 * Math.max(1, Math.abs(data[i]!)));
      });
    }
  }
});

const scalar = (value: number): Stored => ['float32', [], [value]];
const training = 'ai.onnx.preview.training';
const strings = (...names: string[]) => ({ strings: names });

/** c = a b,  d = c^2 a = a^3 b^2. */
const FORWARD: StoredNode[] = [
  ['Mul', ['a', 'b'], ['c'], {}],
  ['Mul', ['c', 'c'], ['q'], {}],
  ['Mul', ['q', 'a'], ['d'], {}],
];
const INPUTS = { a: scalar(2), b: scalar(3), e: scalar(5) };
const gradient = (
  inputs: string[],
  outputs: string[],
  xs: string[],
  y: string,
  zs?: string[],
): StoredNode => [
  `${training}.Gradient`,
  inputs,
  outputs,
  { xs: strings(...xs), y, ...(zs ? { zs: strings(...zs) } : {}) },
];

it.each<[string, StoredNode[], Record<string, number>]>([
  ['several tensors', [gradient(['a', 'b'], ['x', 'y'], ['a', 'b'], 'd')], { x: 108, y: 48 }],
  ['an intermediate one', [gradient(['c', 'a'], ['x', 'y'], ['c', 'a'], 'd')], { x: 24, y: 36 }],
  ['some, with others given', [gradient(['a', 'b'], ['x'], ['a'], 'd', ['b'])], { x: 108 }],
  ['a skipped output', [gradient(['a', 'b'], ['', 'y'], ['a', 'b'], 'd')], { y: 48 }],
  ['other values than those named', [gradient(['e', 'b'], ['x', 'y'], ['a', 'b'], 'd')], { x: 675, y: 750 }],
  ['an intermediate at another value', [gradient(['e', 'a'], ['x', 'y'], ['c', 'a'], 'd')], { x: 20, y: 25 }],
  [
    'gradients of gradients',
    [
      gradient(['a', 'b'], ['x', 'y'], ['a', 'b'], 'd'),
      gradient(['a', 'b'], ['xx', 'xy'], ['a', 'b'], 'x'),
      gradient(['a', 'b'], ['xxx'], ['a'], 'xx', ['b']),
    ],
    { x: 108, xx: 108, xy: 72, xxx: 54 },
  ],
  ['a tensor that y does not depend on', [gradient(['e', 'a'], ['x'], ['e'], 'd', ['a'])], { x: 0 }],
])('Gradient takes %s', async (_, nodes, outputs) => {
  const wanted = Object.fromEntries(Object.entries(outputs).map(([name, value]) => [name, scalar(value)]));
  const results = await run(
    { name: '', nodes: [...FORWARD, ...nodes], inputs: INPUTS, outputs: wanted },
    false,
  );
  for (const [name, value] of Object.entries(outputs)) expect(results[name]!.numbers()).toEqual([value]);
});

it.each<[string, StoredNode, RegExp]>([
  [
    'a name that is not there',
    gradient(['a'], ['x'], ['a'], 'z'),
    /names 'z', which nothing before it computes/,
  ],
  [
    'more names than inputs',
    gradient(['a'], ['x'], ['a', 'b'], 'd'),
    /names 2 tensors in xs and zs, and has 1 inputs/,
  ],
  [
    'an optimizer of another name',
    [`${training}.Lion`, ['a', 'b'], ['x'], {}],
    /'ai.onnx.preview.training.Lion' .* known/,
  ],
  [
    'tensors that do not go together',
    [`${training}.Adam`, ['a', 'b', 'c'], ['x'], {}],
    /takes 4 tensors for each/,
  ],
  [
    'a mode that Momentum does not have',
    [`${training}.Momentum`, ['a', 'b', 'a', 'b', 'c'], ['x'], { mode: 'fast' }],
    /mode 'fast'/,
  ],
])('refuses %s', async (_, node, message) => {
  const c: Case = { name: '', nodes: [...FORWARD, node], inputs: INPUTS, outputs: { x: scalar(0) } };
  await expect(run(c, false)).rejects.toThrow(message);
});
