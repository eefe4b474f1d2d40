/** What `inject` and `inspect` load when they run: half of the library. */
export { saveModel } from '../graph/files.js';
export { openModel } from '../graph/open-model.js';
export { inject } from '../passes/inject.js';
export { inspect } from '../passes/inspect.js';
export { modelFile, openForInjection } from '../runtime/formats/open-for-injection.js';
export { bestCheckpoint } from '../runtime/train/checkpoints.js';
export { injectedEvent } from '../runtime/train/injected-event.js';
export { typesApart } from '../runtime/types-apart.js';
