import { type DType, dtypeOf } from '../../graph/dtype.js';
import type { Graph, Node, Value } from '../../graph/ir.js';
import { record } from '../../graph/record.js';
import { Builder, RANDOM } from '../../ops/core/builder.js';
import type { Expr } from '../../ops/core/expr.js';
import { NodeView } from '../../ops/core/rule.js';
import { Generator, keyOfBatch, keyOfIteration } from '../../ops/random.js';

/**
 * Replaces random operators, and dropout in training mode, by a generator keyed by the number of the batch. The
 * position of a kernel's own generator is lost with its session, so that a resumed run would draw other numbers.
 * Branches and loops are included; each iteration draws its own numbers. Returns the scalar that `numberBatches` has
 * to compute, or undefined if nothing is random. Loops without an iteration count (SequenceMap) stay as they are. `stream` makes
 * the scalar that distinguishes workers, if something is random.
 */
export function drawRandom(g: Builder, seed: number, stream?: () => Value): Value | undefined {
  if (!drawsAny(g.graph, g)) return undefined;
  const shared: Node[] = [];
  const key = g.newValue('batch_key', { kind: 'tensor', dtype: 'int64', shape: [] });
  const own = stream && g.of(stream());
  g.into(shared, () => replaceDraws(g, new Generator(g.of(key), seed, own), g.of(key)));
  g.graph.prepend(...shared);
  return key;
}

/** Computes `key`, if given, from the number of batches before this one, an int64 scalar. */
export function numberBatches(g: Builder, key: Value | undefined, batch: () => Expr): void {
  if (!key) return;
  const nodes: Node[] = [];
  g.into(nodes, () => writeTo(g, keyOfBatch(batch()), key, nodes));
  g.graph.prepend(...nodes);
}

const draws = ({ opType, domain, inputs }: Node, g: Builder): boolean =>
  domain === '' &&
  RANDOM.has(opType) &&
  (opType !== 'Dropout' || (!!inputs[2] && g.constant(inputs[2])?.numbers()[0] === 1));

const drawsAny = (graph: Graph, g: Builder): boolean =>
  graph.nodes.some(node => draws(node, g) || node.subgraphs().some(body => drawsAny(body, g)));

/** Replaces the random nodes in the graph of `g`, at any depth. Leaves the sink unchanged. */
function replaceDraws(g: Builder, generator: Generator, key: Expr): void {
  const result: Node[] = [];
  for (const node of g.graph.nodes) {
    for (const body of node.subgraphs()) {
      if (!drawsAny(body, g) || node.opType === 'SequenceMap') continue;
      const b = new Builder(body, g.scope, g);
      const within = keyWithin(node, body, b, key);
      replaceDraws(b, generator, within);
    }
    if (draws(node, g))
      g.into(result, () =>
        write(g, node, SAMPLERS[node.opType]!(new NodeView(node, g, g.opset()), generator, key), result),
      );
    else result.push(node);
  }
  g.graph.nodes = result;
}

/**
 * The key for random numbers in a subgraph; in a loop, that of the iteration. A Scan gets an iteration counter as
 * state.
 */
function keyWithin(node: Node, body: Graph, b: Builder, key: Expr): Expr {
  const own = b.of(key.value);
  if (node.opType === 'If') return own;
  if (node.opType === 'Loop') return inFront(b, body, () => keyOfIteration(own, b.of(body.inputs[0]!)));
  const { g } = key;
  const type = { kind: 'tensor', dtype: 'int64', shape: [] } as const;
  const iteration = b.newValue('iteration', type);
  const next = inFront(b, body, () => b.of(iteration).add(1));
  body.inputs.unshift(iteration);
  body.outputs = [next.value, ...body.outputs];
  node.inputs = [g.scalar(0, 'int64').value, ...node.inputs];
  node.outputs = [g.newValue('iterations', type), ...node.outputs];
  return inFront(b, body, () => keyOfIteration(own, b.of(iteration)));
}

function inFront(b: Builder, body: Graph, make: () => Expr): Expr {
  const made: Node[] = [];
  const result = b.into(made, make);
  body.prepend(...made);
  return result;
}

/** Makes `results` the outputs of `node`. */
function write(g: Builder, node: Node, results: readonly Expr[], nodes: readonly Node[]): void {
  results.forEach((e, i) => {
    const output = node.outputs[i];
    if (output) writeTo(g, e, output, nodes);
  });
}

/** Makes `to` an output of the last collected node if that computes `e`, and otherwise a copy of `e`. */
function writeTo(g: Builder, e: Expr, to: Value, nodes: readonly Node[]): void {
  to.type ??= e.type;
  const writer = nodes.at(-1);
  if (writer?.outputs.length === 1 && writer.outputs[0] === e.value) writer.setOutput(0, to);
  else g.identity(e.value, to);
}

type Sampler = (node: NodeView, generator: Generator, key: Expr) => readonly Expr[];

const size = (x: Expr) => (x.staticShape ? x.count('int64') : x.op('Size'));
const likeInput = ({ attrs, inputs: [x] }: NodeView): DType => {
  const given = attrs.int('dtype', 0);
  return given ? dtypeOf(given) : x!.dtype;
};
const ofAttribute = ({ attrs }: NodeView): DType => dtypeOf(attrs.int('dtype', 1));
const shapeOf = ({ attrs, g }: NodeView) => {
  const shape = attrs.ints('shape') ?? [];
  return {
    shape,
    count: g.scalar(
      shape.reduce((n, d) => n * d, 1),
      'int64',
    ),
  };
};

function normal({ attrs }: NodeView, x: Expr): Expr {
  return x.mul(attrs.float('scale', 1)).add(attrs.float('mean', 0));
}

function uniform({ attrs }: NodeView, x: Expr): Expr {
  const low = attrs.float('low', 0);
  return x.mul(attrs.float('high', 1) - low).add(low);
}

/** The output of each random operator, computed with `generator`. */
const SAMPLERS = record<Sampler>({
  RandomNormal(node, generator, key) {
    const { shape, count } = shapeOf(node);
    return [normal(node, generator.normal(key, count)).cast(ofAttribute(node)).reshape(shape)];
  },
  RandomUniform(node, generator, key) {
    const { shape, count } = shapeOf(node);
    return [uniform(node, generator.uniform(key, count)).cast(ofAttribute(node)).reshape(shape)];
  },
  RandomNormalLike(node, generator, key) {
    const x = node.inputs[0]!;
    return [
      normal(node, generator.normal(key, size(x)))
        .cast(likeInput(node))
        .reshapeLike(x),
    ];
  },
  RandomUniformLike(node, generator, key) {
    const x = node.inputs[0]!;
    return [
      uniform(node, generator.uniform(key, size(x)))
        .cast(likeInput(node))
        .reshapeLike(x),
    ];
  },
  Bernoulli(node, generator, key) {
    const p = node.inputs[0]!;
    const drawn = generator.uniform(key, size(p)).reshapeLike(p).less(p.cast('float32'));
    return [drawn.cast(likeInput(node))];
  },
  /** The first class whose cumulative probability exceeds a uniform number. */
  Multinomial(node, generator, key) {
    const logits = node.inputs[0]!.cast('float32');
    const samples = node.attrs.int('sample_size', 1);
    const cumulated = logits
      .op('Softmax', [], { axis: -1 })
      .op('CumSum', [node.g.scalar(1, 'int64')])
      .unsqueeze([1]);
    const rows = logits.dims(0, 1);
    const u = generator.uniform(key, size(logits.dims(0, 1).squeeze([0])).mul(samples));
    const drawn = u.reshape(node.g.vector([rows, samples, 1])).greaterOrEqual(cumulated);
    const last = logits.dims(1, 2).sub(1);
    return [
      drawn
        .cast('int64')
        .sum([2])
        .minimum(last)
        .cast(dtypeOf(node.attrs.int('dtype', 6))),
    ];
  },
  Dropout(node, generator, key) {
    const [x, given] = node.inputs as unknown as [Expr, Expr | undefined];
    const ratio = given ?? node.g.scalar(0.5, 'float32');
    const kept = generator.kept(key, size(x), ratio).reshapeLike(x);
    const share = ratio.constant?.[0];
    // If everything is dropped, the scale has no effect; avoid division by zero.
    const scale =
      share === undefined
        ? ratio.cast('float32').rsub(1).reciprocal().cast(x.dtype)
        : 1 / Math.max(1 - share, 1e-6);
    return [x.mul(kept.cast(x.dtype).mul(scale)), kept];
  },
});
