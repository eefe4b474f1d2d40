import { AgdError } from '../../graph/errors.js';
import { type AdabeliefOptions, adabelief } from './adabelief.js';
import { type AdaboundOptions, adabound } from './adabound.js';
import { type AdahessianOptions, adahessian } from './adahessian.js';
import { type AdamOptions, adam } from './adam.js';
import { adamw } from './adamw.js';
import { type AgdOptions, agd } from './agd.js';
import { amsgrad } from './amsgrad.js';
import type { Optimizer, OptimizerOptions } from './optimizer.js';
import { type RadamOptions, radam } from './radam.js';
import { type SgdOptions, sgd } from './sgd.js';

/** The options of each optimizer. */
type Options = {
  agd: AgdOptions;
  sgd: SgdOptions;
  adam: AdamOptions;
  adamw: AdamOptions;
  amsgrad: AdamOptions;
  radam: RadamOptions;
  adabound: AdaboundOptions;
  adabelief: AdabeliefOptions;
  adahessian: AdahessianOptions;
};

export const OPTIMIZERS: { readonly [N in OptimizerName]: Optimizer<Options[N]> } = {
  agd,
  sgd,
  adam,
  adamw,
  amsgrad,
  radam,
  adabound,
  adabelief,
  adahessian,
};

export type OptimizerName = keyof Options;
export const OPTIMIZER_NAMES = Object.keys(OPTIMIZERS) as OptimizerName[];

/** An optimizer by its name, AGD if there is none, and those of its options that are not to be its defaults. */
export type OptimizerSpec =
  | ({ name?: 'agd' } & Partial<AgdOptions>)
  | { [N in OptimizerName]: { name: N } & Partial<Options[N]> }[OptimizerName];

/** Options of any optimizer; which of them one has is checked when they are used. */
export type AnyOptions = Partial<
  AgdOptions &
    SgdOptions &
    AdamOptions &
    RadamOptions &
    AdaboundOptions &
    AdabeliefOptions &
    AdahessianOptions
>;

/** Throws `bad-option` for a name that is none of `OPTIMIZERS`. Its options are to be those of its own type. */
export function optimizerNamed(name: string): Optimizer<OptimizerOptions> {
  const found = new Map<string, unknown>(Object.entries(OPTIMIZERS)).get(name);
  if (!found)
    throw new AgdError(
      'bad-option',
      `There is no optimizer '${name}'; there are ${OPTIMIZER_NAMES.join(', ')}.`,
    );
  return found as Optimizer<OptimizerOptions>;
}
