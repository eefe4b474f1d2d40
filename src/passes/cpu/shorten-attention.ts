import type { Model, Node, Value } from '../../graph/ir.js';
import { float } from '../../ops/core/builder.js';
import { Attributes } from '../../ops/core/rule.js';
import { type Constant, type Rewrite, rewriteNodes } from '../common/rewrite-nodes.js';

/** With larger heads, a product with the probabilities on the right gains nothing. */
const MOST = 64;

/**
 * Fewer and faster passes over the probabilities P of attention, O = softmax(Q Kᵀ) V, on ONNX Runtime's CPU kernels:
 * - PyTorch's guard Where(IsNaN(P), 0, P) as ThresholdedRelu, which is 0 where P is not above 0; its gradient without a
 *   guard, as that of Softmax multiplies by P.
 * - sum(dP P) in the gradient of Softmax as sum(dO O), which is the same, as dP = dO Vᵀ. O is kept where its heads are joined.
 * - dV = Pᵀ dO as (dOᵀ P)ᵀ, with the transposes that part and join the heads.
 * Returns whether there was anything to change.
 */
export function shortenAttention(model: Model): boolean {
  return rewriteNodes(model, rewritesOf);
}

const is = (node: Node | undefined, opType: string): node is Node =>
  node?.opType === opType && node.domain === '';

const readersOf = (value: Value, opType: string) => value.readers.filter(node => is(node, opType));

/** The value that `value` is a Transpose of, by `perm`. */
function turned(value: Value | null | undefined, perm: string): Value | undefined {
  const node = value?.producer;
  return is(node, 'Transpose') && `${new Attributes(node).ints('perm')}` === perm
    ? node.inputs[0]!
    : undefined;
}

const HEADS = '0,2,1,3';
const LAST = '0,1,3,2';

function rewritesOf(softmax: Node, constant: Constant): Map<Node, Rewrite> {
  const rewrites = new Map<Node, Rewrite>();
  const p = softmax.outputs[0];
  if (!is(softmax, 'Softmax') || p?.dtype !== 'float32' || p.shape?.length !== 4) return rewrites;
  const equals = (value: Value | null | undefined, wanted: number) => {
    const tensor = constant(value);
    return tensor?.size === 1 && tensor.numbers()[0] === wanted;
  };
  const guards = readersOf(p, 'IsNaN').flatMap(nan =>
    readersOf(nan.outputs[0]!, 'Where').filter(
      ({ inputs }) => inputs[0] === nan.outputs[0] && equals(inputs[1], 0),
    ),
  );
  const guard = guards.find(({ inputs }) => inputs[2] === p);
  if (guard) rewrites.set(guard, g => g.of(p).op('ThresholdedRelu', [], { alpha: float(0) }).value);
  const timesP = (node: Node) => is(node, 'Mul') && node.inputs.includes(p);
  for (const back of guards.filter(node => node !== guard)) {
    const [dp] = back.outputs;
    const isMultiplied = dp!.readers.every(
      node =>
        timesP(node) ||
        (is(node, 'Sub') && !node.outputs[0]!.outputOf.length && node.outputs[0]!.readers.every(timesP)),
    );
    if (isMultiplied && !dp!.outputOf.length) rewrites.set(back, () => back.inputs[2]!);
  }

  const read = guard?.outputs[0] ?? p;
  for (const output of readersOf(read, 'MatMul').filter(({ inputs }) => inputs[0] === read)) {
    const [, v] = output.inputs;
    const o = output.outputs[0]!;
    const isKept = readersOf(o, 'Transpose').some(node => turned(node.outputs[0], HEADS));
    const [width, keys] = [v?.shape?.[3], p.shape[3]];
    if (typeof width !== 'number' || (typeof keys === 'number' && keys < width)) continue;
    // The gradient of V, whose readers join the heads.
    for (const pt of readersOf(read, 'Transpose').filter(node => turned(node.outputs[0], LAST)))
      for (const product of readersOf(pt.outputs[0]!, 'MatMul')) {
        const [dv] = product.outputs;
        const dO = turned(product.inputs[1], HEADS);
        if (!dO || width > MOST || product.inputs[0] !== pt.outputs[0] || dv!.outputOf.length) continue;
        if (dv!.readers.every(node => turned(node.outputs[0], HEADS)))
          for (const node of dv!.readers)
            rewrites.set(
              node,
              g => g.of(dO).transpose([0, 2, 3, 1]).matmul(g.of(read)).transpose([0, 3, 1, 2]).value,
            );
      }
    // The gradient of P, and the sums of its products with P.
    const vt = readersOf(v!, 'Transpose').filter(node => turned(node.outputs[0], LAST));
    for (const product of vt.flatMap(node => readersOf(node.outputs[0]!, 'MatMul'))) {
      const dO = turned(product.inputs[0], HEADS);
      const dp = product.outputs[0]!;
      const all = [dp, ...guards.filter(({ inputs }) => inputs[2] === dp).map(node => node.outputs[0]!)];
      const products = all.flatMap(value => readersOf(value, 'Mul').filter(timesP));
      for (const sum of products.flatMap(node => readersOf(node.outputs[0]!, 'ReduceSum')))
        if (dO && isKept && equals(sum.inputs[1], 3) && new Attributes(sum).int('keepdims', 1))
          rewrites.set(
            sum,
            g =>
              g
                .of(dO)
                .mul(g.of(o).transpose([0, 2, 1, 3]))
                .sum([3])
                .transpose([0, 2, 1])
                .unsqueeze([3]).value,
          );
    }
  }
  return rewrites;
}
