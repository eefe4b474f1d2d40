import { cloneNodes } from '../../graph/clone.js';
import { AgdError } from '../../graph/errors.js';
import type { Node, Value } from '../../graph/ir.js';
import { topologicalOrder } from '../../graph/topological-order.js';
import { type Builder, RANDOM } from '../../ops/core/builder.js';
import type { Expr } from '../../ops/core/expr.js';
import { cutSegments } from './cut-segments.js';

/**
 * Recomputes activations in the backward pass instead of keeping them. The forward pass, which consists of the nodes
 * that `results` depend on, is cut into segments: about the square root of its node count if `segments` gives no
 * number. Values that cross a cut are kept, and so are `results`. Once the backward pass of the later segments is
 * done, the nodes of a segment run again, and its own backward pass reads the copies. Outputs of random nodes and of
 * nodes with subgraphs are kept, so that masks stay the same. Must run after the backward pass, whose results are
 * `gradients`.
 *
 * A runtime would merge a copy of a node with the original, and would not delay it. Inputs of the copies therefore
 * pass through a Reshape whose shape consists of zeros computed from the gradients to wait for. It keeps the shape,
 * copies nothing, and no optimizer can evaluate it before the run. Before another reshape it is
 * an Expand by ones, which copies: ONNX Runtime 1.30 fuses consecutive reshapes, and fails where a shape is computed.
 *
 * Returns whether anything is recomputed. Throws `bad-option` for an invalid number of segments. Source: Chen et al.,
 * Training Deep Nets with Sublinear Memory Cost, arXiv:1604.06174.
 */
export function checkpointActivations(
  g: Builder,
  results: readonly Value[],
  gradients: readonly Value[],
  segments?: number,
): boolean {
  if (segments !== undefined && !(Number.isInteger(segments) && segments > 0))
    throw new AgdError(
      'bad-option',
      `Activations are computed again in a whole number of segments, not ${segments}.`,
    );
  const { nodes } = g.graph;
  const forward = forwardPass(nodes, results);
  const plan = planSegments(g, forward, results, segments);
  const backward = nodes.filter(node => !forward.has(node));
  const waves = backwardWaves(plan, backward, gradients);

  let changed = false;
  for (let segment = plan.last - 1; segment >= 0; segment--) {
    const readers = backward.filter(node => node.inputs.some(v => v && plan.segment.get(v) === segment));
    const wave = waves.slice(segment + 1).find(values => values.length);
    if (!readers.length || !wave) continue;
    const late = computeAgain(g, plan, segment, readers, waiting(g, wave));
    for (const node of readers) node.inputs = node.inputs.map(v => v && (late.get(v) ?? v));
    changed = true;
  }
  g.graph.nodes = topologicalOrder(g.graph.nodes);
  return changed;
}

type Plan = {
  /** The segment after which the backward pass begins: nothing in it is recomputed. */
  last: number;
  /**
   * When the backward pass needs each value that depends on the data: with the last segment that reads or writes it.
   */
  segment: ReadonlyMap<Value, number>;
  /** The nodes to copy if the backward pass reads their outputs. */
  again: ReadonlyMap<Value, Node>;
};

/** The nodes that `results` depend on. */
function forwardPass(nodes: readonly Node[], results: readonly Value[]): Set<Node> {
  const live = new Set(results);
  const forward = new Set<Node>();
  for (const node of nodes.toReversed()) {
    if (!node.outputs.some(o => o && live.has(o))) continue;
    forward.add(node);
    for (const v of readBy(node)) live.add(v);
  }
  return forward;
}

function planSegments(
  g: Builder,
  forward: ReadonlySet<Node>,
  results: readonly Value[],
  count?: number,
): Plan {
  const { nodes, inputs, initializers, outputs } = g.graph;
  const varying = new Set(inputs.filter(v => !initializers.has(v)));
  const active: Node[] = [];
  for (const node of nodes) {
    if (!forward.has(node) || !readBy(node).some(v => varying.has(v))) continue;
    active.push(node);
    for (const o of node.outputs) if (o) varying.add(o);
  }
  const places = cutSegments(active, count ?? Math.round(Math.sqrt(active.length)));
  const segment = new Map<Value, number>();
  const again = new Map<Value, Node>();
  active.forEach((node, i) => {
    for (const v of readBy(node)) {
      if (!varying.has(v)) continue;
      if ((segment.get(v) ?? -1) < places[i]!) again.delete(v);
      segment.set(v, places[i]!);
    }
    for (const o of node.outputs) {
      if (!o) continue;
      segment.set(o, places[i]!);
      if (!RANDOM.has(node.opType) && node.subgraphs().length === 0) again.set(o, node);
    }
  });
  for (const node of nodes)
    for (const v of node.subgraphs().flatMap(sub => sub.captures())) {
      segment.delete(v);
      again.delete(v);
    }
  for (const v of [...outputs, ...results]) again.delete(v);
  return { last: places.at(-1) ?? 0, segment, again };
}

/**
 * By segment, the values that are ready once its backward pass is done: those that the backward pass of earlier
 * segments reads, and gradients. A node belongs to the earliest segment that it depends on.
 */
function backwardWaves(plan: Plan, backward: readonly Node[], gradients: readonly Value[]): Value[][] {
  const wave = new Map<Value, number>();
  const ends = new Set<Value>();
  for (const node of backward) {
    const reads = readBy(node);
    const known = reads.map(v => wave.get(v) ?? plan.segment.get(v)).filter(s => s !== undefined);
    if (!known.length) continue;
    const own = Math.min(...known);
    for (const v of reads) if (wave.has(v) && wave.get(v)! > own) ends.add(v);
    for (const o of node.outputs) if (o) wave.set(o, own);
  }
  for (const v of gradients) if (wave.has(v)) ends.add(v);
  const waves: Value[][] = Array.from({ length: plan.last + 1 }, () => []);
  for (const v of ends) if (v.dtype && v.dtype !== 'string') waves[wave.get(v)!]!.push(v);
  return waves;
}

/** An int64 zero that depends on all of `values`. */
function waiting(g: Builder, values: readonly Value[]): Expr {
  const [first, ...rest] = values.map(v => g.of(v).reshape([-1]).slice([0], [1], [0]).cast('float32'));
  const seen = first!.concat(rest, 0);
  return seen.op('Less', [seen]).cast('int64').sum([0], { keepdims: true });
}

const RESHAPES: ReadonlySet<string> = new Set(['Reshape', 'Squeeze', 'Unsqueeze']);

/** The replacements for what `readers` read of a segment: recomputed values, or kept ones reshaped after `zero`. */
function computeAgain(
  g: Builder,
  { segment, again }: Plan,
  at: number,
  readers: readonly Node[],
  zero: Expr,
): Map<Value, Value> {
  const wanted = new Set(readers.flatMap(node => node.inputs).filter(v => v && segment.get(v) === at));
  const isAgain = (v: Value) => segment.get(v) === at && again.has(v);
  const copied: Node[] = [];
  for (const node of g.graph.nodes.toReversed()) {
    if (!node.outputs.some(o => o && wanted.has(o) && isAgain(o))) continue;
    copied.push(node);
    for (const v of node.inputs) wanted.add(v);
  }
  const reshapes = [...copied, ...readers].filter(node => RESHAPES.has(node.opType));
  const reshaped = new Set(reshapes.map(node => node.inputs[0]));
  const late = new Map<Value, Value>();
  for (const v of wanted) {
    if (!v?.shape?.length || !segment.has(v) || isAgain(v)) continue;
    // A zero in the shape input of Reshape keeps that extent.
    const waits = reshaped.has(v)
      ? g.of(v).expand(zero.add(g.ints([1])))
      : g.of(v).reshape(zero.expand(g.ints([v.shape.length])));
    late.set(v, waits.typed(v.type).value);
  }
  const name = (old: string) => g.scope.names.fresh(`${old}_again`);
  g.adopt(cloneNodes(copied.reverse(), { values: late, name }));
  return late;
}

/** All inputs of a node, including those of its subgraphs. */
function readBy(node: Node): Value[] {
  const captured = node.subgraphs().flatMap(sub => sub.captures());
  return [...node.inputs.filter(v => v !== null), ...captured];
}
