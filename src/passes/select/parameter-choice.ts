import type { Value } from '../../graph/ir.js';

/** What decided: the user, what the file says of its tensors, or (where it says nothing) a rule. */
export type DecidedBy = 'option' | 'file' | 'rule';

/** What becomes of a floating-point constant of the model, why, and who says so. */
export type ParameterChoice = { value: Value; trains: boolean; why: string; by: DecidedBy };
