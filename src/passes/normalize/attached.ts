/**
 * Names of what belongs to a model that was attached: a teacher, a graph of the loss, or a projection between model and
 * teacher. Of these only projections train, and none is exported.
 */
import type { Node } from '../../graph/ir.js';

export const TEACHER = 'teacher::';
export const LOSS = 'loss::';
export const PROJECTION = 'projection::';

export const isProjection = (name: string) => name.startsWith(PROJECTION);
export const isAttached = (name: string) =>
  name.startsWith(TEACHER) || name.startsWith(LOSS) || isProjection(name);

export const isAttachedNode = ({ outputs }: Node) => outputs.some(v => v && isAttached(v.name));
