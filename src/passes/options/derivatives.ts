/** Options of `differentiate`. */
import { choice, texts } from '../../ops/core/option-type.js';
import { type Option, option } from './option.js';

const DERIVATIVE = { group: 'Model', commands: [], stage: 'run' } as const;

const DERIVATIVE_MODES = ['gradient', 'vjp', 'jvp', 'jacobian', 'hvp', 'hessian'] as const;
export type DerivativeMode = (typeof DERIVATIVE_MODES)[number];

/** Comma-separated names. A comma in {a,b} is part of the glob. */
export const parseNames = (list: readonly string[]) =>
  list.flatMap(text => text.split(/,(?![^{]*\})/).map(name => name.trim())).filter(Boolean);

/** The options of `differentiate` other than the loss. */
export const DERIVATIVE_OPTIONS = {
  of: option(texts, {
    ...DERIVATIVE,
    help: 'Outputs or inner values to differentiate, e.g. loss or y,z',
    shown: 'the only output',
    parseAll: parseNames,
    conflicts: ['loss', 'lossOutput'],
  }),
  wrt: option(texts, {
    ...DERIVATIVE,
    help: 'Inputs and initializers to differentiate with respect to (globs), e.g. x,W*',
    required: true,
    parseAll: parseNames,
  }),
  mode: option(choice(DERIVATIVE_MODES), {
    ...DERIVATIVE,
    help: 'Derivative to compute',
    shown: 'gradient',
  }),
} satisfies Record<string, Option>;
