import { withGraph } from '../../graph/clone.js';
import { reads } from '../../graph/dependents.js';
import { AgdError } from '../../graph/errors.js';
import { allGraphs, Graph, type Model, type Node, type Value } from '../../graph/ir.js';
import { Names } from '../../graph/names.js';
import { spellDefaultDomain } from '../../graph/proto/read.js';
import { Builder } from '../../ops/core/builder.js';
import type { Expr } from '../../ops/core/expr.js';
import { GradientNode, type Surroundings } from '../../ops/core/gradient-node.js';
import { inferTypes } from '../../ops/core/infer.js';
import { ortLowering } from '../../ops/ort-gradients/index.js';
import { inferShapes, type ShapeOracle } from '../normalize/infer-shapes.js';
import { upgradeOpset } from '../normalize/upgrade-opset.js';
import type { LossSpec } from '../options.js';
import { type Closed, closeYield, isYield } from './close-yield.js';
import { isOrtTraining } from './ort-operators.js';

/**
 * Converts a training graph of ONNX Runtime to standard operators. Buffers of accumulated gradients are removed, with
 * the signal that resets them. Running statistics that are updated in place are bound to outputs in `trainingInfo`.
 * If the graph leaves the loss to PyTorch, `loss` is attached. Returns that loss and the names of gradients by
 * parameter.
 *
 * Throws `unsupported-op` for an operator that cannot be converted, `bad-option` if a loss is required and not given.
 */
export async function lowerOrtGradients(
  model: Model,
  oracle: ShapeOracle,
  loss?: LossSpec,
): Promise<{ gradients: Map<string, string>; closed?: Closed }> {
  const { graph } = model;
  checkOperators(graph);
  const gradients = takeBuffers(graph);
  upgradeOpset(model);
  bindStatistics(model);
  const surroundings: Progress = {
    loss,
    // The original list: converted nodes leave the graph, but gradient nodes still refer to those of the forward
    // pass.
    writers: new Map(graph.nodes.flatMap(n => n.outputs.flatMap(o => (o ? [[o, n] as const] : [])))),
    values: new Map(valuesOf(graph).map(v => [v.name, v])),
    lost: new Set(),
  };
  for (;;) {
    const left = graph.nodes.find(isLowered);
    if (!left) break;
    const runnable = runnablePart(model);
    if (runnable.graph.nodes.length) await inferShapes(runnable, oracle);
    if (!lowerReady(model, surroundings))
      throw new AgdError('unsupported-op', `Cannot lower ${left.label}: the rank of an input is not known.`);
  }
  spellDefaultDomain(model);
  const domains = new Set([...allGraphs(graph)].flatMap(g => g.nodes.map(n => n.domain)));
  for (const domain of [...model.opsetImports.keys()])
    if (domain && !domains.has(domain)) model.opsetImports.delete(domain);
  if (!gradients.size) for (const pair of gradientsByName(graph)) gradients.set(...pair);
  return { gradients, closed: surroundings.closed };
}

const isLowered = (node: Node) => isYield(node) || ortLowering(node) !== undefined;

/** The nodes of ONNX Runtime's training without an equivalent in standard operators. */
export function notLowered(graph: Graph): Node[] {
  const sums = new Set(buffered(graph));
  return graph.nodes.filter(n => isOrtTraining(n) && !isLowered(n) && !sums.has(n));
}

/** Throws `unsupported-op` if there are such nodes. */
export function checkOperators(graph: Graph): void {
  const [unknown] = notLowered(graph);
  if (!unknown) return;
  throw new AgdError(
    'unsupported-op',
    `${unknown.label} of ONNX Runtime's training has no equivalent in standard operators.`,
  );
}

/** The nodes that accumulate gradients in inputs. */
function buffered({ nodes, inputs }: Graph): Node[] {
  const given = new Set<Value | null>(inputs);
  return nodes.filter(n => /^InPlaceAccumulator(V2)?$/.test(n.opType) && given.has(n.inputs[0]!));
}

const BUFFER = /_grad\.accumulation\.buffer$/;

/** Removes the nodes that accumulate gradients in buffers. Returns the gradients by parameter. */
function takeBuffers(graph: Graph): Map<string, string> {
  const sums = buffered(graph);
  const gone = new Set(sums.flatMap(n => [n.inputs[0], n.inputs[2], ...n.outputs]));
  graph.nodes = graph.nodes.filter(n => !sums.includes(n));
  for (const node of graph.nodes) for (const v of node.inputs) gone.delete(v);
  graph.inputs = graph.inputs.filter(v => !gone.has(v));
  graph.outputs = graph.outputs.filter(v => !gone.has(v));
  return new Map(
    sums.map(({ inputs: [buffer, grad] }) => {
      const name = BUFFER.test(buffer!.name)
        ? buffer!.name.replace(BUFFER, '')
        : grad!.name.replace(/_grad$/, '');
      return [name, grad!.name];
    }),
  );
}

/** Without buffers, gradients are outputs named after their parameters. */
function gradientsByName({ inputs, initializers, outputs }: Graph): [string, string][] {
  const given = new Set(outputs.map(v => v.name));
  return [...inputs, ...initializers.keys()]
    .map(({ name }): [string, string] => [name, `${name}_grad`])
    .filter(([, grad]) => given.has(grad));
}

/** The running statistics of batch normalization, which ONNX Runtime updates in place. */
function bindStatistics(model: Model): void {
  const { graph } = model;
  const updates = graph.nodes
    .filter(n => n.opType === 'BatchNormInternal')
    .flatMap(n => [1, 2].map(i => ({ state: n.inputs[i + 2]!, value: n.outputs[i] })))
    .filter(u => u.value && (graph.inputs.includes(u.state) || graph.initializers.has(u.state)))
    .map(u => ({ state: u.state.name, value: u.value!.name }));
  model.trainingInfo = updates.length ? [{ updates, initializations: [], extra: undefined }] : [];
}

function valuesOf({ inputs, initializers, nodes }: Graph): Value[] {
  return [...inputs, ...initializers.keys(), ...nodes.flatMap(n => n.outputs.flatMap(o => o ?? []))];
}

/** The nodes that stock builds can run, whose types ONNX Runtime can therefore infer. */
function runnablePart(model: Model): Model {
  const missing = new Set<Value | null>();
  const part = Graph.view(model.graph);
  part.nodes = model.graph.nodes.filter(node => {
    const runs = !isLowered(node) && !reads(node).some(v => missing.has(v));
    if (!runs) for (const o of node.outputs) missing.add(o);
    return runs;
  });
  return withGraph(model, part);
}

/** `lost` are values that only the gradient of their producer reads, which works without them. */
type Progress = Surroundings & {
  values: Map<string, Value>;
  lost: Set<Value>;
  loss: LossSpec | undefined;
  closed?: Closed;
};

/** Converts the nodes whose inputs have known ranks. Returns whether there were any. */
function lowerReady(model: Model, surroundings: Progress): boolean {
  const { graph } = model;
  const { lost, values } = surroundings;
  const g = new Builder(graph, { names: Names.of(model), opsets: model.opsetImports });
  const nodes: Node[] = [];
  let changed = false;
  for (const node of graph.nodes) {
    const ready = node.inputs.every(v => !v || v.shape || lost.has(v));
    if (!ready || !isLowered(node)) {
      checkKept(node, lost);
      nodes.push(node);
      settle(node, g, surroundings);
      continue;
    }
    changed = true;
    const outputs = g.into(nodes, () => lowered(node, g, surroundings));
    node.outputs.forEach((old, i) => {
      const made = outputs[i];
      if (old && !made) lost.add(old);
      if (!old || !made) return;
      if (!made.shape) made.typed(typeByName(old, surroundings));
      old.type = made.type;
      const now = g.into(nodes, () => g.replace(old, made));
      old.replaceAllUses(now);
      values.set(now.name, now);
    });
  }
  graph.nodes = nodes;
  return changed;
}

function lowered(node: Node, g: Builder, surroundings: Progress): readonly (Expr | undefined)[] {
  if (!isYield(node)) return byLowering(node, g, surroundings);
  const { closed, gradients } = closeYield(node, g, surroundings.loss);
  surroundings.closed = closed;
  return gradients;
}

/** There is no schema of these operators to check against; a missing input or attribute shows when it is read. */
function byLowering(node: Node, g: Builder, surroundings: Progress): readonly (Expr | undefined)[] {
  try {
    return ortLowering(node)!(new GradientNode(node, g, surroundings));
  } catch (cause) {
    if (!(cause instanceof TypeError)) throw cause;
    throw new AgdError('invalid-model', `${node.label} lacks inputs that its operator needs.`, {
      cause,
    });
  }
}

function checkKept(node: Node, lost: ReadonlySet<Value | null>): void {
  const value = isLowered(node) ? undefined : node.inputs.find(v => lost.has(v));
  if (value)
    throw new AgdError(
      'unsupported-op',
      `${node.label} reads '${value.name}', which no standard operator computes: only a gradient can.`,
    );
}

/** Infers types of the outputs of standard nodes after the first converted one. */
function settle(node: Node, g: Builder, surroundings: Surroundings): void {
  if (node.outputs.every(o => !o || o.shape)) return;
  const types =
    node.domain === ''
      ? inferTypes(
          node,
          node.inputs.map(v => (v ? g.of(v) : undefined)),
        )
      : [];
  node.outputs.forEach((o, i) => {
    if (!o || o.shape) return;
    const type = types[i];
    o.type = (type?.kind === 'tensor' && type.shape ? type : typeByName(o, surroundings)) ?? type ?? o.type;
  });
}

/** A gradient has the type of its primal. */
function typeByName({ name }: Value, { values }: Surroundings) {
  const base = name.match(/^(.+)_grad(_\w*)?$/)?.[1];
  return base === undefined ? undefined : values.get(base)?.type;
}
