import type { Model, Node, Value } from '../../graph/ir.js';
import type { Builder } from '../../ops/core/builder.js';
import type { Expr } from '../../ops/core/expr.js';
import { Attributes } from '../../ops/core/rule.js';
import { type Constant, type Rewrite, rewriteNodes } from '../common/rewrite-nodes.js';
import { leadingAxes } from './sum-by-products.js';

/** With fewer classes, there is little to gain. */
const LEAST = 256;

/**
 * Gradients of a layer of many classes from that of cross-entropy, w (p - y) with probabilities p, targets y and a weight w for each
 * row: products with p - y, of which the result or the other operand is weighed, as these have fewer columns. Returns whether there was
 * anything to change.
 */
export function weighRowsLast(model: Model): boolean {
  return rewriteNodes(model, rewritesOf);
}

const is = (node: Node | undefined, opType: string): node is Node =>
  node?.opType === opType && node.domain === '';

/** The gradient of the classes' logits: its parts, and where they are written. */
type Gradient = { d: Value; p: Value; targets: Value; w: Value };

function rewritesOf(scatter: Node, constant: Constant): ReadonlyMap<Node, Rewrite> {
  const gradient = gradientOf(scatter);
  const rewrites = new Map<Node, Rewrite>();
  for (const reader of gradient?.d.readers ?? []) {
    const matrix = is(reader, 'Reshape') ? reader.outputs[0]! : undefined;
    const isFlat = matrix?.shape?.length === 2 && matrix.shape[1] === gradient!.d.shape!.at(-1);
    for (const node of isFlat && !matrix.outputOf.length ? matrix.readers : [reader]) {
      const rewrite = rewriteOf(node, matrix ?? gradient!.d, gradient!, constant);
      if (!rewrite) return new Map();
      rewrites.set(node, rewrite);
    }
  }
  return rewrites;
}

function gradientOf(scatter: Node): Gradient | undefined {
  if (!is(scatter, 'ScatterElements')) return undefined;
  const [data, targets, updates] = scatter.inputs;
  const d = scatter.outputs[0]!;
  const attrs = new Attributes(scatter);
  const last = (d.shape?.length ?? 0) - 1;
  const isLast = last > 0 && attrs.int('axis', 0) === last && attrs.string('reduction', 'none') === 'add';
  const product = data!.producer;
  if (!isLast || !is(product, 'Mul') || d.dtype !== 'float32' || d.outputOf.length) return undefined;
  const [p, w] = product.inputs as [Value, Value];
  const isWeighed = is(w.producer, 'Neg') && w.producer.inputs[0] === updates;
  const rows = d.shape!.slice(0, -1);
  const isSame = !rows.includes(null) && `${p.shape}` === `${d.shape}` && `${w.shape}` === `${[...rows, 1]}`;
  return isWeighed && isSame && Number(d.shape!.at(-1)) >= LEAST ? { d, p, targets: targets!, w } : undefined;
}

/** Of a node that reads the gradient, perhaps as a matrix; undefined if another form of it does not serve or gains nothing. */
function rewriteOf(
  node: Node,
  read: Value,
  { d, p, targets, w }: Gradient,
  constant: Constant,
): Rewrite | undefined {
  const classes = d.shape!.at(-1) as number;
  const rank = d.shape!.length;
  const unweighed = (g: Builder) => {
    const minus = g.scalar(-1, 'float32').expand(g.of(targets).op('Shape'));
    const attrs = { axis: rank - 1, reduction: 'add' };
    return g.of(p).op('ScatterElements', [g.of(targets), minus], attrs, { types: [d.type] });
  };
  const flat = (e: Expr, columns: number) => (e.rank === 2 ? e : e.reshape([-1, columns]));
  const isNarrow = (columns: unknown) => typeof columns === 'number' && 2 * columns <= classes;
  const [a, b] = node.inputs;
  if (is(node, 'MatMul') && a === d && b!.shape?.length === 2 && isNarrow(b!.shape[1]))
    return g => unweighed(g).matmul(g.of(b!)).mul(g.of(w)).value;
  if (is(node, 'ReduceSum') && a === d && leadingAxes(node, constant) === rank - 1) {
    const shape = new Attributes(node).int('keepdims', 1)
      ? [...Array<number>(rank - 1).fill(1), classes]
      : [classes];
    return g =>
      g
        .of(w)
        .reshape([1, -1])
        .matmul(flat(unweighed(g), classes))
        .reshape(shape).value;
  }
  if (!is(node, 'Gemm') || node.inputs.length > 2 || node.attrs.size > 1) return undefined;
  const other = (a === read ? b : a)!;
  const from =
    other.shape?.length === rank
      ? other
      : is(other.producer, 'Reshape')
        ? other.producer.inputs[0]!
        : undefined;
  const isSame =
    `${from?.shape?.slice(0, -1)}` === `${d.shape!.slice(0, -1)}` && from!.shape!.at(-1) === other.shape?.[1];
  if (!isSame || !isNarrow(other.shape?.[1]) || !new Attributes(node).int('transA', 0)) return undefined;
  return g => {
    const [left, right] = [
      flat(unweighed(g), classes),
      flat(g.of(from!).mul(g.of(w)), other.shape![1] as number),
    ];
    return (a === read ? left.op('Gemm', [right], { transA: 1 }) : right.op('Gemm', [left], { transA: 1 }))
      .value;
  };
}
