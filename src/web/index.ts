/**
 * agd-onnx for browsers and their workers: the library as it is in Node, on the runtime that the page brings
 * (`setRuntime`), with files in memory (`files`).
 */
export * from '../index.js';
export { files } from './files.js';
export type { Directory } from './mounts.js';
export { type Runtime, setRuntime } from './runtime.js';
