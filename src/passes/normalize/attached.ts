/** Names of what belongs to a model that was attached: a teacher, or a graph of the loss. None of it trains or is exported. */
import type { Node } from '../../graph/ir.js';

export const TEACHER = 'teacher::';
export const LOSS = 'loss::';

export const isAttached = (name: string) => name.startsWith(TEACHER) || name.startsWith(LOSS);

export const isAttachedNode = ({ outputs }: Node) => outputs.some(v => v && isAttached(v.name));
