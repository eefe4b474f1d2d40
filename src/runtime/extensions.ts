import { readFile } from 'node:fs/promises';
import { resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import { AgdError } from '../graph/errors.js';
import { ioError } from '../graph/files.js';

const LOADED = new Map<string, Promise<void>>();

/**
 * Loads modules of `defineGradient`, `defineOptimizer`, `defineLoss` and `defineMetric`: JavaScript or TypeScript files, each once. What
 * they import from agd-onnx is this instance of it, wherever they lie. Throws `io` for a file that cannot be read,
 * `bad-option` for one that fails or defines what exists already.
 */
export async function loadExtensions(paths: readonly string[] = []): Promise<void> {
  for (const path of paths) {
    const file = resolve(path);
    const loading = LOADED.get(file) ?? load(path, file);
    LOADED.set(file, loading);
    await loading;
  }
}

async function load(path: string, file: string): Promise<void> {
  const [{ createJiti }, extend, ir] = await Promise.all([
    import('jiti'),
    import('../extend.js'),
    import('../ir.js'),
  ]);
  try {
    const jiti = createJiti(import.meta.url, {
      fsCache: false,
      virtualModules: { 'agd-onnx/extend': extend, 'agd-onnx/ir': ir },
    });
    await jiti.import(pathToFileURL(file).href);
  } catch (error) {
    const { name, message } = error as Error;
    if (name === 'AgdError') {
      const known = error as AgdError;
      throw new AgdError(known.code, `${path}: ${known.message}`, { cause: error });
    }
    await readFile(file).catch(unread => {
      throw ioError(`Cannot read '${path}'`, unread);
    });
    throw new AgdError('bad-option', `${path} cannot be loaded: ${message.split('\n')[0]}.`, {
      cause: error,
    });
  }
}
