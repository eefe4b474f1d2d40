import type { Node, Shape, Value } from '../../graph/ir.js';

const setOf = (operators: string) => new Set(operators.split(' '));

const UNARY = setOf('Neg Abs Exp Log Sqrt Reciprocal Tanh Sigmoid Relu Softplus Softsign Identity');
const BINARY = setOf('Add Sub Mul Div');

/** Operators whose output type is the broadcast of the input types. */
const FOLLOWING = new Set([...UNARY, ...BINARY, ...setOf('Erf Softmax LogSoftmax Gelu')]);

/** Whether the type of a node's output follows completely from those of its inputs. */
export function followsInputs({ domain, opType }: Node): boolean {
  return domain === '' && FOLLOWING.has(opType);
}

/**
 * Whether every runtime supports the node and `inferTypes` infers its output type completely from the types of its
 * inputs: float32 of known ranks, with compatible extents.
 */
export function isCertain({ domain, opType, attrs, inputs, outputs }: Node): boolean {
  if (domain !== '' || attrs.size > 0 || outputs.length !== 1 || !outputs[0]) return false;
  const [a, b] = [inputs[0]?.shape, inputs[1]?.shape];
  if (!a || !inputs.every(isFloat32)) return false;
  if (inputs.length === 1) return UNARY.has(opType);
  if (inputs.length !== 2 || !b) return false;
  if (BINARY.has(opType)) return a === b || broadcast(a, b);
  if (opType !== 'MatMul' || !a.length || !b.length) return false;
  const [inner, outer] = [a.at(-1), b.at(b.length > 1 ? -2 : -1)];
  const apart = typeof inner === 'number' && typeof outer === 'number' && inner !== outer;
  return !apart && broadcast(a.slice(0, -2), b.slice(0, -2));
}

const isFloat32 = (v: Value | null) => v?.dtype === 'float32';

/** Whether the shapes can be broadcast to a common one, as far as extents are known. */
function broadcast(a: Shape, b: Shape): boolean {
  for (let i = -Math.min(a.length, b.length); i < 0; i++) {
    const [d, e] = [a.at(i)!, b.at(i)!];
    if (typeof d === 'number' && typeof e === 'number' && d !== e && d !== 1 && e !== 1) return false;
  }
  return true;
}
