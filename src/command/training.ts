/** What `train` loads in the command's own process: a tenth of what the process that trains loads. */
export { checkWritable, writeFileAtomic } from '../graph/files.js';
export { dataOptionsOf } from '../runtime/data/data.js';
export { isArtifacts } from '../runtime/formats/is-artifacts.js';
export { foldOutput } from '../runtime/train/cross-validate.js';
export { trainInWorker } from '../runtime/train/worker.js';
