/** Writes new values for tensors of a model on disk, in the model file and its own data file. */
import type { FileHandle } from 'node:fs/promises';
import { readFile } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import { equalBytes } from './bytes.js';
import { AgdError } from './errors.js';
import {
  checkModelTarget,
  dataFileName,
  loadModel,
  naming,
  readModelBytes,
  readRange,
  replaceFiles,
  writeAll,
  writeTensor,
} from './files.js';
import { findStored, type Move, patchModel } from './patch.js';
import { type Place, showPlace, tensorsOf } from './places.js';
import { decodeModel } from './proto/codec.js';
import { locateTensors } from './proto/locate.js';
import type { ExternalData, Tensor } from './tensor.js';

/** Tensors in a file of several are aligned to pages, so that runtimes can map them into memory. */
const PAGE = 4096;

/**
 * Writes the model `source` to `target` with new values for the named tensors of its main graph; every other byte is
 * unchanged, except for the name of its data file: `target` gets its own. Throws as `writePatched` does.
 */
export async function patchModelFile(
  source: string,
  target: string,
  values: ReadonlyMap<string, Tensor>,
): Promise<void> {
  const bytes = await readModelBytes(source);
  const located = naming(source, () => locateTensors(bytes));
  const tensors = new Map<Place, Tensor>();
  for (const { place, tensor } of tensorsOf(await loadModel(source)))
    if (tensor.external) tensors.set(place, tensor);
  const placeOf = new Map([...located].map(([place, { name }]) => [name, place]));
  const changed = new Set<Place>();
  for (const [name, tensor] of values) {
    const place = placeOf.get(name);
    if (place === undefined)
      throw new AgdError('no-such-value', `${source}: The model file has no tensor '${name}'.`);
    naming(source, () => findStored(located, place, tensor));
    tensors.set(place, tensor);
    changed.add(place);
  }
  await writePatched(bytes, target, tensors, changed);
}

/**
 * Writes the model file with these bytes to `target`, with these tensors in their places. They must include all of its
 * external tensors, which go into a data file beside `target` that no other model uses. Both files are read back before
 * they are renamed. Throws `io`, as `patchModel` does, and `invalid-model` if a tensor of `changed` is missing from the
 * written files.
 */
export async function writePatched(
  bytes: Uint8Array,
  target: string,
  tensors: ReadonlyMap<Place, Tensor>,
  changed: ReadonlySet<Place>,
): Promise<void> {
  await checkModelTarget(target);
  const located = locateTensors(bytes);
  const outside = new Map(
    [...located].flatMap(([place, { external }]) => (external ? [[place, external]] : [])),
  );
  for (const place of outside.keys())
    if (!tensors.has(place))
      throw new AgdError('external-data', `Tensor ${showPlace(place)} lies in a file that is not there.`);
  for (const [place, tensor] of tensors) findStored(located, place, tensor);
  const location = outside.size ? await dataFileName(target) : '';
  const moves = layOut(outside, location);
  const inside = new Map([...tensors].filter(([place]) => !outside.has(place)));
  const chunks = patchModel(bytes, inside, moves, located);
  const data = {
    path: join(dirname(target), location),
    write: async (file: FileHandle) => {
      for (const [place, { offset }] of moves) {
        const at = offset ?? outside.get(place)!.offset;
        await writeTensor(file, tensors.get(place)!, at, (JSON.parse(place) as string[]).at(-1)!);
      }
    },
  };
  const model = { path: target, write: (file: FileHandle) => writeAll(file, chunks) };
  await replaceFiles([...(outside.size ? [data] : []), model], written =>
    checkWritten(written.get(target)!, written.get(data.path), tensors, changed),
  );
  // Tensors of the replaced file are from now on read from its successor.
  for (const [place, { offset = outside.get(place)!.offset }] of moves) {
    const tensor = tensors.get(place)!;
    const { external, byteLength: length } = tensor;
    if (external && resolve(external.folder, external.location) === resolve(data.path))
      tensor.external = { location, offset, length, folder: dirname(target) };
  }
}

/** The offsets of external tensors: unchanged if all come from one file and none overlap. */
function layOut(outside: ReadonlyMap<Place, ExternalData>, location: string): Map<Place, Move> {
  const sorted = [...outside].sort(([, a], [, b]) =>
    a.location < b.location ? -1 : a.location > b.location ? 1 : a.offset - b.offset,
  );
  const isOne = sorted.every(([, { location: own, offset }], i) => {
    const before = sorted[i - 1]?.[1];
    return !before || (own === before.location && offset >= before.offset + before.length);
  });
  let offset = 0;
  return new Map(
    sorted.map(([place, { length }]) => {
      if (isOne) return [place, { location }];
      const move = { location, offset, length };
      offset += Math.ceil(length / PAGE) * PAGE;
      return [place, move];
    }),
  );
}

/** Throws if the written files, read back, do not contain these tensors. */
async function checkWritten(
  model: string,
  data: string | undefined,
  tensors: ReadonlyMap<Place, Tensor>,
  changed: ReadonlySet<Place>,
): Promise<void> {
  const read = decodeModel(await readFile(model), dirname(model), (range, name) =>
    readRange(data!, range, name),
  );
  const found = new Set<Place>();
  for (const { place, tensor } of tensorsOf(read))
    if (changed.has(place) && equalBytes(tensor.bytes, tensors.get(place)!.bytes)) found.add(place);
  const lost = [...changed].find(place => !found.has(place));
  if (lost !== undefined)
    throw new AgdError(
      'invalid-model',
      `Of ${changed.size} trained tensors only ${found.size} were found in the file as written; ${showPlace(lost)} is not among them. Nothing was replaced.`,
    );
}
