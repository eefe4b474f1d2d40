/**
 * A model file that is saved repeatedly by a process that may be killed at any time. If its tensors need a data file,
 * each version has a new one, and renaming the model file, which refers to it, commits the new version.
 */
import { createReadStream } from 'node:fs';
import { type FileHandle, open, readdir, unlink } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { crc32 } from 'node:zlib';
import { AgdError } from './errors.js';
import {
  checkModelTarget,
  INLINE_LIMIT,
  ioError,
  isSmall,
  modelChunks,
  PAGE,
  replaceFiles,
  storedTensors,
  syncFolder,
  targetOf,
  usersOf,
  writeAll,
  writeFileAtomic,
  writeTensors,
  writing,
} from './files.js';
import { Model } from './ir.js';
import { inline } from './proto/codec.js';
import { randomHex } from './random.js';
import type { ExternalData, Tensor } from './tensor.js';

/** The metadata key with the name, length and CRC-32 of the data file. */
const KEY = 'agd.data';

type Stamp = { location: string; length: number; crc32: number };

/**
 * Writes the model with all of its tensors, including external ones: into the file `name` itself up to `limit` bytes,
 * and into `<name>.<12 hex digits>.data` if it is larger. A kill at any moment leaves either the previous or the new
 * version intact. The data files of earlier versions are removed. Throws as `saveModel` does.
 */
export async function saveState(model: Model, name: string, limit = INLINE_LIMIT): Promise<void> {
  // Links are resolved; the data file is beside the file that a link refers to.
  const { to: path } = await writing(name, () => targetOf(name));
  await checkModelTarget(path);
  const metadata = new Map(model.metadata);
  metadata.delete(KEY);
  const state = Object.assign(new Model(model.graph), model, { metadata });
  const tensors = storedTensors(model);
  const isLarge = [...tensors.keys()].reduce((n, t) => n + t.byteLength, 0) > limit;
  const placed = new Map<Tensor, ExternalData>();
  if (isLarge) {
    const location = `${basename(path)}.${randomHex()}.data`;
    const file = join(dirname(path), location);
    let offset = 0;
    for (const tensor of tensors.keys()) {
      if (isSmall(tensor)) continue;
      placed.set(tensor, { location, offset, length: tensor.byteLength, folder: dirname(path) });
      offset += Math.ceil(tensor.byteLength / PAGE) * PAGE;
    }
    await writing(file, () => writeData(file, data => writeTensors(data, placed, tensors)));
    metadata.set(KEY, JSON.stringify({ location, ...(await checksum(file)) } satisfies Stamp));
    const chunks = modelChunks(state, path, tensor => placed.get(tensor));
    await replaceFiles([{ path, write: data => writeAll(data, chunks) }]);
    // Tensors of a removed file are from now on read from its successor.
    for (const [tensor, place] of placed) if (tensor.external) tensor.external = place;
  } else await writeFileAtomic(path, modelChunks(state, path, inline));
  await removeOthers(path, metadata.get(KEY));
}

/** Writes a file that nothing refers to yet. If the process is killed, the next version removes it. */
async function writeData(path: string, write: (file: FileHandle) => Promise<void>): Promise<void> {
  const file = await open(path, 'wx');
  try {
    await write(file);
    await file.sync();
  } catch (error) {
    await unlink(path).catch(() => {});
    throw error;
  } finally {
    await file.close();
  }
  await syncFolder(dirname(path));
}

/**
 * Throws `external-data` if the data file of a model that `saveState` wrote to `path` is missing or has been changed.
 */
export async function checkState({ metadata }: Model, path: string): Promise<void> {
  const text = metadata.get(KEY);
  if (text === undefined) return;
  const stamp = readStamp(text);
  if (!stamp) throw new AgdError('external-data', `The metadata entry '${KEY}' of ${path} is damaged.`);
  const file = join(dirname(path), basename(stamp.location));
  const found = await checksum(file);
  if (found.length !== stamp.length || found.crc32 !== stamp.crc32)
    throw new AgdError(
      'external-data',
      `The data file ${file} is damaged: it is not the one that was saved with ${path}. Start from another state.`,
    );
}

function readStamp(text: string): Stamp | undefined {
  try {
    const stamp = JSON.parse(text);
    return typeof stamp.location === 'string' ? stamp : undefined;
  } catch {
    return undefined;
  }
}

async function checksum(path: string): Promise<Omit<Stamp, 'location'>> {
  let [length, sum] = [0, 0];
  try {
    for await (const block of createReadStream(path, { highWaterMark: 2 ** 20 })) {
      length += block.length;
      sum = crc32(block, sum);
    }
  } catch (error) {
    throw ioError(`Cannot read '${path}'`, error);
  }
  return { length, crc32: sum };
}

/**
 * Removes the data files of other versions of `path`, including incomplete ones, except those that a copy of such a
 * version refers to.
 */
async function removeOthers(path: string, stamp: string | undefined): Promise<void> {
  const own = stamp && (JSON.parse(stamp) as Stamp).location;
  const prefix = `${basename(path)}.`;
  const folder = dirname(path);
  for (const name of await readdir(folder)) {
    const isOther = name !== own && name.startsWith(prefix);
    if (!isOther || !/^[0-9a-f]{12}\.data$/.test(name.slice(prefix.length))) continue;
    if (!(await usersOf(folder, name)).length) await unlink(join(folder, name)).catch(() => {});
  }
}
