/** What is decided about a constant: whether it trains, and why. */
import type { Value } from '../../graph/ir.js';

/** What decided: the user, the file, or a rule if the file says nothing. */
export type DecidedBy = 'option' | 'file' | 'rule';

/** Whether a floating-point constant of the model trains, why, and what decided. */
export type ParameterChoice = { value: Value; trains: boolean; why: string; by: DecidedBy };
