/** What the page has of this project: the library, and cases run there as they do in Node. */
export * from '../../src/web/index.js';
export { runCase } from './run-case.js';
