import { cloneGraph, cloneModel } from '../../graph/clone.js';
import { type Binding, Graph, type Model, Node, type Value } from '../../graph/ir.js';
import { Names } from '../../graph/names.js';
import { prune } from '../../graph/prune.js';
import { Builder } from '../../ops/core/builder.js';
import { lastPlaces, positions } from '../../ops/core/scatter.js';
import { anyRows } from '../../ops/core/types.js';
import { eliminateDeadNodes } from '../common/eliminate-dead-nodes.js';
import { readDescription } from '../file/step-metadata.js';
import { output } from '../update/transition.js';
import { type ScannedSteps, scanSteps } from './scan-steps.js';

/** A table of which a run returns only the looked-up rows. */
export type RunTable = {
  /** The parameter and its optimizer state. */
  states: string[];
  /** The output with the row numbers: an int32 vector without duplicates. */
  rows: string;
};

export type ScannedRows = ScannedSteps & { tables: readonly RunTable[] };

/**
 * The steps of a run, as in `scanSteps`, of a model with sparse updates. For such a table, the state of the Scan consists of the rows
 * that the run looks up. They are gathered before the first step, so that the cost of a step does not grow with the
 * table. The caller has to write them back, as a graph cannot write to its inputs.
 */
export function scanRows(model: Model): ScannedRows {
  const { lr } = readDescription(model);
  const lookups = lookupsOf(model);
  const step = cloneModel(model);
  const { graph } = step;
  const data = graph.inputs.filter(v => v.name !== lr && !graph.initializers.has(v));
  const indexing = indexingGraph(
    graph,
    data,
    lookups.map(l => l.rows),
  );
  graph.nodes = graph.nodes.filter(node => !node.outputs.some(v => indexing.outputs.includes(v!)));
  graph.inputs.push(...indexing.outputs);
  eliminateDeadNodes(step);
  const types = new Map(graph.inputs.map(v => [v.name, v.type]));
  const updates = step.trainingInfo.flatMap(info => info.updates);
  for (const { states } of lookups) takeAnyRows(graph, states, updates);

  const scanned = scanSteps(step);
  const outer = scanned.model.graph;
  const main = outer.nodes.find(node => node.opType === 'Scan')!;
  const names = Names.of(scanned.model);
  const before: Node[] = [];
  const g = new Builder(outer, { names, opsets: step.opsetImports });
  const fed = (name: string) => named(outer.inputs, name);
  const numbers = lookups.map(l => fed(l.rows));
  const scan = new Node(
    'Scan',
    indexing.inputs.map(v => fed(v.name)),
    numbers,
  );
  const body = cloneGraph(indexing, { name: name => names.fresh(`${name}_step`) });
  scan.setAttr('body', { type: 'graph', value: body });
  scan.setAttr('num_scan_inputs', { type: 'int', value: scan.inputs.length });

  const within = new Map<Value, Value>();
  const tables = g.into(before, () =>
    lookups.map(({ rows, states }, i): RunTable => {
      const values = states.map(fed);
      for (const v of values) v.type = types.get(v.name);
      const count = values[0]!.shape![0] as number;
      const all = g.of(numbers[i]!).reshape([-1]).op('Mod', [count]);
      const last = lastPlaces(all, g.ints([count]));
      const isOwn = last.equal(positions(all).cast('int32'));
      const place = isOwn.cast('int64').op('CumSum', [0]).sub(1).gather(last);
      const own = all.op('Compress', [isOwn], { axis: 0 });
      within.set(numbers[i]!, place.reshapeLike(g.of(numbers[i]!)).value);
      for (const v of values) within.set(v, g.of(v).gather(own).value);
      return { states, rows: output(g, own.cast('int32'), `${rows}_of_run`).name };
    }),
  );
  main.inputs = main.inputs.map(v => v && (within.get(v) ?? v));
  outer.inputs = outer.inputs.filter(v => !numbers.includes(v));
  outer.nodes = [scan, ...before, ...outer.nodes];
  return { ...scanned, tables };
}

/**
 * The tables with sparse updates: the value with the row numbers, the parameter, and its optimizer state but for
 * scalars, which have no rows.
 */
export function lookupsOf(model: Model): RunTable[] {
  const scalars = new Set(model.graph.inputs.flatMap(v => (v.shape?.length === 0 ? v.name : [])));
  return readDescription(model).parameters.flatMap(({ name, state, carry, rows }) => {
    const own = Object.values(state).filter(s => !scalars.has(s));
    const states = [name, ...own, ...(carry === undefined ? [] : [carry])];
    return rows === undefined ? [] : [{ rows, states }];
  });
}

/** Lets the step take some rows of these states instead of whole tables. */
export function takeAnyRows(
  { inputs, outputs }: Graph,
  states: readonly string[],
  updates: readonly Binding[],
): void {
  const next = new Map(updates.map(u => [u.state, u.value]));
  for (const name of states)
    for (const v of [named(inputs, name), named(outputs, next.get(name)!)]) v.type = anyRows(v.type);
}

/** The part that computes the numbers of the rows that a step looks up. */
function indexingGraph(graph: Graph, data: readonly Value[], rows: readonly string[]): Graph {
  const written = graph.nodes.flatMap(node => node.outputs.flatMap(v => v ?? []));
  const indexing = Graph.view(graph, {
    outputs: rows.map(name => named(written, name)),
    initializers: new Map(),
  });
  indexing.name = 'rows';
  for (const v of indexing.outputs) v.type = { kind: 'tensor', dtype: 'int64', shape: [null] };
  const live = prune(indexing);
  const read = data.filter(v => live.has(v));
  // A Scan needs an input to scan.
  indexing.inputs = read.length ? read : data.slice(0, 1);
  return indexing;
}

const named = (values: readonly Value[], name: string) => values.find(v => v.name === name)!;
