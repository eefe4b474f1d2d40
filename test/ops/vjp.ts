/**
 * The shared check of a gradient rule: a one-node model is run forward, and its vector-Jacobian product, as
 * the rule writes it, is compared with central differences of the forward model.
 */
import { expect } from 'vitest';
import { cloneModel } from '../../src/graph/clone.js';
import { type DType, isFloat } from '../../src/graph/dtype.js';
import { Graph, Model, Node, type Shape, Value } from '../../src/graph/ir.js';
import { Names } from '../../src/graph/names.js';
import { encodeModel } from '../../src/graph/proto/codec.js';
import { Tensor } from '../../src/graph/tensor.js';
import { type AttrInit, Builder, toAttrs } from '../../src/ops/core/builder.js';
import type { Provider } from '../../src/ops/core/provider.js';
import { loadOperators } from '../../src/ops/index.js';
import { type BackwardOptions, backward } from '../../src/passes/differentiate/backward.js';
import { expandExtensions } from '../../src/passes/normalize/expand-extensions.js';
import { inferShapes } from '../../src/passes/normalize/infer-shapes.js';
import { type Feeds, Session, sessionShapes } from '../../src/runtime/session.js';

/** A floating-point input by its shape (filled with well-spread numbers) or contents; null where omitted. */
export type Input = readonly number[] | Tensor | null;

export type VjpCase = {
  attrs?: AttrInit;
  domain?: string;
  opset?: number;
  outputs?: number;
  /** Positions of outputs that the node does not have. */
  omitted?: readonly number[];
  /** Positions of inputs that are initializers: axes, shapes, pads ... known before the run. */
  constants?: readonly number[];
  /** Positions of inputs to differentiate; all floating-point ones where not given. */
  wrt?: readonly number[];
  /** Positions of outputs that get a cotangent; all floating-point ones where not given. */
  cotangents?: readonly number[];
  /** Range of the numbers that shapes are filled with. */
  range?: readonly [number, number];
  /** Hides extents from the rule, which then has to work with symbolic ones: all, those of some inputs, or some. */
  symbolic?: boolean | readonly number[] | ((input: number, axis: number) => boolean);
  /** Positions of elements to compare, by input; all where not given. */
  only?: Readonly<Record<number, readonly number[]>>;
  /** Largest allowed difference, relative to the largest element of the reference (or 1). */
  tolerance?: number;
  /** Step of the central differences. */
  step?: number;
  dtype?: DType;
  options?: BackwardOptions;
  /** The execution provider to write the gradient for; cpu where not given. */
  provider?: Provider;
  /** Sees the graph with its backward pass. */
  written?: (graph: Graph) => void;
};

/** Numbers in [low, high) from a linear congruential generator: distinct, so that no maximum is tied. */
export function spread(
  shape: readonly number[],
  [low, high]: readonly [number, number] = [-2, 2],
  seed = 1,
): Tensor {
  let state = seed * 2654435761;
  const size = shape.reduce((n, d) => n * d, 1);
  const data = Float32Array.from({ length: size }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return low + ((high - low) * state) / 2 ** 32;
  });
  return Tensor.from('float32', shape, data);
}

export const ints = (values: readonly number[], dims: readonly number[] = [values.length]): Tensor =>
  Tensor.from('int64', dims, BigInt64Array.from(values, BigInt));
export const floatsOf = (values: readonly number[], dims: readonly number[] = [values.length]): Tensor =>
  Tensor.from('float32', dims, Float32Array.from(values));
export const bools = (values: readonly number[], dims: readonly number[] = [values.length]): Tensor =>
  new Tensor('bool', dims, Uint8Array.from(values));

/** Checks the rule of `opType` on these inputs. Fails with the position of the largest difference. */
export async function checkVjp(opType: string, inputs: readonly Input[], c: VjpCase = {}): Promise<void> {
  const tensors = inputs.map((x, i) => (x === null || x instanceof Tensor ? x : spread(x, c.range, i + 1)));
  const { model, ins, outs } = singleNode(opType, tensors, c);
  await checkModel(model, ins, outs, tensors, c);
}

/** Gradients of <dy, y> where y is the first output, for the inputs at `wrt` (the first one where not given). */
export function vjpOf(
  opType: string,
  tensors: readonly (Tensor | null)[],
  dy: Tensor,
  c: VjpCase = {},
): Promise<Tensor[]> {
  const { model, ins } = singleNode(opType, tensors, c);
  const feeds = Object.fromEntries(model.graph.inputs.map(v => [v.name, tensors[ins.indexOf(v)]!]));
  return gradients(
    model,
    (c.wrt ?? [0]).map(i => ins[i]!),
    { y0: dy },
    feeds,
    c,
  );
}

/** The same for any small model: `ins[i]` is fed `tensors[i]`. */
export async function checkModel(
  model: Model,
  ins: readonly (Value | null)[],
  outs: readonly Value[],
  tensors: readonly (Tensor | null)[],
  c: VjpCase = {},
): Promise<void> {
  const feeds: Feeds = {};
  ins.forEach((v, i) => {
    if (v && model.graph.inputs.includes(v)) feeds[v.name] = tensors[i]!;
  });
  const forward = await Session.create(encodeModel(await runnable(model)));
  const y = await forward.run(feeds);
  const floating = outs.filter((o, i) =>
    c.cotangents ? c.cotangents.includes(i) : !c.omitted?.includes(i) && isFloat(y[o.name]!.dtype),
  );
  const dys = Object.fromEntries(floating.map((o, i) => [o.name, spread(y[o.name]!.dims, [-1, 1], 100 + i)]));
  const wrt = ins.flatMap((v, i) =>
    v && (c.wrt ? c.wrt.includes(i) : isFloat(tensors[i]!.dtype)) ? [i] : [],
  );
  const grads = await gradients(
    model,
    wrt.map(i => ins[i]!),
    dys,
    feeds,
    c,
    y,
  );
  for (const [k, i] of wrt.entries()) {
    const reference = await differences(forward, feeds, ins[i]!.name, dys, c.step ?? 1e-2);
    const scale = Math.max(1, ...(c.only?.[i]?.map(j => reference[j]!) ?? reference).map(Math.abs));
    expect(grads[k]!.dims, `shape of the gradient of input ${i}`).toEqual(tensors[i]!.dims);
    const got = grads[k]!.numbers();
    const compared = c.only?.[i] ?? got.map((_, j) => j);
    const error = (j: number) => Math.abs(got[j]! - reference[j]!);
    const worst = compared.reduce((w, j) => (error(j) > error(w) ? j : w), compared[0]!);
    if (got.length)
      expect(
        Math.abs(got[worst]! - reference[worst]!) / scale,
        `gradient of input ${i} at ${worst}: ${got[worst]}, by differences ${reference[worst]}`,
      ).toBeLessThan(c.tolerance ?? 2e-3);
  }
  await forward.release();
}

/** A copy of the model, in which what no kernel computes is expanded. */
export async function runnable(model: Model): Promise<Model> {
  const copy = cloneModel(model);
  await loadOperators(copy.graph);
  await expandExtensions(copy, sessionShapes);
  return copy;
}

export function singleNode(opType: string, tensors: readonly (Tensor | null)[], c: VjpCase) {
  const graph = new Graph('test');
  const ins = tensors.map((t, i) => {
    if (!t) return null;
    const isHidden = (axis: number) => {
      if (typeof c.symbolic === 'function') return c.symbolic(i, axis);
      return Array.isArray(c.symbolic) ? c.symbolic.includes(i) : c.symbolic;
    };
    const shape: Shape = t.dims.map((n, axis) => (isFloat(t.dtype) && isHidden(axis) ? `d${i}_${axis}` : n));
    const value = new Value(`x${i}`, { kind: 'tensor', dtype: t.dtype, shape });
    if (c.constants?.includes(i)) graph.initializers.set(value, t);
    else graph.inputs.push(value);
    return value;
  });
  const outs = Array.from({ length: c.outputs ?? 1 }, (_, i) => new Value(`y${i}`));
  const written = outs.map((o, i) => (c.omitted?.includes(i) ? null : o));
  const node = new Node(opType, ins, written, toAttrs(c.attrs ?? {}));
  node.domain = c.domain ?? '';
  node.name = 'node';
  graph.append(node);
  graph.outputs = written.flatMap(o => (o ? [new Value(o.name)] : []));
  const model = new Model(graph);
  model.irVersion = 10;
  model.opsetImports = new Map([['', c.opset ?? 18]]);
  if (c.domain) model.opsetImports.set(c.domain, 1);
  return { model, ins, outs };
}

/** Runs the backward pass of `model` for these cotangents. Its outputs must still be the `expected` ones. */
export async function gradients(
  model: Model,
  wrt: readonly Value[],
  dys: Feeds,
  feeds: Feeds,
  c: VjpCase = {},
  expected: Feeds = {},
): Promise<Tensor[]> {
  await loadOperators(model.graph);
  await expandExtensions(model, sessionShapes, c.provider);
  await inferShapes(model, sessionShapes);
  const { graph } = model;
  const { provider } = c;
  const g = new Builder(graph, { names: Names.of(model), opsets: model.opsetImports, provider });
  const written = new Map(
    graph.nodes.flatMap(n => n.outputs.filter(v => v !== null).map(v => [v.name, v] as const)),
  );
  const seeds = new Map(
    Object.entries(dys).map(([name, dy]) => {
      const y = written.get(name)!;
      const input = new Value(`${name}_cotangent`, {
        kind: 'tensor',
        dtype: dy.dtype,
        shape: y.shape ?? dy.dims.map(() => null),
      });
      graph.inputs.push(input);
      return [y, g.of(input)] as const;
    }),
  );
  const grads = backward(g, seeds, wrt, c.options);
  const names = grads.map((e, i) => {
    if (!e) throw new Error(`No gradient arrives at '${wrt[i]!.name}'.`);
    const out = new Value(`gradient_${i}`);
    g.identity(e.value, out);
    graph.addOutputs(out);
    return out.name;
  });
  c.written?.(graph);
  const session = await Session.create(encodeModel(model));
  const cotangents = Object.fromEntries(Object.entries(dys).map(([name, dy]) => [`${name}_cotangent`, dy]));
  const results = await session.run({ ...feeds, ...cotangents }, [...names, ...Object.keys(expected)]);
  await session.release();
  for (const [name, y] of Object.entries(expected)) {
    const want = y.numbers();
    const bound = 1e-4 * Math.max(1, ...want.map(Math.abs));
    const isClose = results[name]!.numbers().every((v, i) => Math.abs(v - want[i]!) <= bound);
    expect(isClose, `output ${name} is still ${want}`).toBe(true);
  }
  return names.map(n => results[n]!);
}

/** d/dx of sum(y * dy) by central differences, in float64 around the float32 forward pass. */
async function differences(
  forward: Session,
  feeds: Feeds,
  name: string,
  dys: Feeds,
  step: number,
): Promise<number[]> {
  const x = feeds[name]!;
  const loss = async (at: number, by: number) => {
    const data = Float32Array.from(x.numbers());
    data[at]! += by;
    const y = await forward.run({ ...feeds, [name]: Tensor.from('float32', x.dims, data) });
    let sum = 0;
    for (const [out, dy] of Object.entries(dys)) {
      const values = y[out]!.numbers();
      dy.numbers().forEach((d, i) => {
        sum += d * values[i]!;
      });
    }
    return sum;
  };
  const result: number[] = [];
  for (let i = 0; i < x.size; i++) result.push(((await loss(i, step)) - (await loss(i, -step))) / (2 * step));
  return result;
}
