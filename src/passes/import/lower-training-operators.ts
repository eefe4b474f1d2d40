/** Converts the operators of `ai.onnx.preview.training` (Gradient and optimizers) to standard ones. */
import { cloneNodes } from '../../graph/clone.js';
import { dependents } from '../../graph/dependents.js';
import { isFloat } from '../../graph/dtype.js';
import { AgdError } from '../../graph/errors.js';
import { Graph, type Model, type Node, type Value } from '../../graph/ir.js';
import { Names } from '../../graph/names.js';
import { record } from '../../graph/record.js';
import { topologicalOrder } from '../../graph/topological-order.js';
import { Builder } from '../../ops/core/builder.js';
import type { Expr } from '../../ops/core/expr.js';
import { Attributes, NodeView } from '../../ops/core/rule.js';
import { opDef } from '../../ops/index.js';
import { backward } from '../differentiate/backward.js';
import { inferShapes, type ShapeOracle } from '../normalize/infer-shapes.js';
import { inlineFunctions } from '../normalize/inline-functions.js';
import { upgradeOpset } from '../normalize/upgrade-opset.js';
import { isTrainingOperator, TRAINING_DOMAIN } from './own-step.js';

/** What the operators were: the gradient of each value, and the tensors of each optimizer. */
export type TrainingOperators = {
  gradients: Map<Value, Value>;
  optimizers: { rate: Value; count: Value; parameters: Value[]; gradients: Value[]; outputs: Value[] }[];
};

/** The number of tensors of an optimizer for each parameter: the parameter, its gradient and its state. */
const KINDS = record<number>({ Adagrad: 3, Adam: 4, Momentum: 3 });

/**
 * Converts ONNX's training operators to standard ones: a Gradient to the backward pass that it stands for, evaluated
 * at its inputs, and optimizers to their formulas. Gradients can be nested. Throws `invalid-model` for names that the
 * graph does not have, `no-gradient` for an operator without a rule.
 */
export async function lowerTrainingOperators(model: Model, oracle: ShapeOracle): Promise<TrainingOperators> {
  if (!model.opsetImports.has('')) model.opsetImports.set('', 18);
  upgradeOpset(model);
  inlineFunctions(model);
  const { graph } = model;
  const names = Names.of(model);
  const bound = new Set(model.trainingInfo.flatMap(info => info.updates.map(u => u.state)));
  const states = [...graph.initializers.keys()].filter(v => bound.has(v.name));
  const pending = graph.nodes;
  graph.nodes = [];
  const found: TrainingOperators = { gradients: new Map(), optimizers: [] };
  // Not `replaceAllUses`: nodes that are not converted yet are in no graph, so that type inference sees only those
  // before them.
  const replaced = new Map<Value, Value>();
  for (const node of pending) {
    node.inputs = node.inputs.map(v => v && (replaced.get(v) ?? v));
    if (!isTrainingOperator(node)) {
      graph.append(node);
      continue;
    }
    if (graph.nodes.length) await inferShapes(model, oracle);
    const g = new Builder(graph, { names, opsets: model.opsetImports });
    g.forget(states);
    const put = (old: Value | null, e: Expr) => {
      if (old) replaced.set(old, e.g.replace(old, e));
    };
    if (node.opType === 'Gradient') addGradient(node, g, put);
    else {
      const made = optimizer(node, g);
      node.outputs.forEach((old, i) => {
        put(old, made[i]!);
      });
    }
    const outputs = node.outputs.map(v => v && replaced.get(v)!);
    if (node.opType === 'Gradient')
      outputs.forEach((grad, i) => {
        if (grad) found.gradients.set(node.inputs[i]!, grad);
      });
    else found.optimizers.push(describeOptimizer(node, outputs));
  }
  graph.outputs = graph.outputs.map(v => replaced.get(v) ?? v);
  model.opsetImports.delete(TRAINING_DOMAIN);
  return found;
}

function optimizer(node: Node, g: Builder): readonly (Expr | undefined)[] {
  const def = opDef(node);
  const kinds = KINDS[node.opType];
  if (def?.kind !== 'expansion' || !kinds)
    throw new AgdError('unsupported-op', `${node.label} is not a known ONNX training operator.`);
  if ((node.inputs.length - 2) % kinds || node.inputs.includes(null))
    throw new AgdError('invalid-model', `${node.label} takes ${kinds} tensors for each that it optimizes.`);
  return def.expand(new NodeView(node, g, 1) as never);
}

function describeOptimizer({ opType, inputs }: Node, outputs: readonly (Value | null)[]) {
  const [rate, count, ...tensors] = inputs as Value[];
  const n = tensors.length / KINDS[opType]!;
  return {
    rate: rate!,
    count: count!,
    parameters: tensors.slice(0, n),
    gradients: tensors.slice(n, 2 * n),
    outputs: outputs.flatMap(v => v ?? []),
  };
}

/**
 * The gradients of the tensor named `y` with respect to those named `xs`. The node's inputs are the values of `xs`
 * and `zs` at which they are evaluated; if these are other tensors, the graph in between is computed again for them.
 * They are treated as independent, even if one is computed from another.
 */
function addGradient(node: Node, g: Builder, put: (old: Value | null, e: Expr) => void): void {
  const { graph } = g;
  const attrs = new Attributes(node);
  const xs = attrs.strings('xs') ?? [];
  const named = [...xs, ...(attrs.strings('zs') ?? [])].map(name => find(graph, name, node));
  if (named.length !== node.inputs.length || node.inputs.includes(null))
    throw new AgdError(
      'invalid-model',
      `${node.label} names ${named.length} tensors in xs and zs, and has ${node.inputs.length} inputs.`,
    );
  const y = find(graph, attrs.string('y', ''), node);
  const given = node.inputs as Value[];
  const target = given.every((v, i) => v === named[i]) ? y : computeAt(g, named, given, y);
  if (!isFloat(target.dtype))
    throw new AgdError(
      'bad-dtype',
      `${node.label} is to differentiate '${y.name}', which is ${target.dtype}.`,
    );

  const inner = new Set(dependents(graph.nodes, given, new Set(given)));
  const view = Graph.view(graph, { nodes: [...inner] });
  const v = new Builder(view, g.scope, g);
  const wrt = given.slice(0, xs.length);
  const grads = backward(v, new Map([[target, v.of(target).ones()]]), wrt);
  node.outputs.forEach((old, i) => {
    put(old, grads[i] ?? v.of(wrt[i]!).zeros());
  });
  graph.nodes = topologicalOrder([...graph.nodes.filter(n => !inner.has(n)), ...view.nodes]);
}

function find({ inputs, initializers, nodes }: Graph, name: string, node: Node): Value {
  const values = [...inputs, ...initializers.keys(), ...nodes.flatMap(n => n.outputs)];
  const value = values.find(v => v?.name === name);
  if (value) return value;
  throw new AgdError('invalid-model', `${node.label} names '${name}', which nothing before it computes.`);
}

/** A copy of the nodes between `from` and `y` that reads `to` instead. Returns the value that replaces `y`. */
function computeAt(g: Builder, from: readonly Value[], to: readonly Value[], y: Value): Value {
  const values = new Map(from.map((v, i) => [v, to[i]!]));
  const moved = from.filter((v, i) => v !== to[i]);
  const nodes = dependents(g.graph.nodes, moved, new Set(from));
  g.adopt(cloneNodes(nodes, { values, name: name => g.scope.names.fresh(name) }));
  return values.get(y) ?? y;
}
