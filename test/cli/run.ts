/** Runs the built command line in a folder of its own. */
import { spawn, spawnSync } from 'node:child_process';
import { mkdtempSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect } from 'vitest';
import { saveModel } from '../../src/graph/files.js';
import type { Model } from '../../src/graph/ir.js';
import type { Tensor } from '../../src/graph/tensor.js';
import { writeNpz } from '../../src/runtime/data/npz.js';
import { mlp, mlpData } from '../sample.js';

const CLI = join(import.meta.dirname, '../../bin/agd-onnx.js');

export type Outcome = { code: number | null; out: string; err: string };

export function agdOnnx(folder: string, ...args: string[]): Outcome {
  const { status, stdout, stderr } = spawnSync(process.execPath, [CLI, ...args], {
    cwd: folder,
    encoding: 'utf8',
    maxBuffer: 2 ** 28,
  });
  return { code: status, out: stdout, err: stderr };
}

/** Commands in a folder: those that are to succeed, in silence, give what they print; those that are to fail their one line. */
export function commandsIn(folder: string) {
  const run = (...args: string[]) => {
    const { code, out, err } = agdOnnx(folder, ...args);
    expect({ code, err }).toEqual({ code: 0, err: '' });
    return out;
  };
  const fail = (...args: string[]) => {
    const { code, err } = agdOnnx(folder, ...args);
    expect(code).toBe(1);
    return err.trim();
  };
  return { run, fail };
}

/** The same, to be watched and stopped while it runs. */
export function start(folder: string, ...args: string[]) {
  return spawn(process.execPath, [CLI, ...args], { cwd: folder, stdio: ['ignore', 'pipe', 'pipe'] });
}

/** A new folder with model.onnx, train.npz and test.npz. */
export async function workplace(model: Model = mlp()): Promise<string> {
  const folder = mkdtempSync(join(tmpdir(), 'agd-onnx-test-'));
  await saveModel(model, join(folder, 'model.onnx'));
  await writeNpz(join(folder, 'train.npz'), mlpData(256, 1));
  await writeNpz(join(folder, 'test.npz'), mlpData(64, 2));
  return folder;
}

/** The training data with one array exchanged, or left out. */
export async function writeData(
  folder: string,
  name: string,
  changes: Record<string, Tensor | undefined>,
): Promise<void> {
  const arrays = new Map([...mlpData(64, 1), ...Object.entries(changes)]);
  for (const [key, value] of Object.entries(changes)) if (!value) arrays.delete(key);
  await writeNpz(join(folder, name), arrays as Map<string, Tensor>);
}
