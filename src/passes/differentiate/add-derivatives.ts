/** Adds gradients, vector-Jacobian products, Jacobians or Hessians as outputs of a graph. */
import { dependents } from '../../graph/dependents.js';
import { isFloat } from '../../graph/dtype.js';
import { AgdError } from '../../graph/errors.js';
import { type Graph, type Shape, showShape, type Value, type ValueType } from '../../graph/ir.js';
import { stackType } from '../../ops/core/bodies.js';
import type { Builder } from '../../ops/core/builder.js';
import type { Expr } from '../../ops/core/expr.js';
import { finish } from '../../ops/core/scan.js';
import type { DerivativeMode } from '../options/derivatives.js';
import { type BackwardOptions, backward } from './backward.js';

/** Names in the file, by the value that they belong to. */
export type DerivativeNames = {
  /** Inputs: `<y>_cotangent` of a differentiated value, `<x>_tangent` of a variable. */
  directions: { of: string; input: string }[];
  /** Outputs: `<x>_grad`, `<y>_tangent`, `<y>_<x>_jacobian`, `<x>_hvp` or `<x>_<x>_hessian`. */
  results: { of: string; by?: string; output: string }[];
};

/**
 * Adds derivatives of the values `ys` with respect to the values `xs`, and inputs for their directions:
 *
 * - gradient: dy/dx of a scalar y
 * - vjp: the sum over y of u dy/dx, with the cotangent u of y as an input
 * - jvp: the sum over x of dy/dx v, with the tangent v of x as an input: u dy/dx is linear in u, so that its own
 *   vector-Jacobian product with v is dy/dx v for any u
 * - jacobian: dy/dx of shape [y ..., x ...], a vector-Jacobian product for each element of y in a Scan
 * - hvp: the gradient, and the sum over x' of d2y/dx dx' v, with tangents v as inputs: the gradient of gradient times v
 * - hessian: d2y/dx dx' of shape [x ..., x' ...] for each pair, a product for each element of x in a Scan
 *
 * All become outputs of the graph, `ys` first. A derivative that is zero everywhere is an output of zeros. Throws
 * `bad-option` if y must be a scalar and is not, and `no-gradient` as `backward` does.
 */
export function addDerivatives(
  g: Builder,
  ys: readonly Value[],
  xs: readonly Value[],
  mode: DerivativeMode,
  options: BackwardOptions = {},
): DerivativeNames {
  const names: DerivativeNames = { directions: [], results: [] };
  g.graph.outputs = [...ys];
  const direction = (of: Value, kind: string) => {
    const input = g.input(`${of.name}_${kind}`, of.type);
    names.directions.push({ of: of.name, input: input.value.name });
    return input;
  };
  const result = (e: Expr, name: string, of: Value, by?: Value) => {
    const value = g.rename(e, name);
    g.graph.addOutputs(value);
    names.results.push({ of: of.name, ...(by && { by: by.name }), output: value.name });
  };
  const pullback = (seeds: readonly (readonly [Value, Expr])[], wrt: readonly Value[]) =>
    backward(g, summed(seeds), wrt, options);
  const zeros = (x: Value) => g.of(x).zeros();

  if (mode === 'gradient' || mode === 'vjp') {
    const grads = pullback(
      ys.map(y => [y, mode === 'vjp' ? direction(y, 'cotangent') : onesOf(g, y)]),
      xs,
    );
    for (const [i, x] of xs.entries()) result(grads[i] ?? zeros(x), `${x.name}_grad`, x);
  } else if (mode === 'jvp') {
    const tangents = xs.map(x => direction(x, 'tangent'));
    for (const y of ys) {
      const u = g.newValue(`${y.name}_any`, y.type);
      g.identity(zeros(y).value, u);
      const pulled = pullback([[y, g.of(u)]], xs);
      const [pushed] = pullback(pairs(pulled, tangents), [u]);
      result(pushed ?? zeros(y), `${y.name}_tangent`, y);
    }
  } else if (mode === 'jacobian') {
    for (const y of ys) {
      const rows = byRows(g, y, u => pullback([[y, g.of(u)]], xs));
      for (const [i, x] of xs.entries())
        result(shaped(g, rows[i], y, x), `${y.name}_${x.name}_jacobian`, y, x);
    }
  } else {
    const [y] = ys as [Value];
    const grads = pullback([[y, onesOf(g, y)]], xs);
    if (mode === 'hvp') {
      const tangents = xs.map(x => direction(x, 'tangent'));
      const products = pullback(pairs(grads, tangents), xs);
      for (const [i, x] of xs.entries()) result(grads[i] ?? zeros(x), `${x.name}_grad`, x);
      for (const [i, x] of xs.entries()) result(products[i] ?? zeros(x), `${x.name}_hvp`, x);
    } else
      for (const [i, x] of xs.entries()) {
        const grad = grads[i];
        const rows = grad ? byRows(g, x, v => pullback([[grad.value, g.of(v)]], xs)) : [];
        for (const [j, other] of xs.entries())
          result(shaped(g, rows[j], x, other), `${x.name}_${other.name}_hessian`, x, other);
      }
  }
  return names;
}

/** The values with these names: outputs, or intermediate values of a floating-point type. Throws `no-such-value`. */
export function valuesToDifferentiate(graph: Graph, names: readonly string[]): Value[] {
  return names.map(name => {
    const inner = () => graph.nodes.flatMap(n => n.outputs).find(v => v?.name === name);
    const y = graph.outputs.find(v => v.name === name) ?? inner();
    const known = graph.outputs.map(v => `'${v.name}'`).join(', ');
    if (!y) throw new AgdError('no-such-value', `The model computes no '${name}'; its outputs are ${known}.`);
    if (!isFloat(y.dtype))
      throw new AgdError('bad-dtype', `'${name}' is ${y.dtype ?? 'not a tensor'}: it has no derivative.`);
    return y;
  });
}

/** Throws `bad-option` if the differentiated value must be a single number and is not. */
export function checkModes(ys: readonly Value[], mode: DerivativeMode): void {
  if (!['gradient', 'hvp', 'hessian'].includes(mode)) return;
  if (ys.length > 1)
    throw new AgdError(
      'bad-option',
      `A ${mode} is of one value, not of ${ys.map(y => `'${y.name}'`).join(', ')}.`,
    );
  const [y] = ys as [Value];
  if (y.shape?.every(d => d === 1)) return;
  const shape = y.shape ? `of shape ${showShape(y.shape)}` : 'of unknown shape';
  throw new AgdError(
    'bad-option',
    `'${y.name}' is ${shape}, and a ${mode} is of a scalar: differentiate a loss, or choose --mode vjp, jvp or jacobian.`,
  );
}

const onesOf = (g: Builder, y: Value) => g.of(y).ones();

/** The derivatives that are not zero everywhere, with their directions. */
const pairs = (values: readonly (Expr | undefined)[], directions: readonly Expr[]) =>
  values.flatMap((e, i) => (e ? [[e.value, directions[i]!] as const] : []));

/** Adds up directions of the same value: it may be the gradient of several variables. */
function summed(seeds: readonly (readonly [Value, Expr])[]): Map<Value, Expr> {
  const sums = new Map<Value, Expr>();
  for (const [value, e] of seeds) sums.set(value, sums.get(value)?.add(e) ?? e);
  return sums;
}

/**
 * Applies `linear` to each unit tensor of the type of `y`, which is 1 at one element and 0 elsewhere, and stacks the
 * results along a new first axis. The nodes that depend on the unit tensor are the body of a Scan; the others are
 * computed once.
 */
function byRows(
  g: Builder,
  y: Value,
  linear: (unit: Value) => readonly (Expr | undefined)[],
): (Expr | undefined)[] {
  const shape = g.of(y).dims();
  const count = g.of(y).op('Size');
  const [start, step] = [g.scalar(0, 'int64'), g.scalar(1, 'int64')];
  const places = g.emit('Range', [start, count, step])[0]!;
  const unit = g.newValue(`${y.name}_unit`, y.type);
  const results = linear(unit);
  const found = results.filter(e => e !== undefined);
  if (!found.length) return [];
  const b = g.subgraph('row');
  const place = b.input('place', { kind: 'tensor', dtype: 'int64', shape: [] });
  const row = b.of(places.value).equal(place).cast(y.dtype!).reshape(b.of(shape.value));
  b.identity(row.value, unit);
  const inner = dependents(g.graph.nodes, [unit]);
  g.graph.remove(inner);
  b.graph.append(...inner);
  finish(
    b,
    found.map(e => b.of(e.value)),
  );
  const types = found.map((e): ValueType | undefined => stackType(e.type, 0, null));
  const outputs = { outputs: found.length, types };
  const stacked = g.emit('Scan', [places], { body: b.graph, num_scan_inputs: 1 }, outputs);
  return results.map(e => e && stacked[found.indexOf(e)]!);
}

/** Reshapes rows, one per element of `y`, to [y ..., x ...]; zeros if there are none. */
function shaped(g: Builder, rows: Expr | undefined, y: Value, x: Value): Expr {
  const shape = g
    .of(y)
    .dims()
    .concat([g.of(x).dims()], 0);
  const dims: Shape | undefined = y.shape && x.shape && [...y.shape, ...x.shape];
  const type: ValueType = { kind: 'tensor', dtype: x.dtype!, ...(dims && { shape: dims }) };
  const whole = rows ? rows.reshape(shape) : g.scalar(0, x.dtype!).op('Expand', [shape]);
  return whole.typed(type);
}
