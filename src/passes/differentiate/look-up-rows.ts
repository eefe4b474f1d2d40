import { dependentValues } from '../../graph/dependents.js';
import type { Graph, Node, Value, ValueType } from '../../graph/ir.js';
import { topologicalOrder } from '../../graph/topological-order.js';
import { type Builder, RANDOM } from '../../ops/core/builder.js';
import type { Expr } from '../../ops/core/expr.js';
import { positions } from '../../ops/core/scatter.js';
import { matcher } from '../common/match-names.js';

/** A table of which a step changes only the rows that it looks up. */
export type Lookup = {
  /** Which rows: an int64 vector, in which one may stand several times. */
  rows: Value;
  /** These rows of the table; their gradient is the table's. */
  looked: Value;
};

/**
 * Lets each of `params` that one of the globs matches be looked up once, by one vector of row numbers, where it is
 * looked up only: all that reads it is Gather along axis 0, by indices that the batch alone decides. Throws
 * `no-such-value` for a glob that matches none of these.
 */
export function lookUpRows(
  g: Builder,
  params: readonly Value[],
  globs: readonly string[],
): Map<Value, Lookup> {
  const tables = lookupTables(g.graph, params);
  const chosen = matcher(
    '--lazy-rows',
    globs,
    [...tables.keys()].map(v => v.name),
    'lookup table',
  );
  const found = new Map<Value, Lookup>();
  for (const [table, gathers] of tables)
    if (chosen?.(table.name)) found.set(table, lookUpOnce(g, table, gathers));
  g.graph.nodes = topologicalOrder(g.graph.nodes);
  return found;
}

/** The tables, each with what looks it up. */
function lookupTables(graph: Graph, params: readonly Value[]): Map<Value, Node[]> {
  const drawn = graph.nodes.filter(node => RANDOM.has(node.opType) || node.opType === 'BatchNormalization');
  const sources = [...params, ...drawn.flatMap(node => node.outputs.flatMap(v => v ?? []))];
  const varying = dependentValues(graph.nodes, sources);
  // Gradients are joined in the order of the graph, which the order of links need not be.
  const place = new Map(graph.nodes.map((node, i) => [node, i]));
  const outputs = new Set(graph.outputs);
  /** Undefined where anything else reads it. */
  const gathersOf = (value: Value): Node[] | undefined => {
    const own = value.uses.map(({ node, index }) => {
      if (node.domain !== '' || index > 0 || node.graph !== graph) return undefined;
      if (node.opType === 'Identity') return gathersOf(node.outputs[0]!);
      return isLookup(node) && !varying.has(node.inputs[1]!) ? [node] : undefined;
    });
    return outputs.has(value) || own.includes(undefined) ? undefined : own.flatMap(found => found!);
  };
  return new Map(
    params.flatMap(param => {
      const gathers = gathersOf(param);
      return gathers?.length ? [[param, gathers.sort((a, b) => place.get(a)! - place.get(b)!)]] : [];
    }),
  );
}

function isLookup({ opType, attrs }: Node): boolean {
  const axis = attrs.get('axis');
  return opType === 'Gather' && (axis?.type !== 'int' || Number(axis.value) === 0);
}

function lookUpOnce(g: Builder, table: Value, gathers: readonly Node[]): Lookup {
  const indices = gathers.map(node => g.of(node.inputs[1]!));
  const flat = indices.map(e => (e.rank === 1 ? e : e.reshape([-1])).cast('int64'));
  const rows = g.rename(flat[0]!.concat(flat.slice(1), 0), `${table.name}_rows`);
  const looked = g.of(table).gather(g.of(rows));
  const count = indices.map(e => e.count('int64').reshape([1]));
  const parts =
    count.length === 1
      ? [looked]
      : g.emit('Split', [looked, g.vector(count)], { axis: 0 }, { outputs: count.length });
  parts.forEach((part, i) => {
    const y = gathers[i]!.outputs[0]!;
    const shape = indices[i]!.dims().concat([g.ints(table.shape!.slice(1) as number[])], 0);
    const own = indices[i]!.rank === 1 ? part : part.reshape(shape).typed(y.type);
    gathers[i]!.outputs = [];
    g.identity(own.value, y);
  });
  g.graph.remove(gathers);
  return { rows, looked: looked.value };
}

/** Where in the vector each of its `rows` of a table of `count` stands last, int32: one place for all that are equal. */
export function lastPlaces(rows: Expr, count: Expr): Expr {
  const zeros = rows.g.scalar(0, 'int32').expand(count);
  return zeros.scatterElements(rows, positions(rows).cast('int32')).gather(rows);
}

/** The gradients of rows, those of equal rows added up at their last place, with zeros at the others. */
export function sumRows(dy: Expr, last: Expr): Expr {
  const column = last.reshape([-1, ...Array(dy.rank - 1).fill(1)]);
  return dy.zeros().scatterElements(column.expandLike(dy), dy, 0, 'add');
}

/** Of the tables, the sums of the gradients of equal rows, and where each row stands last. */
export function sumLookups(
  g: Builder,
  trained: readonly Value[],
  named: readonly Value[],
  found: ReadonlyMap<Value, Lookup>,
): { grads: Expr[]; lastRows: Map<Value, Value> } {
  const lastRows = new Map<Value, Value>();
  const grads = trained.map((param, i) => {
    const lookup = found.get(param);
    if (!lookup) return g.of(named[i]!);
    const count = g.of(param).op('Shape', [], { end: 1 });
    const last = lastPlaces(g.of(lookup.rows), count);
    lastRows.set(param, last.value);
    return sumRows(g.of(named[i]!), last);
  });
  return { grads, lastRows };
}

/** A tensor's type with any number of rows: that of the rows of a table. */
export function anyRows(type: ValueType | undefined): ValueType | undefined {
  return type?.kind === 'tensor' ? { ...type, shape: [null, ...type.shape!.slice(1)] } : type;
}
