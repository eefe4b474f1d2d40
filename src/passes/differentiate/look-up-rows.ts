/** Sparse updates of embeddings: merges the lookups of a table and sums the gradients of equal rows. */
import { dependentValues } from '../../graph/dependents.js';
import type { Graph, Node, Value } from '../../graph/ir.js';
import { topologicalOrder } from '../../graph/topological-order.js';
import { type Builder, RANDOM } from '../../ops/core/builder.js';
import type { Expr } from '../../ops/core/expr.js';
import { lastPlaces } from '../../ops/core/scatter.js';
import { matcher } from '../common/match-names.js';

/** A table of which a step updates only the looked-up rows. */
export type Lookup = {
  /** The row numbers: an int64 vector, which may contain duplicates. */
  rows: Value;
  /** The looked-up rows; their gradient is that of the table. */
  looked: Value;
  /** For each gradient in which those of equal rows are summed, the one that it sums. */
  unsummed?: Map<Value, Value>;
};

/**
 * Merges all lookups of each of `params` that a glob matches into one lookup by a vector of row numbers. Applies to
 * tables that only Gather along axis 0 reads, with indices that depend on the batch alone. Throws `no-such-value` for
 * a glob that matches none of these.
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

/** The tables, each with its lookups. */
function lookupTables(graph: Graph, params: readonly Value[]): Map<Value, Node[]> {
  const drawn = graph.nodes.filter(node => RANDOM.has(node.opType) || node.opType === 'BatchNormalization');
  const sources = [...params, ...drawn.flatMap(node => node.outputs.flatMap(v => v ?? []))];
  const varying = dependentValues(graph.nodes, sources);
  // Sorted in graph order, in which gradients are concatenated; the order of links may differ.
  const place = new Map(graph.nodes.map((node, i) => [node, i]));
  const outputs = new Set(graph.outputs);
  /** Undefined if anything else reads the table. */
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
  // An update may get the rows of several batches, even where the size of a batch is fixed.
  rows.type = { kind: 'tensor', dtype: 'int64', shape: [null] };
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

/** The gradients of rows: sums over equal rows at their last position, and zeros at the others. */
export function sumRows(dy: Expr, last: Expr): Expr {
  const column = last.reshape([-1, ...Array(dy.rank - 1).fill(1)]);
  return dy.zeros().scatterElements(column.expandLike(dy), dy, 0, 'add');
}

/** For all tables, the summed gradients of equal rows in each part of the loss, and the last position of each row. */
export function sumLookups(
  g: Builder,
  trained: readonly Value[],
  parts: readonly (readonly (Expr | undefined)[])[],
  found: ReadonlyMap<Value, Lookup>,
): { gradParts: (Expr | undefined)[][]; lastRows: Map<Value, Value> } {
  const lastRows = new Map<Value, Value>();
  const gradParts = parts.map(list => [...list]);
  for (const [i, param] of trained.entries()) {
    const lookup = found.get(param);
    if (!lookup) continue;
    const last = lastPlaces(g.of(lookup.rows), g.of(param).op('Shape', [], { end: 1 }));
    lastRows.set(param, last.value);
    lookup.unsummed = new Map();
    for (const list of gradParts) {
      const grad = list[i];
      if (!grad) continue;
      list[i] = sumRows(grad, last);
      lookup.unsummed.set(list[i].value, grad.value);
    }
  }
  return { gradParts, lastRows };
}
