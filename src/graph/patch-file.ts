/** New values for tensors of a model on disk, in the model file and in the files of its external data. */
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

/**
 * Writes the model `source` to `target` with new values for the named tensors; every other byte, of its
 * external data too, stays as it is. In one case the model is saved anew instead, with the same content:
 * where the target lies beside the source, whose external data must not change under it. Throws as
 * `patchModel` does, or `io`.
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
  const model = { path: target, write: file => file.writeFile(patched) } satisfies Replacement;

  const sameFolder = (await realFolder(source)) === (await realFolder(target));
  if (!sameFolder) return replaceFiles([...(await copies(located, outside, dirname(target))), model]);
  if (!outside.length) return replaceFiles([model]);
  if ((await realpath(source)) === (await realpath(target).catch(() => target)))
    return replaceFiles([...(await copies(located, outside, dirname(target), true)), model]);
  return saveModel(replaceTensors(await loadModel(source), values), target);
}

type Patch = { tensor: Tensor; place: ExternalData };

function realFolder(path: string): Promise<string> {
  return writing(path, () => realpath(dirname(path)));
}

/** The files of the model's external data (only those that change, where asked) as they shall be in `folder`. */
async function copies(
  located: ReadonlyMap<string, StoredTensor>,
  patches: readonly Patch[],
  folder: string,
  onlyChanged = false,
): Promise<Replacement[]> {
  const paths = new Map<string, string>();
  for (const [name, { external }] of located)
    if (external) paths.set(external.location, externalPath(external, name));
  const replacements: Replacement[] = [];
  for (const [location, from] of paths) {
    const here = patches.filter(({ place }) => place.location === location);
    if (onlyChanged && !here.length) continue;
    const path = join(folder, location);
    await writing(path, () => mkdir(dirname(path), { recursive: true }));
    replacements.push({ path, write: file => copyPatched(from, file, here) });
  }
  return replacements;
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
