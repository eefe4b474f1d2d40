import { AgdError } from '../../graph/errors.js';
import type { Tensor } from '../../graph/tensor.js';
import { readBytes } from './bytes.js';
import { isNpy } from './npy.js';
import { decodeNpz } from './npz.js';
import { decodeSafetensors } from './safetensors.js';

/**
 * The arrays of a .npz, .npy or .safetensors file, told apart by their first bytes, then by extension.
 * Throws `io`, and `bad-data` where the file is none of them or damaged.
 */
export async function loadArrays(path: string): Promise<Map<string, Tensor>> {
  const bytes = await readBytes(path);
  const isZip = bytes[0] === 0x50 && bytes[1] === 0x4b;
  if (isZip || isNpy(bytes) || /\.np[yz]$/i.test(path)) return decodeNpz(bytes, path);
  if (bytes[8] === 0x7b || /\.safetensors$/i.test(path)) return decodeSafetensors(bytes, path).tensors;
  throw new AgdError('bad-data', `${path} is not a .npz, .npy or .safetensors file.`);
}
