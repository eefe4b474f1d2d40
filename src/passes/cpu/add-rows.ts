import type { Model, Node, Value } from '../../graph/ir.js';
import type { Builder } from '../../ops/core/builder.js';
import { Attributes } from '../../ops/core/rule.js';
import { loop } from '../../ops/core/scan.js';
import { rewriteNodes } from '../common/rewrite-nodes.js';

/** ONNX Runtime adds more than 210,000 numbers on several threads, and then loses terms of equal rows. */
const MOST = 2 ** 17;
/** Narrower rows take little time in either way. */
const NARROWEST = 32;
/** Each part copies the table, which takes a larger one longer than is saved. */
const LARGEST = 2 ** 18;
/** A table of as many rows as are added takes longer to fill: rows of any width, up to this size. */
const LONGEST = 2 ** 20;

/**
 * Adds rows to a table, as the gradient of an embedding does, by ScatterND in parts that the runtime adds on one thread, in
 * place of ScatterElements, which adds number by number. The bits are the same. Returns whether there was anything to
 * change.
 */
export function addRows(model: Model): boolean {
  return rewriteNodes(model, node => (addsRows(node) ? [[node, g => sumOf(g, node)]] : []));
}

/** Whether whole rows are added: the indices are those of a column, repeated along it. */
function addsRows(node: Node): boolean {
  const [table, indices, rows] = node.inputs;
  if (node.opType !== 'ScatterElements' || node.domain || table?.dtype !== 'float32') return false;
  const attrs = new Attributes(node);
  const isSum = attrs.string('reduction', 'none') === 'add' && attrs.int('axis', 0) === 0;
  const [count, width] = table.shape ?? [];
  const repeat = indices?.producer;
  const column = repeat?.opType === 'Expand' && repeat.domain === '' ? repeat.inputs[0]! : undefined;
  if (!isSum || table.shape?.length !== 2 || rows?.shape?.length !== 2) return false;
  if (typeof count !== 'number' && isAsLong(table, rows))
    return typeof width === 'number' && width <= MOST && column?.shape?.length === 2;
  if (typeof count !== 'number' || typeof width !== 'number' || rows.shape[1] !== width) return false;
  const isSmall = width >= NARROWEST && width <= MOST && count * width <= LARGEST;
  return isSmall && column?.shape?.length === 2 && column.shape[1] === 1;
}

/** Whether a table is of one number, repeated to as many rows as are added. */
function isAsLong({ producer }: Value, rows: Value): boolean {
  const extents = producer?.opType === 'Expand' ? producer.inputs[1]!.producer : undefined;
  return extents?.opType === 'Shape' && extents.inputs[0] === rows && !extents.attrs.size;
}

/** In parts, if the table is not long, which may be known at run time alone. */
function sumOf(g: Builder, node: Node): Value {
  const [table, indices, rows] = node.inputs.map(value => g.of(value!));
  if (typeof table!.extent(0) === 'number') return inParts(g, node);
  const isShort = rows!.count('int64').op('LessOrEqual', [LONGEST]);
  const branch = (sum: (b: Builder) => Value) => {
    const b = g.subgraph('sum');
    b.graph.outputs = [b.rename(b.of(sum(b)), 'sum_of_rows')];
    return b.graph;
  };
  // What repeats the indices is in the branch too: it takes as long as the sum in parts.
  const [column, extents] = indices!.value.producer!.inputs.map(value => value!);
  const whole = (b: Builder) => {
    const places = b.of(column!).op('Expand', [b.of(extents!)]);
    return b.of(table!.value).scatterElements(places, b.of(rows!.value), 0, 'add').typed(table!.type).value;
  };
  const branches = { then_branch: branch(b => inParts(b, node)), else_branch: branch(whole) };
  return g.emit('If', [isShort], branches, { types: [table!.type] })[0]!.value;
}

function inParts(g: Builder, node: Node): Value {
  const [table, indices, rows] = node.inputs.map(value => g.of(value!));
  const column = g.of(indices!.value.producer!.inputs[0]!);
  const one = g.vector([1]);
  // A single index may have been repeated for all rows.
  const places = column.expand(rows!.dims(0, 1).concat([one], 0)).cast('int64');
  const size = Math.floor(MOST / (table!.extent(1) as number));
  const parts = rows!
    .dims(0, 1)
    .add(g.scalar(size - 1, 'int64'))
    .div(g.scalar(size, 'int64'))
    .squeeze([0]);
  const { states } = loop(g, parts, [{ start: table!, type: table!.type }], (b, i, [sum]) => {
    const start = i.mul(b.scalar(size, 'int64')).unsqueeze([0]);
    const part = (e: typeof places) => b.of(e.value).slice(start, start.add(b.scalar(size, 'int64')), [0]);
    return [sum!.scatterND(part(places), part(rows!), 'add')];
  });
  return states[0]!.value;
}
