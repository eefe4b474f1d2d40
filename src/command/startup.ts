/** What every command loads at startup: small modules only, so that help is instant. */

export { AgdError, oneLine, printable } from '../graph/errors.js';
export * as types from '../ops/core/option-type.js';
export { checkOption, type OptionType, unknownName } from '../ops/core/option-type.js';
export { lossOptionNames } from '../ops/losses/index.js';
export { type AnyOptions, allOptimizerNames, optimizerNamed } from '../ops/optimizers/index.js';
export { type Optimizer, resolveOptions } from '../ops/optimizers/optimizer.js';
export { ADAPT_OPTIONS, type AdaptOptions } from '../passes/options/adapt.js';
export { DERIVATIVE_OPTIONS, type DerivativeMode } from '../passes/options/derivatives.js';
export { parseLoss } from '../passes/options/parse-loss.js';
export {
  type Command,
  decidedByInjection,
  type FileOptions,
  GROUPS,
  type InjectOptions,
  injectOptionsOf,
  type LossSpec,
  noLoss,
  OPTIONS,
  type Option,
  optimizerFlags,
  parseAssignments,
  parseNumbers,
  type RunOptions,
} from '../passes/options.js';
export { showAugmentations } from '../passes/recipe/augmentation.js';
export { quotedColumn } from '../passes/recipe/columns.js';
export { findLaunch } from '../runtime/collective/launcher.js';
export { crashError, isFault } from '../runtime/crash.js';
