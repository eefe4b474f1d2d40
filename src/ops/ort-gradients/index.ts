/**
 * The operators of ONNX Runtime's own training, written as standard ones. They are com.microsoft's, and some of the
 * gradients stand in the default domain, where no others have these names.
 */
import type { Node } from '../../graph/ir.js';
import type { Lowering } from '../core/gradient-node.js';
import * as activation from './activation.js';
import * as elementwise from './elementwise.js';
import * as indexing from './indexing.js';
import * as loss from './loss.js';
import * as normalization from './normalization.js';
import * as recurrent from './recurrent.js';
import * as window from './window.js';

const TABLE = new Map<string, Lowering>(
  [activation, elementwise, indexing, loss, normalization, recurrent, window].flatMap(family =>
    Object.entries<Lowering>(family),
  ),
);

/** How a node of ONNX Runtime's training is written as standard ones; undefined for any other. */
export function ortLowering({ domain, opType }: Node): Lowering | undefined {
  const isOrt = domain === 'com.microsoft' || (domain === '' && opType.endsWith('Grad'));
  return isOrt ? TABLE.get(opType) : undefined;
}

/** The names of all operators that can be written as standard ones. */
export const ORT_OPERATORS: readonly string[] = [...TABLE.keys()];
