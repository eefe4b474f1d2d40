import { fileURLToPath } from 'node:url';

/** A file of the package vega-datasets: real data of many formats. */
export const vega = (name: string): string =>
  fileURLToPath(new URL(`../../../node_modules/vega-datasets/data/${name}`, import.meta.url));
