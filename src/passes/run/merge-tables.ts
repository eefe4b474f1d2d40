/** Updates tables with sparse updates together where their updates are the same nodes. */
import type { DType } from '../../graph/dtype.js';
import type { Attr, Binding, Model, Node, Value } from '../../graph/ir.js';
import { Names } from '../../graph/names.js';
import { prune } from '../../graph/prune.js';
import { topologicalOrder } from '../../graph/topological-order.js';
import { Builder } from '../../ops/core/builder.js';
import type { Expr } from '../../ops/core/expr.js';
import { inferTypes } from '../../ops/core/infer.js';
import { Attributes } from '../../ops/core/rule.js';
import { isZero } from '../../ops/core/scatter.js';
import { anyRows } from '../../ops/core/types.js';
import { ELEMENTWISE } from '../common/elementwise.js';
import { sumRows } from '../differentiate/look-up-rows.js';

/** A table of which a run takes and returns only the looked-up rows. */
export type RunTable = {
  /** The parameter and its optimizer state. */
  states: string[];
  /** The value with the row numbers. */
  rows: string;
};

/** Tables whose rows are those of one state, one table after the other. Vectors are those of a step, in the order of the tables. */
export type MergedTables = {
  tables: readonly RunTable[];
  /** The parameters, then each of their states. */
  states: readonly Binding[];
  /** Inputs: where each row that is looked up is in the states, the last place of the same row in this vector, and how many each table has. */
  places: string;
  last?: string;
  counts?: string;
};

/** What the update of a table's rows is made of, in the same order for tables whose updates are the same. */
type Chain = {
  signature: string;
  /** The next rows of each state, and the values that they are computed from, by what they are. */
  next: Value[];
  parts: Map<Value, Part>;
};
type Part =
  /** Rows of this state. */
  | { is: 'rows'; state: number }
  /** Sums of the gradients of equal rows. */
  | { is: 'sums'; grad: Value; dtype: DType }
  /** Those at the last places of the rows. */
  | { is: 'last'; of: Value }
  | { is: 'scalar' }
  | { is: 'node'; node: Node };

/**
 * Makes the rows of tables one state where their updates are the same nodes: then these nodes are there once, not once for each
 * table, and two threads share each. Changes the graph of the step, whose updates it returns; undefined if something else
 * reads these tables or the numbers of their rows.
 */
export function mergeTables(
  step: Model,
  lookups: readonly RunTable[],
  { merge = true } = {},
): { groups: MergedTables[]; updates: Binding[] } | undefined {
  const { graph } = step;
  const updates = step.trainingInfo.flatMap(info => info.updates);
  const inputs = new Map(graph.inputs.map(v => [v.name, v]));
  const outputs = new Map(graph.outputs.map(v => [v.name, v]));
  const nextOf = new Map(updates.map(u => [u.state, u.value]));
  const g = new Builder(graph, { names: Names.of(step), opsets: step.opsetImports });
  // A file declares few types.
  for (const node of graph.nodes) {
    if (node.outputs.every(v => v?.type)) continue;
    const types = inferTypes(
      node,
      node.inputs.map(v => (v ? g.of(v) : undefined)),
    );
    for (const [i, value] of node.outputs.entries()) if (value) value.type ??= types[i];
  }
  const alike = new Map<string, { tables: RunTable[]; chains: Chain[] }>();
  for (const table of lookups) {
    const states = table.states.map(name => inputs.get(name)!);
    const next = table.states.map(name => outputs.get(nextOf.get(name)!)!);
    const chain = merge ? chainOf(g, states, next, inputs.get(table.rows)!) : undefined;
    const key = chain?.signature ?? table.rows;
    const group = alike.get(key) ?? { tables: [], chains: [] };
    group.tables.push(table);
    if (chain) group.chains.push(chain);
    alike.set(key, group);
  }
  const gone = new Set<Value>();
  const replaced = new Map<string, Binding>();
  const groups = [...alike.values()].map(({ tables, chains }): MergedTables => {
    const [first] = tables;
    if (!chains.length) {
      const states = first!.states.map(state => ({ state, value: nextOf.get(state)! }));
      return { tables, states, places: first!.rows };
    }
    const [rows, last, counts] = ['places', 'last', 'counts'].map(name =>
      g.input(`${first!.rows}_${name}`, { kind: 'tensor', dtype: 'int64', shape: [null] }),
    );
    const kinds = first!.states.map((_, i) => tables.map(({ states }) => states[i]!));
    const merged = kinds.map(([name]) => g.input(`${name}_merged`, anyRows(inputs.get(name!)!.type)));
    const made = build(g, chains, merged, rows!, last!);
    const pieces = [...chains[0]!.parts.keys()].flatMap((value, i) => {
      const part = chains[0]!.parts.get(value)!;
      if (part.is !== 'rows' && part.is !== 'sums') return [];
      return [{ whole: made.get(value)!, own: chains.map(c => [...c.parts.keys()][i]!) }];
    });
    for (const { whole, own } of pieces) {
      const split =
        own.length > 1 ? g.emit('Split', [whole, counts], { axis: 0 }, { outputs: own.length }) : [whole];
      for (const [i, value] of own.entries()) value.replaceAllUses(split[i]!.typed(value.type).value);
    }
    const states = merged.map((state, i) => {
      const next = state.scatterND(rows!.unsqueeze([1]), made.get(chains[0]!.next[i]!)!);
      const value = g.rename(next.typed(state.type), `${state.value.name}_new`);
      const old = new Set(kinds[i]!.map(name => nextOf.get(name)!));
      graph.outputs = [...graph.outputs.filter(v => !old.has(v.name)), value];
      const binding = { state: state.value.name, value: value.name };
      for (const name of kinds[i]!) replaced.set(name, binding);
      return binding;
    });
    for (const { rows, states } of tables) for (const name of [rows, ...states]) gone.add(inputs.get(name)!);
    return { tables, states, places: rows!.value.name, last: last!.value.name, counts: counts!.value.name };
  });
  graph.nodes = topologicalOrder(graph.nodes);
  prune(graph);
  if ([...gone].some(value => value.isUsed)) return undefined;
  graph.inputs = graph.inputs.filter(v => !gone.has(v));
  for (const value of gone) graph.initializers.delete(value);
  return { groups, updates: [...new Set(updates.map(u => replaced.get(u.state) ?? u))] };
}

/** Undefined if rows are computed otherwise than number by number, or if others read what is computed on the way. */
function chainOf(
  g: Builder,
  states: readonly Value[],
  outputs: readonly Value[],
  rows: Value,
): Chain | undefined {
  const parts: Chain['parts'] = new Map();
  const numbers = new Map<Value, number>();
  const readers = new Set<Node>();
  /** What tells a value from others; undefined if it is none of these. */
  const visit = (value: Value): string | undefined => {
    const known = numbers.get(value);
    if (known !== undefined) return `#${known}`;
    const part = partOf(g, value, states, rows);
    if (!part) return undefined;
    const node = value.producer;
    const inner = part.is === 'node' ? node!.inputs : part.is === 'last' ? [part.of] : [];
    const names = inner.map(v => (v ? visit(v) : ''));
    if (names.includes(undefined)) return undefined;
    if (part.is !== 'scalar' && node) readers.add(node);
    numbers.set(value, numbers.size);
    parts.set(value, part);
    if (part.is === 'scalar') return value.name;
    const attrs = [...(part.is === 'node' ? node!.attrs : [])].map(([name, a]) => `${name}=${contentOf(a)}`);
    const what = part.is === 'node' ? node!.opType : part.is === 'rows' ? `rows ${part.state}` : part.is;
    return `${what}[${attrs}](${names.join()})`;
  };
  const types = states.map(({ type }) => JSON.stringify(anyRows(type)));
  const next: Value[] = [];
  for (const [i, output] of outputs.entries()) {
    const put = output.producer;
    const [onto, at, values] = put?.inputs ?? [];
    const isPut = put?.opType === 'ScatterND' && !put.domain && onto === states[i];
    if (!isPut || !isColumn(at!, rows) || output.readers.length) return undefined;
    if (new Attributes(put!).string('reduction', 'none') !== 'none') return undefined;
    next.push(values!);
    readers.add(put!);
  }
  const names = next.map(visit);
  const isOwn = ([value, { is }]: [Value, Part]) =>
    is === 'scalar' ||
    is === 'rows' ||
    is === 'sums' ||
    (!value.outputOf.length && value.readers.every(node => readers.has(node)));
  if (names.includes(undefined) || ![...parts].every(isOwn)) return undefined;
  return { signature: `${types} ${names}`, next, parts };
}

function partOf(g: Builder, value: Value, states: readonly Value[], rows: Value): Part | undefined {
  const node = value.producer;
  if (value.shape?.length === 0) return { is: 'scalar' };
  if (!node || node.domain || node.outputs.length !== 1) return undefined;
  const [of, at, grad] = node.inputs as [Value, Value, Value];
  const isFirstAxis = new Attributes(node).int('axis', 0) === 0;
  if (node.opType === 'Gather' && isFirstAxis) {
    if (at === rows && states.includes(of)) return { is: 'rows', state: states.indexOf(of) };
    return isLast(at, rows) ? { is: 'last', of } : undefined;
  }
  if (node.opType === 'ScatterElements' && isFirstAxis) {
    const isSum = new Attributes(node).string('reduction', 'none') === 'add';
    const index = at.producer?.opType === 'Expand' ? at.producer.inputs[0]! : at;
    const [column] = index.producer?.opType === 'Reshape' ? index.producer.inputs : [index];
    if (!isSum || !isZero(g.of(of)) || !isLast(column!, rows)) return undefined;
    return { is: 'sums', grad, dtype: g.constant(of.producer!.inputs[0]!)!.dtype };
  }
  return ELEMENTWISE.has(node.opType) ? { is: 'node', node } : undefined;
}

/** Whether a value is the last place of each row, as `lastPlaces` has it. */
function isLast(value: Value, rows: Value): boolean {
  const gather = value.producer;
  const scatter = gather?.inputs[0]?.producer;
  return (
    gather?.opType === 'Gather' &&
    gather.inputs[1] === rows &&
    scatter?.opType === 'ScatterElements' &&
    scatter.inputs[1] === rows
  );
}

const isColumn = ({ producer }: Value, rows: Value) =>
  producer?.opType === 'Unsqueeze' && producer.inputs[0] === rows;

const contentOf = (attr: Attr) => ('value' in attr ? `${attr.value}` : attr.type);

/** The values of all tables, by that of the first one. */
function build(
  g: Builder,
  chains: readonly Chain[],
  states: readonly Expr[],
  rows: Expr,
  last: Expr,
): Map<Value, Expr> {
  const made = new Map<Value, Expr>();
  const kinds = chains.map(({ parts }) => [...parts]);
  for (const [i, [value, part]] of kinds[0]!.entries()) {
    if (part.is === 'scalar') {
      made.set(value, g.of(value));
      continue;
    }
    const make = (): Expr => {
      if (part.is === 'rows') return states[part.state]!.gather(rows);
      if (part.is === 'last') return made.get(part.of)!.gather(last);
      if (part.is === 'node') {
        const operands = part.node.inputs.map(v => (v ? made.get(v) : undefined));
        return g.emit(part.node.opType, operands, Object.fromEntries(part.node.attrs))[0]!;
      }
      const grads = kinds.map(parts => g.of((parts[i]![1] as typeof part).grad));
      const [first, ...others] = grads;
      const shape = [null, ...states[0]!.shape!.slice(1)];
      const all = others.length ? first!.concat(others, 0) : first!;
      return sumRows(all.typed({ kind: 'tensor', dtype: part.dtype, shape }), last);
    };
    made.set(value, make());
  }
  return made;
}
