/** Runs several steps of a model with sparse updates as one Scan, on the rows that the run looks up. */
import { cloneGraph, cloneModel } from '../../graph/clone.js';
import { type Binding, Graph, Model, Node, Value, type ValueType } from '../../graph/ir.js';
import { Names } from '../../graph/names.js';
import { prune } from '../../graph/prune.js';
import { Builder } from '../../ops/core/builder.js';
import { anyRows } from '../../ops/core/types.js';
import { eliminateDeadNodes } from '../common/eliminate-dead-nodes.js';
import { readDescription } from '../file/step-metadata.js';
import { type MergedTables, mergeTables, type RunTable } from './merge-tables.js';
import { type ScannedSteps, scanSteps } from './scan-steps.js';

/** Inputs: the rows that a run looks up, those of each table after those of the one before, and how many each has. */
export type TablesOfRun = MergedTables & { rows: string; sizes: string };

export type ScannedRows = ScannedSteps & {
  groups: readonly TablesOfRun[];
  /** The numbers of the rows that each step looks up: for each table, an output of the name in `rows`. */
  indexing: Model;
};

/**
 * The steps of a run, as in `scanSteps`, of a model with sparse updates. For such a table, the state of the Scan consists of the
 * different rows that the run looks up, so that the cost of a step does not grow with the table. The caller finds these by
 * `indexing`, gathers them before the run, and has to write them back, as a graph cannot write to its inputs.
 */
export function scanRows(model: Model): ScannedRows {
  const lookups = lookupsOf(model);
  const { step, indexing } = splitIndexing(model, lookups);
  const merged = mergeTables(step, lookups);
  const own = merged ? step : splitIndexing(model, lookups).step;
  const { groups, updates } = merged ?? mergeTables(own, lookups, { merge: false })!;
  own.trainingInfo = [{ updates, initializations: [], extra: undefined }];
  const types = new Map(model.graph.inputs.map(v => [v.name, v.type]));
  const scanned = scanSteps(own);
  const { graph } = scanned.model;
  const main = graph.nodes.find(node => node.opType === 'Scan')!;
  const before: Node[] = [];
  const g = new Builder(graph, { names: Names.of(scanned.model), opsets: own.opsetImports });
  const gathered = groups.map((group): TablesOfRun => {
    const { tables, states } = group;
    const rows = g.input(`${group.places}_of_run`, { kind: 'tensor', dtype: 'int32', shape: [null] });
    const sizes = g.input(`${group.places}_sizes`, { kind: 'tensor', dtype: 'int64', shape: [null] });
    const parts = g.into(before, () =>
      tables.length > 1 ? g.emit('Split', [rows, sizes], { axis: 0 }, { outputs: tables.length }) : [rows],
    );
    for (const [i, { state }] of states.entries()) {
      const old = named(graph.inputs, state);
      graph.inputs = graph.inputs.filter(v => v !== old);
      const whole = tables.map(({ states }) => new Value(states[i]!, types.get(states[i]!)));
      graph.inputs.push(...whole);
      const [first, ...others] = g.into(before, () => whole.map((v, j) => g.of(v).gather(parts[j]!)));
      const all = g.into(before, () => (others.length ? first!.concat(others, 0) : first!));
      main.inputs = main.inputs.map(v => (v === old ? all.value : v));
    }
    return { ...group, rows: rows.value.name, sizes: sizes.value.name };
  });
  graph.nodes = [...before, ...graph.nodes];
  return { ...scanned, groups: gathered, indexing };
}

/** The step with the numbers of the rows as inputs, and what computes them for all steps of a run. */
function splitIndexing(model: Model, lookups: readonly RunTable[]): { step: Model; indexing: Model } {
  const { lr } = readDescription(model);
  const step = cloneModel(model);
  const { graph } = step;
  const data = graph.inputs.filter(v => v.name !== lr && !graph.initializers.has(v));
  const body = indexingGraph(
    graph,
    data,
    lookups.map(l => l.rows),
  );
  const outer = new Graph('indexing');
  const constants = [...graph.initializers].map(([v, t]) => [v, new Value(v.name, v.type), t] as const);
  outer.initializers = new Map(constants.map(([, v, tensor]) => [v, tensor]));
  outer.inputs = body.inputs.map(v => new Value(v.name, perStep(v.type)));
  outer.outputs = body.outputs.map(v => new Value(v.name, perStep(v.type)));
  const scan = new Node('Scan', [...outer.inputs], [...outer.outputs]);
  const values = new Map(constants.map(([v, own]) => [v, own]));
  const inner = cloneGraph(body, { values, name: name => `${name}_step` });
  scan.setAttr('body', { type: 'graph', value: inner });
  scan.setAttr('num_scan_inputs', { type: 'int', value: scan.inputs.length });
  outer.nodes = [scan];
  const indexing = Object.assign(new Model(outer), step, { graph: outer, trainingInfo: [] });
  eliminateDeadNodes(indexing);

  graph.nodes = graph.nodes.filter(node => !node.outputs.some(v => body.outputs.includes(v!)));
  graph.inputs.push(...body.outputs);
  eliminateDeadNodes(step);
  const updates = step.trainingInfo.flatMap(info => info.updates);
  for (const { states } of lookups) takeAnyRows(graph, states, updates);
  return { step, indexing };
}

const perStep = (type: ValueType | undefined): ValueType | undefined =>
  type?.kind === 'tensor' ? { ...type, shape: type.shape && [null, ...type.shape] } : type;

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
