import { isFloat } from '../../graph/dtype.js';
import type { SequenceType, Shape, ValueType } from '../../graph/ir.js';

/** The common part of two types: the extents in which they agree. Undefined if they are of different kinds. */
export function join(a: ValueType | undefined, b: ValueType | undefined): ValueType | undefined {
  if (a?.kind === 'tensor' && b?.kind === 'tensor')
    return a.dtype === b.dtype ? { ...a, shape: joinShapes(a.shape, b.shape) } : undefined;
  if (a?.kind === 'sequence' && b?.kind === 'sequence') {
    if (a.empty || b.empty) return a.empty ? b : a;
    const elem = join(a.elem, b.elem);
    return elem && { ...a, elem };
  }
  return a?.kind === b?.kind ? a : undefined;
}

function joinShapes(a: Shape | undefined, b: Shape | undefined): Shape | undefined {
  if (a?.length !== b?.length) return undefined;
  return a?.map((d, i) => (d === b![i] ? d : null));
}

/** Whether a value can have a cotangent: floating-point tensors, and sequences and optional values of these. */
export function isDifferentiable(type: ValueType | undefined): boolean {
  if (type?.kind === 'sequence' || type?.kind === 'optional') return isDifferentiable(type.elem);
  return type?.kind === 'tensor' && isFloat(type.dtype);
}

export function isSequence(type: ValueType | undefined): type is SequenceType {
  return type?.kind === 'sequence';
}

/** The type of a tensor with any number of rows: that of looked-up rows. */
export function anyRows(type: ValueType | undefined): ValueType | undefined {
  return type?.kind === 'tensor' ? { ...type, shape: [null, ...type.shape!.slice(1)] } : type;
}
