/** New values for tensors of a model on disk, in the model file and in the files of its external data. */
import { existsSync } from 'node:fs';
import { type FileHandle, mkdir, open, realpath } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import {
  copyRange,
  externalPath,
  loadModel,
  naming,
  type Replacement,
  readModelBytes,
  replaceFiles,
  saveModel,
  writeBytes,
  writing,
} from './files.js';
import { allGraphs, type Model } from './ir.js';
import { findStored, patchModel } from './patch.js';
import { inherit } from './proto.js';
import { locateTensors, type StoredTensor } from './proto-locate.js';
import type { ExternalData, Tensor } from './tensor.js';

type Patch = { tensor: Tensor; place: ExternalData };

/**
 * Writes the model `source` to `target` with new values for the named tensors; every other byte, of its
 * external data too, stays as it is. Only where a data file in the target's folder is in the way, one that
 * other models use (the source itself, when it lies there), the model is saved anew instead, with the same
 * content. Throws as `patchModel` does, or `io`.
 */
export async function patchModelFile(
  source: string,
  target: string,
  values: ReadonlyMap<string, Tensor>,
): Promise<void> {
  const bytes = await readModelBytes(source);
  const located = naming(source, () => locateTensors(bytes, dirname(source)));
  const inside = new Map(values);
  const outside: Patch[] = [];
  for (const [name, tensor] of values) {
    const { external } = naming(source, () => findStored(located, name, tensor));
    if (external && inside.delete(name)) outside.push({ tensor, place: external });
  }
  const patched = naming(source, () => patchModel(bytes, inside));

  const isHere = (await realFolder(source)) === (await realFolder(target));
  const files = isHere ? new Set(outside.map(({ place }) => place.location)) : dataFiles(located);
  if (await areInTheWay(files, source, target, isHere))
    return saveModel(replaceTensors(await loadModel(source), values), target);
  const copies = await Promise.all([...files].map(location => copyOf(location, source, target, outside)));
  return replaceFiles([...copies, { path: target, write: file => file.writeFile(patched) }]);
}

function realFolder(path: string): Promise<string> {
  return writing(path, () => realpath(dirname(path)));
}

function dataFiles(located: ReadonlyMap<string, StoredTensor>): Set<string> {
  return new Set([...located.values()].flatMap(({ external }) => external?.location ?? []));
}

/** Whether the target's folder has some of these data files, and they are not the target's own. */
async function areInTheWay(
  files: ReadonlySet<string>,
  source: string,
  target: string,
  isHere: boolean,
): Promise<boolean> {
  const present = [...files].filter(location => existsSync(join(dirname(target), location)));
  if (!present.length) return false;
  if (isHere) return (await realpath(source)) !== (await realpath(target).catch(() => target));
  const own = await readModelBytes(target)
    .then(locateTensors)
    .then(dataFiles)
    .catch(() => new Set());
  return present.some(location => !own.has(location));
}

async function copyOf(
  location: string,
  source: string,
  target: string,
  patches: readonly Patch[],
): Promise<Replacement> {
  const from = externalPath({ location, folder: dirname(source) }, location);
  const path = join(dirname(target), location);
  await writing(path, () => mkdir(dirname(path), { recursive: true }));
  const here = patches.filter(({ place }) => place.location === location);
  return { path, write: file => copyPatched(from, file, here) };
}

async function copyPatched(from: string, target: FileHandle, patches: readonly Patch[]): Promise<void> {
  const source = await open(from);
  try {
    const { size } = await source.stat();
    await target.truncate(size);
    await copyRange(source, 0, size, target, 0);
  } finally {
    await source.close();
  }
  for (const { tensor, place } of patches) await writeBytes(target, tensor.bytes, place.offset);
}

/** The model with these tensors in the places of its initializers and Constants of the same names. */
function replaceTensors(model: Model, values: ReadonlyMap<string, Tensor>): Model {
  for (const graph of allGraphs(model.graph)) {
    for (const [value, before] of graph.initializers) {
      const tensor = values.get(value.name);
      if (tensor) graph.initializers.set(value, inherit(tensor, before));
    }
    for (const node of graph.nodes) {
      const attr = node.opType === 'Constant' ? node.attrs.get('value') : undefined;
      const tensor = values.get(node.outputs[0]?.name ?? '');
      if (tensor && attr?.type === 'tensor')
        node.attrs.set('value', { ...attr, value: inherit(tensor, attr.value) });
    }
  }
  return model;
}
