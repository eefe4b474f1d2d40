import { expect, it } from 'vitest';
import { FunctionDef, Node, Value } from '../../../src/graph/ir.js';
import { decodeModel, encodeModel } from '../../../src/graph/proto/codec.js';
import { inlineFunctions } from '../../../src/passes/normalize/inline-functions.js';
import { Session } from '../../../src/runtime/session.js';
import { spread } from '../../ops/vjp.js';
import { Sketch } from '../../sample.js';

/** y = f(f(x, w)) with f(a, b) = LeakyRelu(a * b) by an attribute, and b optional. */
function model(recursive = false) {
  const s = new Sketch();
  const [x, w] = [s.input('x', ['n', 3]), s.weight('w', [3])];
  const f = new FunctionDef('local', 'Leaky');
  f.attributeNames = ['slope'];
  const [a, b, product, out] = ['a', 'b', 'product', 'out'].map(n => new Value(n));
  f.body.inputs = [a!, b!];
  f.body.outputs = [out!];
  f.body.nodes = [
    new Node('Mul', [a!, b!], [product!]),
    new Node(
      'LeakyRelu',
      [product!],
      [out!],
      new Map([['alpha', { type: 'ref', value: 'slope', of: 'float' }]]),
    ),
  ];
  if (recursive)
    f.body.append(Object.assign(new Node('Leaky', [a!, b!], [new Value('more')]), { domain: 'local' }));
  f.opsetImports = new Map([
    ['', 18],
    ['local', 1],
  ]);
  const call = (input: Value, name: string, slope: number) => {
    const y = s.add('Leaky', [input, w], name, { slope: { type: 'float', value: slope } });
    s.graph.nodes.at(-1)!.domain = 'local';
    return y;
  };
  const made = s.model([call(call(x, 'h', 0.5), 'y', 0.1)]);
  made.irVersion = 9;
  made.opsetImports.set('local', 1);
  made.functions = [f];
  return made;
}

it('gives the same results without functions', async () => {
  const outputs = async (m: ReturnType<typeof model>) => {
    const session = await Session.create(m);
    const { y } = await session.run({ x: spread([4, 3]) });
    await session.release();
    return y!.numbers();
  };
  const before = await outputs(model());
  const inlined = decodeModel(encodeModel(model()));
  expect(inlineFunctions(inlined)).toBe(true);
  expect(inlined.functions).toEqual([]);
  expect(inlined.graph.nodes.map(n => n.opType)).toEqual(['Mul', 'LeakyRelu', 'Mul', 'LeakyRelu']);
  expect(await outputs(inlined)).toEqual(before);
  expect(inlineFunctions(inlined)).toBe(false);
});

it('refuses a function that calls itself', () => {
  expect(() => inlineFunctions(model(true))).toThrow("Function 'Leaky' calls itself");
});

it('refuses functions that double each other, before it writes any node', () => {
  const double = (name: string, inner: string) => {
    const fn = new FunctionDef('local', name);
    const [a, b, c] = ['a', 'b', 'c'].map(v => new Value(v));
    fn.body.inputs = [a!];
    fn.body.outputs = [c!];
    fn.body.nodes = [new Node(inner, [a!], [b!]), new Node(inner, [b!], [c!])];
    for (const node of fn.body.nodes) if (inner.startsWith('F')) node.domain = 'local';
    return fn;
  };
  const s = new Sketch();
  const y = s.add('F39', [s.input('x', [2])], 'y');
  s.graph.nodes[0]!.domain = 'local';
  const bomb = s.model([y]);
  bomb.functions = Array.from({ length: 40 }, (_, i) => double(`F${i}`, i ? `F${i - 1}` : 'Tanh'));
  expect(() => inlineFunctions(bomb)).toThrow(`stand for ${2 ** 40} nodes`);
});
