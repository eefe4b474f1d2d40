/** Adds the sum of large states as an output, which shows whether all of them are finite. */
import { type Binding, Graph, Model, type Node, Value } from '../../graph/ir.js';
import { Names } from '../../graph/names.js';
import { Tensor } from '../../graph/tensor.js';
import { stackType } from '../../ops/core/bodies.js';
import { Builder } from '../../ops/core/builder.js';
import type { Expr } from '../../ops/core/expr.js';
import { Attributes } from '../../ops/core/rule.js';

/** Of fewer elements, a node takes longer than reading them from JavaScript. */
const LEAST = 2 ** 14;

/** Rows of a tensor that a product with ones sums. With fewer, or with rows of fewer columns, it takes longer. */
const ROWS = 16;

/** Products of one node: a thread sums parts that it wrote, where one product would give it columns of all rows. */
const PARTS = [4, 2, 1];

/** Where an element of an operand is not finite, the result has one that is not either. Of a quotient, the first operand alone. */
const PASS_ON = new Set(['Add', 'Sub', 'Mul', 'Div', 'Neg', 'Identity', 'Reshape']);

/** `output` is finite only where all elements of the next values of these states are. */
export type StateSum = { output: string; states: ReadonlySet<string> };

/**
 * The same model with the sum of its large float32 states as one more output, without those from which another one of them is
 * computed: that is finite only where they are. The states after the last step are summed; with `inSteps`, those after each, and
 * tile by tile, while they are in a cache. Nodes are shared, and with `inSteps` the bodies of Scans change.
 */
export function withStateSum(
  model: Model,
  updates: readonly Binding[],
  { inSteps = false } = {},
): { model: Model; sum: StateSum | undefined } {
  const scope = { names: Names.of(model), opsets: model.opsetImports };
  const outputs = new Map(model.graph.outputs.map(v => [v.name, v]));
  const large = updates.filter(u => isLarge(outputs.get(u.value)!));
  if (!large.length) return { model, sum: undefined };
  const made = new Map(
    large.map(({ value }) => [value, writtenAs({ value: outputs.get(value)!, scans: [] })]),
  );
  const implied = new Set([...made.values()].flatMap(({ value }) => [...operandsOf(value)]));
  const graph = Graph.view(model.graph, { initializers: new Map(model.graph.initializers) });
  const builders = new Map([[graph, new Builder(graph, scope)]]);
  const builderOf = (scan: Node | undefined) => {
    const home = scan?.subgraphs()[0] ?? graph;
    const builder = builders.get(home) ?? new Builder(home, scope);
    builders.set(home, builder);
    return builder;
  };
  /** What the body of a Scan computes, where the Scan is: of all its iterations. */
  const outside = (value: Value, scan: Node): Value => {
    scan.subgraphs()[0]!.addOutputs(value);
    const all = new Value(scope.names.fresh(value.name), stackType(value.type));
    scan.outputs = [...scan.outputs, all];
    return all;
  };
  const total = (g: Builder, terms: readonly Value[]): Value => {
    const [first, ...others] = terms.map(v => g.of(v).reshape([-1]));
    return g.rename(first!.concat(others, 0).sum(), 'state_sum');
  };
  let step: Node | undefined;
  const terms = [...made].flatMap(([name, place]) => {
    if (implied.has(place.value)) return [];
    if (!inSteps) return [sums(builderOf(undefined).of(outputs.get(name)!)).value];
    const [steps, ...tiles] = place.scans;
    step = steps;
    const { value } = sums(builderOf(place.scans.at(-1)).of(place.value));
    return [tiles.reduceRight(outside, value)];
  });
  const last = total(builderOf(step), terms);
  const sum = step ? total(builderOf(undefined), [outside(last, step)]) : last;
  graph.outputs = [...graph.outputs, sum];
  return {
    model: Object.assign(new Model(graph), model, { graph }),
    sum: { output: sum.name, states: new Set(large.map(u => u.state)) },
  };
}

/** Sums of parts of a tensor: a product with ones takes half as long as a ReduceSum, where there are rows and columns. */
function sums(x: Expr): Expr {
  const size = x.staticShape?.reduce((n, d) => n * d, 1) ?? 1;
  const parts = PARTS.find(count => size % count === 0)!;
  let rows = Math.floor(Math.sqrt(size / parts));
  while ((size / parts) % rows) rows--;
  if (rows < ROWS) return x.sum();
  const ones = x.g.tensor(Tensor.filled('float32', [1, rows], 1), 'ones');
  return ones.matmul(x.reshape([parts, rows, -1]));
}

function isLarge({ dtype, shape }: Value): boolean {
  const isKnown = dtype === 'float32' && shape?.every(d => typeof d === 'number');
  return !!isKnown && (shape as number[]).reduce((n, d) => n * d, 1) >= LEAST;
}

/** A value, and the Scans whose bodies it is in, outermost first. */
type Place = { value: Value; scans: readonly Node[] };

/**
 * The value that this one has the elements of, in the body of the Scan over tiles that writes it. All of them are of the last step
 * of the Scan over steps, whose states they are, and of all tiles.
 */
function writtenAs(place: Place, isState = true): Place {
  const { value, scans } = place;
  const node = value.producer;
  if (!node || node.domain) return place;
  if (node.opType === 'Reshape' || node.opType === 'Identity')
    return writtenAs({ value: node.inputs[0]!, scans }, isState);
  if (node.opType !== 'Scan') return place;
  const states = node.inputs.length - new Attributes(node).int('num_scan_inputs', 0);
  const at = node.outputs.indexOf(value);
  if (isState ? at >= states : states > 0) return place;
  return writtenAs({ value: node.subgraphs()[0]!.outputs[at]!, scans: [...scans, node] }, false);
}

/** The values of which each element that is not finite makes one of this value so, without the value itself. */
function operandsOf(value: Value): Set<Value> {
  const found = new Set([value]);
  for (const { producer } of found) {
    if (!producer || producer.domain || !PASS_ON.has(producer.opType)) continue;
    const { opType, inputs } = producer;
    for (const operand of opType === 'Div' || opType === 'Reshape' ? inputs.slice(0, 1) : inputs)
      if (operand) found.add(operand);
  }
  found.delete(value);
  return found;
}
