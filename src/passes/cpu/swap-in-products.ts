import type { Model, Node, Value } from '../../graph/ir.js';
import type { Builder } from '../../ops/core/builder.js';
import type { Expr } from '../../ops/core/expr.js';
import { Attributes } from '../../ops/core/rule.js';
import { rewriteNodes } from '../common/rewrite-nodes.js';

const MICROSOFT = 'com.microsoft';
const HEADS = '0,2,1,3';
const SWAPPED = '0,1,3,2';
const BOTH = '0,2,3,1';

/**
 * Products of attention that swap rows and columns of their operands as they read them, in place of transposes. ONNX
 * Runtime's optimizer would move these to where queries and keys are moved to their heads, each of them a copy. What is
 * moved to its heads in two ways is then moved in one. Returns whether there was anything to change.
 */
export function swapInProducts(model: Model): boolean {
  const changed = rewriteNodes(model, node => {
    if (node.opType !== 'MatMul' || node.domain || node.inputs.some(v => v?.shape?.length !== 4)) return [];
    const [a, b] = node.inputs.map(unswapped);
    return a || b ? [[node, g => product(g, node, a, b)]] : [];
  });
  if (changed) model.opsetImports = new Map([...model.opsetImports, [MICROSOFT, 1]]);
  return changed;
}

type Unswapped = (g: Builder) => Expr;

function product(g: Builder, { inputs, outputs }: Node, a?: Unswapped, b?: Unswapped): Value {
  const [left, right] = [a, b].map((from, i) => from?.(g) ?? g.of(inputs[i]!));
  const attrs = { ...(a ? { transA: 1 } : {}), ...(b ? { transB: 1 } : {}) };
  return left!.op('FusedMatMul', [right!], attrs, { domain: MICROSOFT, types: [outputs[0]!.type] }).value;
}

/** What an operand is the swapped form of. */
function unswapped(value: Value | null): Unswapped | undefined {
  const [from] = value?.producer?.inputs ?? [];
  if (value?.dtype !== 'float32' || !from) return undefined;
  const perm = permutation(value.producer!);
  if (perm === SWAPPED) return g => g.of(from);
  const isMoved = perm === BOTH && from.readers.some(node => permutation(node) === HEADS);
  return isMoved ? g => g.of(from).transpose([0, 2, 1, 3]) : undefined;
}

const permutation = (node: Node) =>
  node.opType === 'Transpose' && !node.domain ? `${new Attributes(node).ints('perm')}` : undefined;
