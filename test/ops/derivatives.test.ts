/** Products of every operator with the Jacobian, its transpose and the Hessian, as files have them, against differences. */
import { describe, expect, it } from 'vitest';
import { isFloat } from '../../src/graph/dtype.js';
import { type Model, Node, Value } from '../../src/graph/ir.js';
import { decodeModel, encodeModel } from '../../src/graph/proto/codec.js';
import { Tensor } from '../../src/graph/tensor.js';
import { toAttrs } from '../../src/ops/core/builder.js';
import { derivativeModel } from '../../src/passes/differentiate.js';
import { type Feeds, Session, sessionShapes } from '../../src/runtime/session.js';
import { EXAMPLES, type Example } from './examples.js';
import { runnable, spread } from './vjp.js';

async function run(model: Model, feeds: Feeds): Promise<Feeds> {
  const session = await Session.create(await runnable(model));
  const known = Object.entries(feeds).filter(([name]) => session.inputs.includes(name));
  const results = await session.run(Object.fromEntries(known));
  await session.release();
  return results;
}

/** The example's model as a file has it, what feeds it, and what can be differentiated by what. */
async function asFile({ make, c, tensors }: Example) {
  const { model: made, ins, outs } = make(false);
  const model = decodeModel(encodeModel(made));
  const fed = ins.flatMap((v, i) =>
    v && made.graph.inputs.includes(v) ? [{ name: v.name, tensor: tensors[i]!, i }] : [],
  );
  const feeds = Object.fromEntries(fed.map(({ name, tensor }) => [name, tensor]));
  const forward = await run(model, feeds);
  // Of some the runtime does not tell the number of axes.
  for (const v of model.graph.outputs) {
    const { dtype, dims } = forward[v.name]!;
    v.type = { kind: 'tensor', dtype, shape: dims };
  }
  const ys = outs.flatMap((o, i) =>
    (c.cotangents ? c.cotangents.includes(i) : !c.omitted?.includes(i) && isFloat(forward[o.name]!.dtype))
      ? [o.name]
      : [],
  );
  const xs = fed.filter(({ tensor, i }) => (c.wrt ? c.wrt.includes(i) : isFloat(tensor.dtype)));
  const tangents = Object.fromEntries(
    xs.map(({ name, tensor }, i) => [name, spread(tensor.dims, [-1, 1], 50 + i)]),
  );
  return { model, feeds, ys, xs: xs.map(x => x.name), tangents };
}

/** The inputs, `h` times the tangents further. */
function moved(feeds: Feeds, tangents: Feeds, h: number): Feeds {
  const changed = Object.entries(tangents).map(([name, tangent]) => {
    const [at, by] = [feeds[name]!.numbers(), tangent.numbers()];
    const values = at.map((x, i) => x + h * by[i]!);
    return [name, Tensor.ofNumbers('float32', feeds[name]!.dims, values)] as const;
  });
  return { ...feeds, ...Object.fromEntries(changed) };
}

/** Compares a directional derivative with the central difference of two values. */
function expectDifference(
  found: Tensor,
  [up, down]: readonly [Tensor, Tensor],
  step: number,
  tolerance: number,
) {
  const [a, b] = [up.numbers(), down.numbers()];
  const wanted = a.map((x, i) => (x - b[i]!) / (2 * step));
  const scale = Math.max(1, ...wanted.map(Math.abs));
  const errors = found.numbers().map((x, i) => Math.abs(x - wanted[i]!) / scale);
  expect(found.dims).toEqual(up.dims);
  expect(Math.max(0, ...errors)).toBeLessThan(tolerance);
}

const products = (a: Tensor, b: Tensor): number[] => {
  const factors = b.numbers();
  return a.numbers().map((x, i) => x * factors[i]!);
};

const sum = (values: readonly number[]) => values.reduce((total, x) => total + x, 0);

/** The sum of the squares of all elements of these values, each with a weight of its own. */
function addLoss({ graph }: Model, names: readonly string[]): void {
  const terms = names.map((name, i) => {
    const y = graph.outputs.find(v => v.name === name)!;
    const weights = new Value(`weights_${i}`);
    graph.initializers.set(weights, spread(y.shape as number[], [0.5, 1.5], 80 + i));
    const [square, weighed, sum] = ['square', 'weighed', 'sum'].map(part => new Value(`${part}_${i}`));
    graph.append(
      new Node('Mul', [y, y], [square!]),
      new Node('Mul', [square!, weights], [weighed!]),
      new Node('ReduceSum', [weighed!], [sum!], toAttrs({ keepdims: 0 })),
    );
    return sum!;
  });
  const loss = new Value('loss');
  graph.append(new Node('Sum', terms, [loss]));
  graph.outputs = [loss];
}

describe.each(EXAMPLES.map(e => [`${e.domain} ${e.op}`.trim(), e] as const))('%s', (_, example) => {
  const step = example.c.step ?? 1e-2;

  it('has a Jacobian-vector product, and its transpose', async () => {
    const { model, feeds, ys, xs, tangents } = await asFile(example);
    const made = await derivativeModel(model, { of: ys, wrt: xs, mode: 'jvp' }, sessionShapes);
    const directions = Object.fromEntries(made.directions.map(d => [d.input, tangents[d.of]!]));
    const found = await run(made.model, { ...feeds, ...directions });
    const [up, down] = [
      await run(model, moved(feeds, tangents, step)),
      await run(model, moved(feeds, tangents, -step)),
    ];
    for (const { of, output } of made.results)
      expectDifference(found[output]!, [up[of]!, down[of]!], step, example.c.tolerance ?? 5e-3);
    // A vector-Jacobian product is the transpose: <u, J v> = <J^T u, v>.
    const back = await derivativeModel(model, { of: ys, wrt: xs, mode: 'vjp' }, sessionShapes);
    const cotangents = Object.fromEntries(
      ys.map((y, i) => [`${y}_cotangent`, spread(up[y]!.dims, [-1, 1], 90 + i)]),
    );
    const pulled = await run(back.model, { ...feeds, ...cotangents });
    const forth = ys.flatMap(y => products(cotangents[`${y}_cotangent`]!, found[`${y}_tangent`]!));
    const transposed = xs.flatMap(x => products(pulled[`${x}_grad`]!, tangents[x]!));
    const scale = Math.max(1, ...[...forth, ...transposed].map(Math.abs));
    expect(Math.abs(sum(forth) - sum(transposed))).toBeLessThan(1e-4 * scale);
  });

  it('has a Hessian-vector product', async () => {
    const { model, feeds, ys, xs, tangents } = await asFile(example);
    addLoss(model, ys);
    const made = await derivativeModel(model, { wrt: xs, mode: 'hvp' }, sessionShapes);
    const directions = Object.fromEntries(made.directions.map(d => [d.input, tangents[d.of]!]));
    const at = (h: number) => run(made.model, { ...moved(feeds, tangents, h), ...directions });
    const [found, up, down] = [await at(0), await at(step), await at(-step)];
    for (const x of xs)
      expectDifference(found[`${x}_hvp`]!, [up[`${x}_grad`]!, down[`${x}_grad`]!], step, 1e-2);
  });
});
