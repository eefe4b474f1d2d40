import type { Model, Node, Value } from '../../graph/ir.js';
import type { Builder } from '../../ops/core/builder.js';
import { Attributes } from '../../ops/core/rule.js';
import { loop } from '../../ops/core/scan.js';
import { rewriteNodes } from './rewrite-nodes.js';

/** ONNX Runtime adds more than 210,000 numbers on several threads, and then loses terms of equal rows. */
const MOST = 2 ** 17;
/** Narrower rows take little time in either way. */
const NARROWEST = 32;
/** Each part copies the table, which takes a larger one longer than is saved. */
const LARGEST = 2 ** 18;

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
  if (typeof count !== 'number' || typeof width !== 'number' || rows.shape[1] !== width) return false;
  const isSmall = width >= NARROWEST && width <= MOST && count * width <= LARGEST;
  return isSmall && column?.shape?.length === 2 && column.shape[1] === 1;
}

function sumOf(g: Builder, node: Node): Value {
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
