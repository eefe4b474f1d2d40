/** Tiles of large updates, by the caches of the processor that a model is to run on. */
import { readFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import type { Model } from '../graph/ir.js';
import { resizeTiles } from '../passes/cpu/resize-tiles.js';
import type { SessionOptions } from './session.js';

/** Fits the tiles of a model that is to run on the CPU to its cores; changes the model's nodes. */
export function fitTiles(
  model: Model,
  { optimize = true, threads = availableParallelism() }: SessionOptions,
): void {
  const cache = optimize ? coreCache() : undefined;
  if (cache) resizeTiles(model, { threads, cache });
}

/** Bytes of the second-level cache of a core; undefined where the system does not tell. */
function coreCache(): number | undefined {
  const read = (name: string) =>
    readFileSync(`/sys/devices/system/cpu/cpu0/cache/index2/${name}`, 'utf8').trim();
  try {
    const kilobytes = /^(\d+)K$/.exec(read('size'))?.[1];
    return read('level') === '2' && kilobytes ? 1024 * Number(kilobytes) : undefined;
  } catch {
    return undefined;
  }
}
