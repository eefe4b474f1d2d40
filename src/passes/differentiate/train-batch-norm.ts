import { dependentValues } from '../../graph/dependents.js';
import { AgdError } from '../../graph/errors.js';
import type { Graph, Node, Value } from '../../graph/ir.js';
import { topologicalOrder } from '../../graph/topological-order.js';
import type { Builder } from '../../ops/core/builder.js';
import type { Expr } from '../../ops/core/expr.js';
import { channelMoments } from '../../ops/core/moments.js';
import { NodeView } from '../../ops/core/rule.js';
import { isAttachedNode } from '../normalize/attached.js';
import type { LeastBatch } from '../options.js';
import type { StateUpdate } from '../update/transition.js';

type Operands = readonly [x: Expr, scale: Expr, bias: Expr, mean: Expr, variance: Expr];

/**
 * Sets batch normalization to training mode (`train`) or inference mode (`eval`), regardless of the exported mode. In
 * training mode, returns the updates of the running statistics, as in PyTorch: r' = momentum r + (1 - momentum) s,
 * with the unbiased variance of the batch; a layer that is used several times is updated once per use, in order.
 * Normalization of weights rather than data is left unchanged. Throws `unsupported-op` for training mode in the body
 * of another operator.
 */
export function trainBatchNorm(g: Builder, mode: 'train' | 'eval'): StateUpdate[] {
  for (const node of inBodies(g.graph)) {
    if (mode === 'train') throw statisticsInBody(node);
    infer(node);
  }
  if (!g.graph.nodes.some(isBatchNorm)) return [];
  const data = dependentValues(g.graph.nodes, g.graph.inputs);
  const next = new Map<Value, Expr>();
  rewrite(g, node => {
    if (!data.has(node.inputs[0]!)) return;
    if (mode === 'eval' || isAttachedNode(node)) return keepStatistics(g, node);
    node.setAttr('training_mode', { type: 'int', value: 1 });
    updateStatistics(new NodeView<Operands>(node, g, g.opset()), next);
  });
  return [...next].map(([state, e]) => ({ state, value: e.value }));
}

/**
 * What batch statistics require of a batch: two values per channel, as in PyTorch; with one value, every channel
 * becomes its bias. Undefined if one sample is enough, or if only the run can tell. Throws `bad-shape` if the graph
 * fixes the batch at one value per channel.
 */
export function leastBatchOf({ graph }: Builder): LeastBatch | undefined {
  if (!graph.nodes.some(isBatchNorm)) return undefined;
  const data = dependentValues(graph.nodes, graph.inputs);
  const batchAxes = new Set(graph.inputs.map(v => v.shape?.[0]));
  const flat = graph.nodes.filter(node => {
    const [x] = node.inputs;
    return (
      isBatchNorm(node) && !isAttachedNode(node) && data.has(x!) && x!.shape?.slice(2).every(d => d === 1)
    );
  });
  const single = flat.find(node => node.inputs[0]!.shape![0] === 1);
  if (single) throw singleValue(single.label);
  for (const { label, inputs } of flat) {
    const axis = inputs[0]!.shape![0];
    if (typeof axis === 'string' && batchAxes.has(axis)) return { axis, samples: 2, node: label };
  }
  return undefined;
}

export function singleValue(node: string): AgdError {
  return new AgdError(
    'bad-shape',
    `Cannot train ${node} on the statistics of a batch with one value per channel: use larger batches, or --batch-norm eval.`,
  );
}

export function nothingToSynchronize(batchNorm: 'train' | 'eval'): AgdError {
  return new AgdError(
    'bad-option',
    batchNorm === 'eval'
      ? '--sync-batch-norm cannot be combined with --batch-norm eval, which uses the running statistics.'
      : '--sync-batch-norm: the model has no batch normalization.',
  );
}

/** Sets inference mode, which has a single output. */
function infer(node: Node): void {
  node.setAttr('training_mode', { type: 'int', value: 0 });
  node.outputs = node.outputs.slice(0, 1);
}

/** Sets inference mode; running statistics are passed on unchanged. */
function keepStatistics(g: Builder, node: Node): void {
  node.outputs.slice(1).forEach((next, i) => {
    if (next) g.identity(node.inputs[3 + i]!, next);
  });
  infer(node);
}

/** Whether the graph contains batch normalization, at any depth. */
export const hasBatchNorm = (graph: Graph): boolean =>
  graph.nodes.some(isBatchNorm) || inBodies(graph).length > 0;

/** The batch normalizations in branches and loops, at any depth. */
function inBodies(graph: Graph): Node[] {
  const bodies = graph.owners.flatMap(node => node.subgraphs());
  return bodies.flatMap(body => [...body.nodes.filter(isBatchNorm), ...inBodies(body)]);
}

function statisticsInBody(node: Node): AgdError {
  return new AgdError(
    'unsupported-op',
    `Cannot train ${node.label} on the statistics of the batch: it is in a branch or loop, which cannot update its ` +
      'running statistics. Use --batch-norm eval.',
  );
}

/**
 * Expands training-mode batch normalization into inference mode with the statistics of the batch, as only the CPU has
 * a kernel for training mode. Must run after the backward pass, whose gradient of the whole operator is shorter.
 */
export function lowerBatchNorm(g: Builder): void {
  const { nodes } = g.graph;
  if (!nodes.some(isBatchNorm)) return;
  rewrite(g, node => {
    if (Number(attrValue(node, 'training_mode') ?? 0) === 0) return;
    const view = new NodeView<Operands>(node, g, g.opset());
    const { mean, variance } = channelMoments(view.inputs[0]);
    const momentum = view.attrs.float('momentum', 0.9);
    const flat = [mean.reshape([-1]), variance.reshape([-1])] as const;
    flat.forEach((batch, i) => {
      const running = node.outputs[1 + i];
      if (running) g.identity(blend(view.inputs[3 + i]!, batch, momentum).value, running);
      node.setInput(3 + i, batch.value);
    });
    infer(node);
  });
  // The backward pass may compute the statistics already, after the node.
  g.graph.nodes = topologicalOrder(g.graph.nodes);
}

/** Runs `change` on every BatchNormalization; the nodes that it emits precede the node. */
function rewrite(g: Builder, change: (node: Node) => void): void {
  const { nodes } = g.graph;
  if (!nodes.some(isBatchNorm)) return;
  const result: Node[] = [];
  for (const node of nodes) {
    if (isBatchNorm(node)) g.into(result, () => change(node));
    result.push(node);
  }
  g.graph.nodes = result;
}

const isBatchNorm = (node: Node) => node.opType === 'BatchNormalization' && node.domain === '';

function attrValue(node: Node, attr: string): unknown {
  const found = node.attrs.get(attr);
  return found && 'value' in found ? found.value : undefined;
}

/**
 * Records the next value of the running statistics, after that of an earlier use, if any; computed statistics are not
 * updated.
 */
function updateStatistics(node: NodeView<Operands>, next: Map<Value, Expr>): void {
  const [x, , , mean, variance] = node.inputs;
  const { count, ...batch } = channelMoments(x);
  // A single value has no variance: 0 / 0 is NaN and stops the run.
  const unbiased = batch.variance.reshape([-1]).mul(count.div(count.sub(1)));
  const momentum = node.attrs.float('momentum', 0.9);
  const update = ({ value, g }: Expr, s: Expr) => {
    if (g.graph.initializers.has(value)) next.set(value, blend(next.get(value) ?? g.of(value), s, momentum));
  };
  update(mean, batch.mean.reshape([-1]));
  update(variance, unbiased);
}

const blend = (running: Expr, batch: Expr, momentum: number) =>
  running.mul(momentum).add(batch.mul(1 - momentum));
