import { describe, expect, it } from 'vitest';
import { Graph, Model, Node, Value } from '../../../src/graph/ir.js';
import { Tensor } from '../../../src/graph/tensor.js';
import { float, toAttrs } from '../../../src/ops/core/builder.js';
import { Attributes } from '../../../src/ops/core/rule.js';
import { transposeApart } from '../../../src/passes/cpu/transpose-apart.js';
import { Session } from '../../../src/runtime/session.js';
import { spread } from '../../ops/vjp.js';

type Dims = readonly (number | string)[];
type Case = { a: Dims; b: Dims; dtype?: 'float32' | 'float64'; turned?: boolean; asGemm?: boolean };

/** y = aᵀ b, of tensors whose leading axes are flattened; `turned` is its transpose, which alone is returned then. */
function product({ a, b, dtype = 'float32', turned = false, asGemm = false }: Case): Model {
  const graph = new Graph('product');
  graph.inputs = [a, b].map(
    (dims, i) => new Value('ab'[i]!, { kind: 'tensor', dtype, shape: dims as number[] }),
  );
  const flat = graph.inputs.map((v, i) => {
    const dims = v.shape!;
    if (dims.length === 2) return v;
    const extents = new Value(`extents${i}`, { kind: 'tensor', dtype: 'int64', shape: [2] });
    graph.initializers.set(extents, Tensor.ints([-1, dims.at(-1) as number]));
    const rows = dims.slice(0, -1).every(d => typeof d === 'number')
      ? (dims.slice(0, -1) as number[]).reduce((n, d) => n * d, 1)
      : null;
    const made = new Value(`flat${i}`, { kind: 'tensor', dtype, shape: [rows, dims.at(-1)!] });
    graph.append(new Node('Reshape', [v, extents], [made]));
    return made;
  });
  const [at, y, z] = ['at', 'y', 'z'].map(name => new Value(name));
  if (asGemm) graph.append(new Node('Gemm', flat, [y!], toAttrs({ transA: 1 })));
  else {
    graph.append(new Node('Transpose', [flat[0]!], [at!], toAttrs({ perm: [1, 0] })));
    graph.append(new Node('MatMul', [at!, flat[1]!], [y!]));
  }
  if (turned) graph.append(new Node('Transpose', [y!], [z!], toAttrs({ perm: [1, 0] })));
  graph.outputs = [turned ? z! : y!];
  return Object.assign(new Model(graph), { irVersion: 8, opsetImports: new Map([['', 17]]) });
}

async function run(model: Model, dims: { a: readonly number[]; b: readonly number[] }) {
  const session = await Session.create(model);
  const results = await session.run({ a: spread(dims.a, [-1, 1], 1), b: spread(dims.b, [-1, 1], 2) });
  await session.release();
  return Object.values(results)[0]!;
}

/** The permutations of the model's transposes, in order. */
const turns = ({ graph }: Model) =>
  graph.nodes.filter(node => node.opType === 'Transpose').map(node => `${new Attributes(node).ints('perm')}`);

const large = [
  ['of sequences', { a: [2, 130, 200], b: [2, 130, 260] }, ['2,0,1']],
  ['with fewer columns than rows', { a: [2, 130, 400], b: [2, 130, 200] }, ['2,0,1', '1,0']],
  ['whose own transpose is read', { a: [2, 130, 200], b: [2, 130, 260], turned: true }, ['2,0,1']],
  ['of few rows to many columns', { a: [2, 130, 128], b: [2, 130, 512] }, ['0,2,1']],
  ['whose transpose has few rows', { a: [260, 512], b: [260, 128], turned: true, asGemm: true }, ['0,2,1']],
  ['of images', { a: [2, 5, 26, 200], b: [2, 5, 26, 260] }, ['3,0,1,2']],
  ['of matrices', { a: [260, 200], b: [260, 260] }, ['2,0,1']],
  ['of a batch of any size', { a: ['batch', 130, 200], b: ['batch', 130, 260] }, ['2,0,1']],
  ['of sequences, a Gemm', { a: [2, 130, 200], b: [2, 130, 260], asGemm: true }, ['2,0,1']],
] as const;

describe('a product with a large transposed operand', () => {
  it.each(large)('%s is the same after a Transpose of its own', async (_, shapes, expected) => {
    const fed = (dims: Dims) => dims.map(d => (typeof d === 'number' ? d : 3));
    const dims = { a: fed(shapes.a), b: fed(shapes.b) };
    const model = product(shapes);
    const before = await run(model, dims);
    expect(transposeApart(model)).toBe(true);
    expect(turns(model)).toEqual(expected);
    const after = await run(model, dims);
    expect(after.dims).toEqual(before.dims);
    const was = before.numbers();
    const off = after.numbers().map((v, i) => Math.abs(v - was[i]!));
    expect(Math.max(...off)).toBeLessThan(2e-5);
  });

  it.each<[string, Case]>([
    ['small', { a: [2, 130, 128], b: [2, 130, 260] }],
    ['of few rows', { a: [32, 260], b: [32, 260] }],
    ['of vectors, of which there may be few', { a: ['batch', 260], b: ['batch', 260] }],
    ['of another type', { a: [260, 260], b: [260, 260], dtype: 'float64' }],
    ['of unknown extents', { a: ['batch', 'rows'], b: ['batch', 260] }],
  ])('%s stays', (_, shapes) => {
    const model = product(shapes);
    expect(transposeApart(model)).toBe(false);
    expect(turns(model)).toEqual(['1,0']);
  });

  it.each([{ transA: 0 }, { transB: 1 }, { alpha: float(2) }])('a Gemm with %o stays', attrs => {
    const model = product({ a: [260, 260], b: [260, 260], asGemm: true });
    model.graph.nodes[0]!.attrs = toAttrs({ transA: 1, ...attrs });
    expect(transposeApart(model)).toBe(false);
  });
});
