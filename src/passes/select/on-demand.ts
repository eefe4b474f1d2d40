/** What few models need to have their parameters selected. */
export { nothingTrains } from './nothing-trains.js';
export { resolveGlobs } from './resolve-globs.js';
