/**
 * Adapters in the files of ONNX Runtime (.onnx_adapter): a FlatBuffer with the identifier TORT, whose parameters are fed to
 * the inputs of their names.
 */
import { stat } from 'node:fs/promises';
import { basename } from 'node:path';
import { characters } from '../../graph/bytes.js';
import { dtypeCode, dtypeOf, isFloat } from '../../graph/dtype.js';
import { AgdError } from '../../graph/errors.js';
import { writeFileAtomic } from '../../graph/files.js';
import type { Model } from '../../graph/ir.js';
import { Tensor } from '../../graph/tensor.js';
import { adapterNames } from '../../passes/adapters/adapter-names.js';
import type { LoadedAdapters } from '../../passes/options/adapters.js';
import { readBytes } from '../data/bytes.js';
import { encodeFlatbuffer, FlatTable } from '../data/flatbuffer.js';
import { readPeft, valuesOf } from './peft.js';

const IDENTIFIER = 'TORT';
const VERSION = 1;

/** The adapters in a folder of PEFT, or in an .onnx_adapter. Throws `bad-data` or `io`. */
export async function readAdapterFile(path: string): Promise<LoadedAdapters> {
  const isFile = (await stat(path).catch(() => undefined))?.isFile() ?? false;
  return isFile ? { name: path, adapters: [], values: await readOnnxAdapter(path) } : readPeft(path);
}

/** The values in an .onnx_adapter, by the names of inputs. Throws `bad-data` for another file. */
export async function readOnnxAdapter(path: string): Promise<Map<string, Tensor>> {
  const bytes = await readBytes(path);
  const identifier = characters(bytes.subarray(4, 8));
  if (identifier !== IDENTIFIER)
    throw new AgdError(
      'bad-data',
      `${path} is not an .onnx_adapter of ONNX Runtime; --adapter takes such a file, or a folder of PEFT.`,
    );
  try {
    const root = FlatTable.root(bytes);
    if (root.int32(0) !== VERSION)
      throw new AgdError(
        'bad-data',
        `${path} has version ${root.int32(0)} of .onnx_adapter, not ${VERSION}.`,
      );
    return new Map(root.tables(3).map(table => [table.string(0), parameter(table)]));
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    throw new AgdError('bad-data', `${path} is damaged: ${error.message}`, { cause: error });
  }
}

function parameter(table: FlatTable): Tensor {
  const tensor = new Tensor(
    dtypeOf(table.int32(2)),
    table.int64s(1),
    table.bytes(3)?.slice() ?? new Uint8Array(),
  );
  if (tensor.dims.some(d => d < 0) || tensor.byteLength !== table.bytes(3)?.length)
    throw new RangeError(`'${table.string(0)}' does not have as many numbers as its shape says.`);
  return tensor;
}

/** Writes the values of a model's adapters by the names of the inputs that they are fed to. */
export async function writeOnnxAdapter(model: Model, path: string): Promise<void> {
  const value = valuesOf(model);
  const tensors = [...adapterNames(model)].map(name => [name, value(name)] as const);
  const parameters = tensors.map(([name, tensor]) => {
    if (!isFloat(tensor.dtype)) throw new Error(`'${name}' of ${basename(path)} is ${tensor.dtype}.`);
    const type = { int32: dtypeCode(tensor.dtype) };
    return { table: [{ string: name }, { int64s: tensor.dims }, type, { bytes: tensor.bytes }] };
  });
  const versions = [{ int32: VERSION }, { int32: 1 }, { int32: 1 }];
  const root = { table: [...versions, { tables: parameters }] };
  await writeFileAtomic(path, [encodeFlatbuffer(root, IDENTIFIER)]);
}
