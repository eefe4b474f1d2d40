/** What a command line has to know before it does anything: small modules, so that help is instant. */
export { AgdError, oneLine, printable } from './graph/errors.js';
export { LOSSES } from './ops/criterion.js';
export { OPTIMIZERS } from './ops/optimizers/index.js';
export { type Optimizer, resolveOptions } from './ops/optimizers/optimizer.js';
export { parseSchedule, SCHEDULES } from './ops/schedules.js';
export { parseScale } from './runtime/data/scale.js';
export { DEVICES } from './runtime/devices.js';
