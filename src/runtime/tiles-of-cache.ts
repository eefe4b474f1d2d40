import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Arrange } from '../passes/run/scan-steps.js';
import { retile, tileForCache } from '../passes/run/tile-for-cache.js';

/** Makes tiles of the size of this processor's last cache, where the system says what that is. */
export async function tilesOfCache(): Promise<Arrange | undefined> {
  const bytes = await lastLevelCache();
  return bytes ? (...graphs) => retile(...graphs, tileForCache(bytes)) : undefined;
}

const FOLDER = '/sys/devices/system/cpu/cpu0/cache';

/** Bytes of the last cache before the memory that a core has, or shares with others; undefined where the system does not say. */
export async function lastLevelCache(folder: string = FOLDER): Promise<number | undefined> {
  try {
    const caches = (await readdir(folder)).filter(name => /^index\d+$/.test(name));
    const read = async (cache: string, file: string) =>
      (await readFile(join(folder, cache, file), 'utf8')).trim();
    const sizes = await Promise.all(
      caches.map(
        async cache => [Number(await read(cache, 'level')), bytesOf(await read(cache, 'size'))] as const,
      ),
    );
    return sizes.sort(([a], [b]) => b - a)[0]?.[1];
  } catch {
    return undefined;
  }
}

/** Of a size such as `32768K`. */
function bytesOf(text: string): number | undefined {
  const [, number, unit] = /^(\d+)([KMG]?)$/.exec(text) ?? [];
  return number ? Number(number) * 1024 ** ' KMG'.indexOf(unit || ' ') : undefined;
}
