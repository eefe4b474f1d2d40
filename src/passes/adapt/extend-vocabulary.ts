/** Extends the vocabulary of a text model: more rows in its embedding, and as many outputs in the layers that score tokens. */
import { concatBytes } from '../../graph/bytes.js';
import { isFloat, isQuantized } from '../../graph/dtype.js';
import { AgdError } from '../../graph/errors.js';
import type { Graph, Model, Node, Value } from '../../graph/ir.js';
import type { Names } from '../../graph/names.js';
import { Tensor } from '../../graph/tensor.js';
import { type Head, headsOf, outputsOf, storedAt } from '../select/find-head.js';
import { type Draw, normal, readRow } from './initial-values.js';
import { replaceHead } from './replace-head.js';

/** Deviation of new rows from the mean of the old ones, in standard deviations of these. */
const SPREAD = 0.01;

export type Extended = { table: Value; before: number; heads: Head[] };

/**
 * Gives the embedding of tokens, which an integer input of the model looks up, more rows, and the output layers that have one
 * number for each token as many. New rows are the mean of the old ones, so that new tokens begin as ones of which nothing is
 * known, with a hundredth of their standard deviation as noise, so that no two are equal. Throws `no-such-value` where no
 * input looks up a table, `bad-option` where that would shrink, `unsupported-op` for a quantized one.
 */
export function extendVocabulary(
  { graph, ...model }: Model,
  names: Names,
  count: number,
  draw: (stream: number) => Draw,
): Extended {
  const table = tokenTable(graph);
  const tensor = graph.initializers.get(table)!;
  const [before] = tensor.dims as [number];
  if (count <= before)
    throw new AgdError(
      'bad-option',
      `vocabulary: '${table.name}' has ${before} rows: choose a larger number, not ${count}.`,
    );
  const heads = headsOf(graph, graph.outputs).filter(head => outputsOf(head) === before);
  const added = newRows(tensor, 0, count - before, draw(0));
  heads.forEach((head, i) => {
    const { weight } = head;
    const axis = weight.isTransposed ? 1 - head.outAxis : head.outAxis;
    const isTied = weight.value === table;
    const own = isTied || isCopy(tensor, weight.tensor, axis) ? added : undefined;
    const rows =
      own ?? (isFloat(weight.tensor.dtype) ? newRows(weight.tensor, axis, count - before, draw(1 + i)) : []);
    const bias = head.bias && meanOf(head.bias.tensor.floats());
    replaceHead({ graph, ...model } as Model, names, head, {
      ...{ outputs: count, hidden: [], isTied, draw },
      row: (index, what, _fanIn, old) =>
        index < before ? old(index) : what === 'bias' ? [bias!] : rows[index - before]!,
    });
    if (isTied) for (const node of weight.through) for (const v of node.outputs) if (v) v.type = undefined;
  });
  const longer = Tensor.ofNumbers(floatType(tensor), [count - before, ...tensor.dims.slice(1)], added.flat());
  const bytes = concatBytes([tensor.bytes, longer.bytes]);
  graph.initializers.set(table, new Tensor(tensor.dtype, [count, ...tensor.dims.slice(1)], bytes));
  table.type = { kind: 'tensor', dtype: tensor.dtype, shape: [count, ...tensor.dims.slice(1)] };
  return { table, before, heads };
}

function floatType({ dtype }: Tensor) {
  if (isFloat(dtype)) return dtype;
  throw new Error(`A table of ${dtype} has no mean.`);
}

/** The largest table of which an integer input of the model says the rows. */
function tokenTable(graph: Graph): Value {
  const found = new Map<Value, number>();
  for (const node of graph.nodes) {
    const data = node.inputs[0];
    const indices = node.inputs[1];
    if (!data || !indices || !isLookup(node) || !comesFromInput(graph, indices)) continue;
    const stored = storedAt(graph, data);
    if (stored?.tensor.dims.length !== 2) continue;
    const { value, tensor } = stored;
    if (node.opType !== 'Gather' || !isFloat(tensor.dtype) || isQuantized(tensor.dtype))
      throw new AgdError(
        'unsupported-op',
        `The embedding '${value.name}' is quantized (${node.opType === 'Gather' ? tensor.dtype : node.opType}): extend the vocabulary before the model is quantized.`,
      );
    if (!stored.isTransposed) found.set(value, tensor.dims[0]!);
  }
  const [first, second] = [...found].sort(([, a], [, b]) => b - a);
  if (!first)
    throw new AgdError(
      'no-such-value',
      `No table is looked up by an integer input of the model (${graph.inputs.map(v => `'${v.name}'`).join(', ')}): it has no vocabulary.`,
    );
  if (second && second[1] === first[1])
    throw new AgdError(
      'bad-option',
      `Two tables have ${first[1]} rows each, '${first[0].name}' and '${second[0].name}': it is not clear which one is the vocabulary.`,
    );
  if (first[0].producer) {
    graph.initializers.set(first[0], storedAt(graph, first[0])!.tensor);
    graph.remove([first[0].producer]);
  }
  return first[0];
}

function isLookup({ opType, attrs }: Node): boolean {
  const axis = attrs.get(opType === 'Gather' ? 'axis' : 'gather_axis');
  const isFirst = axis?.type !== 'int' || Number(axis.value) === 0;
  return (opType === 'Gather' || opType === 'GatherBlockQuantized') && isFirst;
}

/** Whether indices are an input of the model, or that laid out anew. */
function comesFromInput(graph: Graph, indices: Value): boolean {
  for (let value = indices; ; ) {
    if (graph.inputs.includes(value) && !graph.initializers.has(value)) return true;
    const { producer } = value;
    const next = producer?.inputs[0];
    if (!next || !/^(Cast|Identity|Reshape|Flatten|Squeeze|Unsqueeze|Clip|Max|Min)$/.test(producer.opType))
      return false;
    value = next;
  }
}

/** Whether the rows of a matrix along `axis` are those of a table: an exporter transposed it beforehand. */
function isCopy(table: Tensor, matrix: Tensor, axis: number): boolean {
  const [rows, width] = table.dims as [number, number];
  if (matrix.dims.length !== 2 || matrix.dims[axis] !== rows || matrix.dims[1 - axis] !== width) return false;
  const [a, b] = [table.floats(), matrix.floats()];
  const at = (r: number, c: number) => (axis === 0 ? r * width + c : c * rows + r);
  return Array.from({ length: rows }, (_, r) => r).every(r =>
    Array.from({ length: width }, (_, c) => c).every(c => a[r * width + c] === b[at(r, c)]),
  );
}

function newRows(tensor: Tensor, axis: number, count: number, draw: Draw): number[][] {
  const values = tensor.floats();
  const rows = tensor.dims[axis]!;
  const width = tensor.size / rows;
  const [sum, squares] = [new Float64Array(width), new Float64Array(width)];
  for (let r = 0; r < rows; r++)
    readRow(values, tensor.dims, axis, r).forEach((x, i) => {
      sum[i]! += x;
      squares[i]! += x * x;
    });
  const mean = Array.from(sum, x => x / rows);
  const deviation = Array.from(squares, (x, i) => Math.sqrt(Math.max(0, x / rows - mean[i]! ** 2)));
  return Array.from({ length: count }, () => mean.map((m, i) => m + SPREAD * deviation[i]! * normal(draw)));
}

const meanOf = (numbers: ArrayLike<number>) =>
  Array.from(numbers).reduce((n, x) => n + x, 0) / numbers.length;
