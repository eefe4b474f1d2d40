/**
 * Converts the operators of ONNX Runtime's training to standard ones. Their domain is com.microsoft, but some gradients
 * are in the default domain, in which their names are not used otherwise.
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

/** The conversion of a node of ONNX Runtime's training to standard ones; undefined for other nodes. */
export function ortLowering({ domain, opType }: Node): Lowering | undefined {
  const isOrt = domain === 'com.microsoft' || (domain === '' && opType.endsWith('Grad'));
  return isOrt ? TABLE.get(opType) : undefined;
}

/** The names of all operators that can be converted. */
export const ORT_OPERATORS: readonly string[] = [...TABLE.keys()];
