import { basename } from 'node:path';
import { zipSync } from 'fflate';
import { AgdError } from '../../graph/errors.js';
import { writeFileAtomic } from '../../graph/files.js';
import type { Tensor } from '../../graph/tensor.js';
import { readBytes } from './bytes.js';
import { decodeNpy, encodeNpy, isNpy } from './npy.js';
import { zipMembers } from './zip.js';

/** The arrays of a .npz archive, or the one array of a .npy file under the file's name. Throws `bad-data`, `io`. */
export async function readNpz(path: string): Promise<Map<string, Tensor>> {
  return decodeNpz(await readBytes(path), path);
}

/** `readNpz` of bytes; `file` is for messages and names a lone array. */
export function decodeNpz(bytes: Uint8Array, file: string): Map<string, Tensor> {
  if (isNpy(bytes)) return new Map([[basename(file, '.npy'), decodeNpy(bytes, file)]]);
  const arrays = new Map<string, Tensor>();
  for (const [member, content] of zipMembers(bytes, file)) {
    if (!member.endsWith('.npy')) continue;
    const name = member.slice(0, -'.npy'.length);
    if (arrays.has(name)) throw new AgdError('bad-data', `${file}: the archive has array '${name}' twice.`);
    arrays.set(name, decodeNpy(content, `${file}: array '${name}'`));
  }
  if (arrays.size === 0) throw new AgdError('bad-data', `${file}: the archive has no .npy arrays.`);
  return arrays;
}

/** Writes arrays as a deflated .npz archive: the same arrays give the same bytes. Throws `unsupported-type`, `io`. */
export async function writeNpz(path: string, arrays: ReadonlyMap<string, Tensor>): Promise<void> {
  await writeFileAtomic(path, [encodeNpz(arrays)]);
}

/** `writeNpz` to bytes. */
export function encodeNpz(arrays: ReadonlyMap<string, Tensor>): Uint8Array {
  const members = [...arrays].map(([name, tensor]) => [`${name}.npy`, encodeNpy(tensor)] as const);
  // zip's first date, in local time as zip has it, so that no clock shows in the file.
  return zipSync(Object.fromEntries(members), { mtime: new Date(1980, 0, 1), level: 9 });
}
