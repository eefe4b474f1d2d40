/** The one way from files of data to what a model is fed. */
import { crc32 } from 'node:zlib';
import type { Tensor } from '../../graph/tensor.js';
import { type BindOptions, bindData, type InputSpec } from './bind.js';
import type { Dataset } from './dataset.js';
import { loadArrays } from './load.js';

export type DataBinding = Omit<BindOptions, 'source'>;

/** Files of data, before it is known what they feed. */
export interface Data {
  /** For messages. */
  readonly name: string;
  /** What they feed these inputs. Throws as `bindData` does. */
  bind(inputs: readonly InputSpec[], options?: DataBinding): Promise<Dataset>;
  /** The same from the first samples alone where not all are in memory: for shapes and trials. */
  preview(inputs: readonly InputSpec[], options?: DataBinding): Promise<Dataset>;
  /** CRC-32 of what a run depends on: other data have another one. */
  fingerprint(): Promise<number>;
  close(): Promise<void>;
}

/** Opens the files at `paths`. Throws `io`, `bad-data`. */
export async function openData(paths: string | readonly string[]): Promise<Data> {
  const [path] = [paths].flat() as [string];
  return dataOf(await loadArrays(path), path);
}

/** Arrays as data. */
export function dataOf(arrays: ReadonlyMap<string, Tensor>, name: string): Data {
  const bind = async (inputs: readonly InputSpec[], options: DataBinding = {}) =>
    bindData(arrays, inputs, { ...options, source: name });
  return { name, bind, preview: bind, fingerprint: async () => checksum(arrays), close: async () => {} };
}

function checksum(arrays: ReadonlyMap<string, Tensor>): number {
  let sum = 0;
  for (const [name, tensor] of [...arrays].sort(([a], [b]) => (a < b ? -1 : 1)))
    sum = crc32(tensor.strings ? '' : tensor.bytes, crc32(`${name} ${tensor.dtype} ${tensor.dims}`, sum));
  return sum;
}
