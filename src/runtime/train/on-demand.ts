/** What few runs need: one part of a page's scripts, which is loaded when the first of it is used. */
export { mixChunk } from '../data/images/mix.js';
export { mixingOf } from '../data/images/mixing.js';
export { resumeOptimizer } from '../formats/ort-state.js';
export { account, withNoise } from './account.js';
export { withBalance } from './balance.js';
export { calibrate } from './calibrate.js';
export { verifyPacking } from './verify-packing.js';
export { worstSamples } from './worst-samples.js';
