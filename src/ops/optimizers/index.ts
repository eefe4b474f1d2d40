import { AgdError } from '../../graph/errors.js';
import { checkNewName, unknownName } from '../core/option-type.js';
import { adabelief } from './adabelief.js';
import { adabound } from './adabound.js';
import { adafactor } from './adafactor.js';
import { adagrad } from './adagrad.js';
import { adahessian } from './adahessian.js';
import { adam } from './adam.js';
import { adaml } from './adaml.js';
import { adamw } from './adamw.js';
import { adan } from './adan.js';
import { ademamix } from './ademamix.js';
import { agd } from './agd.js';
import { amsgrad } from './amsgrad.js';
import { lamb } from './lamb.js';
import { lars } from './lars.js';
import { lion } from './lion.js';
import { muon } from './muon.js';
import { nadam } from './nadam.js';
import type { Optimizer, OptimizerOptions } from './optimizer.js';
import { prodigy } from './prodigy.js';
import { radam } from './radam.js';
import { rmsprop } from './rmsprop.js';
import { scheduleFreeAdamw } from './schedule-free-adamw.js';
import { scheduleFreeSgd } from './schedule-free-sgd.js';
import { sgd } from './sgd.js';
import { shampoo } from './shampoo.js';

/** One entry per optimizer; names, types and flags are derived from it. */
export const OPTIMIZERS = {
  agd,
  sgd,
  adam,
  adamw,
  amsgrad,
  radam,
  nadam,
  adabound,
  adabelief,
  adahessian,
  adagrad,
  rmsprop,
  lion,
  adan,
  ademamix,
  adafactor,
  lamb,
  lars,
  muon,
  shampoo,
  prodigy,
  'schedule-free-adamw': scheduleFreeAdamw,
  'schedule-free-sgd': scheduleFreeSgd,
  adaml,
};

export type OptimizerName = keyof typeof OPTIMIZERS;
/** The names of the optimizers. */
export const OPTIMIZER_NAMES = Object.keys(OPTIMIZERS) as OptimizerName[];

/** The options of each optimizer. */
type Options = {
  [N in OptimizerName]: (typeof OPTIMIZERS)[N] extends Optimizer<infer O> ? O : never;
};

/** The name of an optimizer (AGD if not given) and the options that differ from its defaults. */
export type OptimizerSpec =
  | ({ name?: 'agd' } & Partial<Options['agd']>)
  | { [N in OptimizerName]: { name: N } & Partial<Options[N]> }[OptimizerName];

/** Options of any optimizer; whether an optimizer has them is checked when they are used. */
export type AnyOptions = Partial<Intersection<Options[OptimizerName]>>;
type Intersection<U> = (U extends unknown ? (x: U) => void : never) extends (x: infer I) => void ? I : never;

type AnyOptimizer = Optimizer<OptimizerOptions>;

/** By name, with those that extensions add. */
const ALL = new Map(Object.entries(OPTIMIZERS as unknown as Record<string, AnyOptimizer>));

/** The names of all optimizers, including those of extensions. */
const NAMES: string[] = [...OPTIMIZER_NAMES];
export const allOptimizerNames: readonly string[] = NAMES;

/** The type of the options depends on the optimizer. */
export const findOptimizer = (name: string): AnyOptimizer | undefined => ALL.get(name);

export const isExtension = (name: string) => ALL.has(name) && !Object.hasOwn(OPTIMIZERS, name);

/**
 * The optimizer of a training step; none for a step that was made elsewhere. Throws `bad-option` if an extension that is not
 * loaded defines it.
 */
export function optimizerOf({ name, extension }: { name: string; extension?: boolean }) {
  const found = findOptimizer(name);
  if (!found && extension)
    throw new AgdError(
      'bad-option',
      `How ranks share the state of '${name}' depends on its definition: load the extension by --extend.`,
    );
  return found;
}

/** Throws `bad-option` for an unknown name. */
export function optimizerNamed(name: string): AnyOptimizer {
  const found = findOptimizer(name);
  if (!found) throw unknownName('optimizer', name, NAMES);
  return found;
}

/** Adds the optimizer of an extension. Throws `bad-option` if the name is taken or not a valid name. */
export function addOptimizer(optimizer: AnyOptimizer): void {
  checkNewName('Optimizer', optimizer.name, [...NAMES, 'own']);
  for (const name of ['lr', 'weightDecay'])
    if (!Object.hasOwn(optimizer.options, name))
      throw new AgdError('bad-option', `Optimizer '${optimizer.name}' must declare the option ${name}.`);
  ALL.set(optimizer.name, optimizer);
  NAMES.push(optimizer.name);
}
