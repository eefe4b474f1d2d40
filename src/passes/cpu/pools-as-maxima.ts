import type { Model, Node, Value } from '../../graph/ir.js';
import type { Builder } from '../../ops/core/builder.js';
import type { Expr } from '../../ops/core/expr.js';
import { Attributes } from '../../ops/core/rule.js';
import { rewriteNodes } from '../common/rewrite-nodes.js';

/** Two tensors whose maxima a step of a pool takes. */
type Pair = readonly [Expr, Expr];

/**
 * Computes pools of 2 x 2, and their gradients, as maxima of pairs: first of columns, then of rows. ONNX Runtime's CPU kernel
 * that finds indices uses a single thread and several times as long. The first of equal elements gets the gradient, as with indices.
 * Returns whether there was anything to change.
 */
export function poolsAsMaxima(model: Model): boolean {
  return rewriteNodes(model, node => {
    const spreads = spreadsOf(node);
    if (!spreads) return [];
    const [x] = node.inputs as [Value];
    const [c, height, width] = x.shape!.slice(1) as [number, number, number];
    let columns: Pair;
    let rows: Pair;
    const pool = (g: Builder) => {
      columns = halves(g.of(x).reshape([-1, width / 2, 2]), 2);
      rows = halves(columns[0].op('Max', [columns[1]]).reshape([-1, 2, width / 2]), 1);
      return rows[0].op('Max', [rows[1]]).reshape([-1, c, height / 2, width / 2]).value;
    };
    const spread = (g: Builder, dy: Value) => {
      const inRows = parts(g.of(dy).reshape([-1, 1, width / 2]), rows, 1);
      return parts(inRows.reshape([-1, width / 2, 1]), columns, 2).reshape([-1, c, height, width]).value;
    };
    return [[node, pool], ...spreads.map(n => [n, (g: Builder) => spread(g, n.inputs[0]!)] as const)];
  });
}

const halves = (e: Expr, axis: number) =>
  e.g.emit(
    'Split',
    [e],
    { axis, ...(e.g.opset() >= 18 ? { num_outputs: 2 } : {}) },
    { outputs: 2 },
  ) as never as Pair;

/** The gradient of the larger of each pair, side by side along `axis`. */
function parts(d: Expr, [a, b]: Pair, axis: number): Expr {
  const first = d.mul(a.greaterOrEqual(b).indicator(d));
  return first.concat([d.sub(first)], axis);
}

/** The gradients of a pool whose windows split images in float32 into squares of four, if nothing else reads the indices. */
function spreadsOf(node: Node): readonly Node[] | undefined {
  const [x] = node.inputs;
  const [y, indices] = node.outputs;
  if (node.opType !== 'MaxPool' || node.domain || x?.dtype !== 'float32' || !y || !indices) return undefined;
  const attrs = new Attributes(node);
  const isOf = (name: string, value: string, otherwise = value) =>
    `${attrs.ints(name) ?? otherwise}` === value;
  const isSquare = isOf('kernel_shape', '2,2') && isOf('strides', '2,2', '1,1') && isOf('dilations', '1,1');
  const isPlain = isOf('pads', '0,0,0,0') && attrs.int('storage_order', 0) === 0;
  const [c, ...inner] = x.shape?.slice(1) ?? [];
  const isEven = inner.length === 2 && inner.every(d => typeof d === 'number' && d > 0 && d % 2 === 0);
  if (!isSquare || !isPlain || !isEven || typeof c !== 'number' || c < 1) return undefined;
  const spreads = indices.outputOf.length ? [] : indices.readers;
  const isGradient = ({ opType, domain, graph, inputs, outputs }: Node) =>
    opType === 'MaxUnpool' &&
    !domain &&
    graph === node.graph &&
    inputs[1] === indices &&
    `${outputs[0]?.shape?.slice(1)}` === `${[c, ...inner]}`;
  return spreads.length && spreads.every(isGradient) ? spreads : undefined;
}
