/** Sharpness-aware minimization: computes the gradients once more at perturbed weights. */
import { cloneNodes } from '../../graph/clone.js';
import { dependents, reads } from '../../graph/dependents.js';
import type { Node, Value } from '../../graph/ir.js';
import type { Builder } from '../../ops/core/builder.js';
import type { Expr } from '../../ops/core/expr.js';
import type { With } from '../common/context.js';
import type { Ball, ScalarType } from '../options.js';
import { globalNorm } from '../update/clip-gradients.js';

/** As in the authors' implementations: avoids a division by a norm of 0. */
const EPSILON = 1e-12;

/**
 * Computes the gradients once more at perturbed weights w + e, where e leads to the largest loss of a ball, to first order:
 *
 *     e = rho g / |g|            adaptive: e = rho w^2 g / |w g|
 *
 * with norms over all parameters. Foret, Kleiner, Mobahi, Neyshabur: «Sharpness-Aware Minimization for Efficiently Improving
 * Generalization», ICLR 2021; adaptive: Kwon, Kim, Park, Choi: «ASAM», ICML 2021. With weighted sharpness, the optimizer takes
 * both; otherwise the tables' gradients of single rows become the new ones.
 */
export function perturbWeights(
  {
    g,
    options,
    trained,
    gradParts,
    lookups,
    lastRows,
  }: With<'g' | 'trained' | 'gradParts' | 'lookups' | 'lastRows'>,
  ball: Ball,
  type: ScalarType,
): (Expr | undefined)[][] {
  const points = trained.map((param, i) => {
    const lookup = lookups.get(param);
    const grad = gradParts.flatMap(list => list[i]?.wide() ?? []).reduce((sum, e) => sum.add(e));
    if (!lookup) return { at: param, grad };
    return { at: lookup.looked, grad, direction: grad.gather(g.of(lastRows.get(param)!)) };
  });
  const results = gradParts.flat().flatMap(e => e?.value ?? []);
  const copies = computeAgain(g, points, results, ball, type);
  const copyOf = (v: Value) => copies.get(v) ?? v;
  const again = gradParts.map(list => list.map(e => e && g.of(copyOf(e.value))));
  if (options.wsam) {
    const named = (e: Expr, { name }: Value) => g.of(g.rename(e, `${name}_perturbed_grad`));
    return again.map(list => list.map((e, i) => e && named(e, trained[i]!)));
  }
  for (const lookup of lookups.values()) {
    const pairs = [...(lookup.unsummed ?? [])];
    lookup.unsummed = new Map(pairs.map(([sum, grad]) => [copyOf(sum), copyOf(grad)]));
  }
  return again;
}

/** The value that the loss is differentiated by: a parameter, or the rows that a step looks up of a table. */
type Perturbed = {
  at: Value;
  /** Its gradient, by which norms count; each row once. */
  grad: Expr;
  /** The same in the shape of `at`, if that has rows more than once. */
  direction?: Expr;
};

/**
 * Copies the computation of `results` at perturbed weights. Returns the copy of each value. Only nodes that depend on parameters
 * are copied: dropout masks and other random numbers are those of the first pass, which alone updates running statistics.
 */
function computeAgain(
  g: Builder,
  points: readonly Perturbed[],
  results: readonly Value[],
  { rho, adaptive = false }: Ball,
  type: ScalarType,
): ReadonlyMap<Value, Value> {
  const again = between(
    g.graph.nodes,
    points.map(p => p.at),
    results,
  );
  const wide = points.map(({ at, grad, direction = grad }) => {
    const w = g.of(at).wide();
    return { w, grad: grad.wide(), direction: direction.wide() };
  });
  const norm = globalNorm(
    wide.map(({ w, grad }) => (adaptive ? w.mul(grad) : grad)),
    type,
  );
  const factor = norm.add(EPSILON).rdiv(rho);
  const copies = new Map<Value, Value>();
  for (const [i, { w, direction }] of wide.entries()) {
    const { at } = points[i]!;
    const e = (adaptive ? w.square().mul(direction) : direction).mul(factor.cast(w.dtype));
    const moved = w.add(e).cast(at.dtype!).typed(at.type);
    copies.set(at, g.rename(moved, `${at.name}_perturbed`));
  }
  const name = (old: string) => g.scope.names.fresh(`${old}_perturbed`);
  g.adopt(cloneNodes(again, { values: copies, name }));
  return copies;
}

/** The nodes through which `results` depend on `sources`, in order. */
function between(nodes: readonly Node[], sources: readonly Value[], results: readonly Value[]): Node[] {
  const needed = new Set(results);
  const leads = nodes.toReversed().filter(node => {
    const isNeeded = node.outputs.some(v => v && needed.has(v));
    if (isNeeded) for (const v of reads(node)) needed.add(v);
    return isNeeded;
  });
  return dependents(leads.reverse(), sources);
}
