/** Computes the clipped gradient of each sample in a loop over the batch, where ghost norms do not apply. */
import { dependents, reads } from '../../graph/dependents.js';
import { AgdError } from '../../graph/errors.js';
import { allGraphs, type Dim, type Graph, Node, Value, type ValueType } from '../../graph/ir.js';
import { prune } from '../../graph/prune.js';
import { sliceType, stackType } from '../../ops/core/bodies.js';
import { Builder } from '../../ops/core/builder.js';
import type { Expr } from '../../ops/core/expr.js';
import { range } from '../../ops/core/rule.js';
import type { LossTerms } from '../../ops/losses/index.js';
import type { AttachedLoss } from './attach-loss.js';
import { type BackwardOptions, backward } from './backward.js';

/** A loop over the samples of a batch, whose body computes the loss of one of them, a scalar, and whether it counts. */
export type SampleScan = { scan: Node; body: Graph; loss: Value; counts: Value };

/** The inputs of which each row is a sample, and their first extent. */
export type SampleInputs = { inputs: Value[]; batch: Dim };

/**
 * The inputs whose first axis is that of the batch, which is the first axis of the target, or else of the first input
 * where it is variable. Throws `bad-shape` if there is none, or if the batch size is fixed.
 */
export function sampleInputs(graph: Graph, { target }: AttachedLoss): SampleInputs {
  const data = graph.inputs.filter(v => !graph.initializers.has(v) && v.shape?.length);
  const varies = (v: Value) => typeof v.shape![0] !== 'number';
  const first = target?.shape?.length ? target : data.find(varies);
  const batch = first?.shape?.[0] ?? null;
  if (!first || (typeof batch === 'number' && batch > 1))
    throw new AgdError(
      'bad-shape',
      first
        ? `--dp-sgd computes the gradient of each sample, but the model has a fixed batch of ${batch}: make it dynamic with --free-batch ${data[0]!.name}.`
        : '--dp-sgd computes the gradient of each sample, but the model has no input with a batch axis.',
    );
  return { inputs: data.filter(v => (typeof batch === 'number' ? v.shape![0] === batch : varies(v))), batch };
}

/** The number of samples in the batch, an int64 scalar. */
export const sampleCount = (g: Builder, { inputs: [first] }: SampleInputs): Expr =>
  g.of(first!).op('Shape', [], { start: 0, end: 1 }).squeeze([0]);

/** The mean of a sample's own losses [batch, ...], over the positions that count: [batch]. */
export function sampleMeans({ loss, weight }: LossTerms): Expr {
  const axes = range(1, loss.rank);
  if (!weight) return axes.length ? loss.mean(axes) : loss;
  const [sum, all] = [loss.sum(axes), weight.sum(axes)];
  return sum.div(all.equal(0).where(1, all));
}

/**
 * Moves what depends on the samples into the body of a Scan over the batch, where a batch has one sample: the loss, and
 * outputs with a batch axis, are stacked again. Other outputs that depend on samples are dropped. Updates `loss`.
 */
export function scanSamples(
  g: Builder,
  loss: AttachedLoss,
  trained: readonly Value[],
  { inputs, batch }: SampleInputs,
): SampleScan {
  const { graph } = g;
  const moved = dependents(graph.nodes, [...inputs, ...trained]);
  const isMoved = new Set(moved);
  const written = new Set(moved.flatMap(node => node.outputs));
  const outputs = graph.outputs;
  graph.outputs = outputs.filter(v => !written.has(v));
  graph.nodes = graph.nodes.filter(node => !isMoved.has(node));

  const b = g.subgraph('sample');
  const outer = sliceInputs(b, g, inputs, batch);
  typeAsOneSample(moved, batch);
  b.adopt(moved);
  const lossOfOne = b.rename(lossOfSample(b, loss), 'sample_loss');
  const counts = b.input('counts', { kind: 'tensor', dtype: 'bool', shape: [] });
  const counted = b.rename(counts.where(b.of(lossOfOne), 0), 'counted_loss');
  const stackable = outputs.filter(v => written.has(v) && v !== loss.loss && v.shape?.[0] === 1);
  b.graph.outputs = [counted, ...stackable.map(v => b.rename(b.of(v).squeeze([0]), `${v.name}_of_one`))];

  // ONNX Runtime's Scan takes no empty batch, which Poisson sampling may draw: it gets one sample that does not count.
  const size = sampleCount(g, { inputs: [...outer.values()], batch });
  const [losses, ...others] = scanOver(g, b.graph, [...outer.values()], size, batch);
  const scan = losses!.value.producer!;
  const named = new Map([
    [loss.loss, takeName(g, loss.loss, losses!.sum().div(size.op('Max', [1]).cast(losses!.dtype)))],
    ...stackable.map((v, i) => [v, takeName(g, v, others[i]!)] as const),
  ]);
  graph.outputs = outputs.flatMap(v => (written.has(v) ? (named.get(v) ?? []) : [v]));
  const known = (v: Value | undefined) => v && (named.get(v) ?? outer.get(v) ?? v);
  Object.assign(loss, {
    loss: known(loss.loss),
    output: known(loss.output),
    target: known(loss.target),
    exposed: loss.exposed?.map(v => known(v)!),
    terms: undefined,
  });
  return { scan, body: b.graph, loss: lossOfOne, counts: counts.value };
}

/** Makes each input a batch of the sample that the body gets, and returns what takes its place outside. */
function sliceInputs(b: Builder, g: Builder, inputs: readonly Value[], batch: Dim): Map<Value, Value> {
  const { graph, scope } = g;
  const outer = new Map(inputs.map(v => [v, new Value(v.name, v.type)]));
  graph.inputs = graph.inputs.map(v => outer.get(v) ?? v);
  for (const [value, { type }] of outer) {
    value.name = scope.names.fresh(`${value.name}_sample`);
    value.type = ofOneSample(type, batch) && withFirst(type, 1);
    const slice = b.input('slice', sliceType(type, 0));
    b.adopt([new Node('Unsqueeze', [slice.value, g.ints([0]).value], [value])]);
  }
  return outer;
}

/** Gives what the nodes compute, in their subgraphs too, the types that it has of one sample. */
function typeAsOneSample(nodes: readonly Node[], batch: Dim): void {
  for (const node of nodes) {
    const inner = node.subgraphs().flatMap(sub => [...allGraphs(sub)]);
    const values = [node.outputs, ...inner.flatMap(s => [s.inputs, ...s.nodes.map(n => n.outputs)])].flat();
    for (const v of values) if (v) v.type = ofOneSample(v.type, batch);
  }
}

/** The loss of the sample in the body: the sum of the means of its losses, or what the model computes of it. */
function lossOfSample(b: Builder, { loss, terms }: AttachedLoss): Expr {
  const within = (e: Expr) => b.of(e.value);
  const own = terms
    ?.map(({ loss: at, weight, factor }) => {
      const mean = sampleMeans({ loss: within(at), weight: weight && within(weight) });
      return (mean.rank ? mean.reshape([]) : mean).mul(factor);
    })
    .reduce((sum, term) => sum.add(term));
  return own ?? b.of(loss);
}

/** Runs the body for each sample, or once for none, and returns what it stacks. */
function scanOver(g: Builder, body: Graph, inputs: readonly Value[], size: Expr, batch: Dim): Expr[] {
  const types = body.outputs.map(v => stackType(v.type, 0, batch));
  const missing = size.rsub(1).op('Max', [0]).unsqueeze([0]);
  const filled = inputs.map(v => g.of(v).pad(padsAfter(missing, v.shape!.length)));
  return g.emit(
    'Scan',
    [...filled, size.op('Max', [1]).iota().less(size)],
    { body, num_scan_inputs: inputs.length + 1 },
    { outputs: types.length, types },
  );
}

/** The expression under the name of a value of the body, which gets another. */
function takeName(g: Builder, old: Value, e: Expr): Value {
  const value = new Value(old.name, e.type);
  old.name = g.scope.names.fresh(`${old.name}_of_one`);
  g.identity(e.value, value);
  return value;
}

/** Pads of the first axis only, at its end. */
function padsAfter(count: Expr, rank: number): Expr {
  const zeros = (n: number) => Array<number>(n).fill(0);
  return count.g.vector([...zeros(rank), count, ...zeros(rank - 1)]);
}

/** The extent 1 wherever the type has that of the batch. */
function ofOneSample(type: ValueType | undefined, batch: Dim): ValueType | undefined {
  if (type?.kind !== 'tensor' || !type.shape || batch === null) return type;
  return { ...type, shape: type.shape.map(d => (d === batch ? 1 : d)) };
}

const withFirst = (type: ValueType | undefined, extent: number): ValueType | undefined =>
  type?.kind === 'tensor' && type.shape ? { ...type, shape: [extent, ...type.shape.slice(1)] } : type;

/**
 * Adds the backward pass of each sample to the body: the gradient by all of `trained` together is clipped to the 2-norm
 * `clip`, and the sum over the samples returned. A gradient that is not finite counts as 0, as no factor bounds it.
 */
export function sumClippedGradients(
  g: Builder,
  { scan, body, loss, counts }: SampleScan,
  trained: readonly Value[],
  clip: number,
  options: BackwardOptions,
): (Expr | undefined)[] {
  const b = new Builder(body, g.scope, g);
  const grads = backward(b, new Map([[loss, b.of(loss).ones()]]), trained, options);
  const wide = grads.map(e => (e?.dtype === 'float64' ? e : e?.cast('float32')));
  const norm = normOf(wide.flatMap(e => (e ? [e.op('ReduceSumSquare', [], { keepdims: 0 })] : [])));
  if (!norm) return grads;
  const { factor, finite } = clipFactor(norm, clip);
  const adds = finite.and(b.of(counts));
  // Random numbers need a state, too.
  const scanned = scan.attrs.get('num_scan_inputs');
  const at = scan.inputs.length - Number(scanned && 'value' in scanned ? scanned.value : 0);
  const added = wide.flatMap((e, i) => {
    if (!e) return [];
    const param = trained[i]!;
    const start = g.of(param).full(0, e.dtype);
    const type: ValueType = { kind: 'tensor', dtype: e.dtype, shape: param.shape };
    const sum = b.newValue('clipped_sum', type);
    const clipped = adds.where(e.mul(factor.cast(e.dtype)), 0);
    const next = b.rename(b.of(sum).add(clipped), 'clipped_sum_next');
    return [{ param, start: start.value, sum, next, total: g.newValue(`${param.name}_clipped`, type) }];
  });
  const spliced = <T>(list: readonly T[], items: readonly T[]) => [
    ...list.slice(0, at),
    ...items,
    ...list.slice(at),
  ];
  body.inputs = spliced(
    body.inputs,
    added.map(a => a.sum),
  );
  body.outputs = spliced(
    body.outputs,
    added.map(a => a.next),
  );
  prune(body);
  // The starts were added after the loop: it moves behind them.
  scan.inputs = spliced(
    scan.inputs,
    added.map(a => a.start),
  );
  scan.outputs = spliced(
    scan.outputs,
    added.map(a => a.total),
  );
  moveBehindInputs(g.graph, scan);
  const totals = new Map(added.map(a => [a.param, a.total]));
  return trained.map(p => {
    const total = totals.get(p);
    return total && g.of(total).cast(p.dtype!);
  });
}

/** Moves what `node` reads, and was added after it, in front of it. */
function moveBehindInputs(graph: Graph, node: Node): void {
  const at = graph.nodes.indexOf(node);
  const needed = new Set(reads(node));
  const early: Node[] = [];
  for (const other of graph.nodes.slice(at + 1).reverse()) {
    if (!other.outputs.some(v => v && needed.has(v))) continue;
    early.unshift(other);
    for (const v of reads(other)) needed.add(v);
  }
  if (!early.length) return;
  const isEarly = new Set(early);
  graph.nodes = [
    ...graph.nodes.slice(0, at),
    ...early,
    ...graph.nodes.slice(at).filter(other => !isEarly.has(other)),
  ];
}

/** The 2-norm from sums of squares, of scalars or one for each sample; undefined if there are none. */
export function normOf(squares: readonly Expr[]): Expr | undefined {
  const dtype = squares.some(e => e.dtype === 'float64') ? 'float64' : 'float32';
  const [first, ...rest] = squares.map(e => e.cast(dtype));
  return first && rest.reduce((sum, e) => sum.add(e), first).sqrt();
}

/** min(1, clip / norm), and 0 for a norm that is not finite. */
export function clipFactor(norm: Expr, clip: number): { factor: Expr; finite: Expr } {
  const finite = norm.sub(norm).equal(0);
  const factor = norm.maximum(clip).rdiv(clip);
  return { factor: finite.where(factor, 0), finite };
}
