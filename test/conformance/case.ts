import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { loadModel } from '../../src/graph/files.js';
import type { Model } from '../../src/graph/ir.js';
import type { Tensor } from '../../src/graph/tensor.js';
import { readSafetensors } from '../../src/runtime/data/safetensors.js';

/** What a case folder says of itself; see the README beside the cases. */
export type CaseInfo = {
  kind: 'vjp' | 'training';
  /** The operator that the case is about. */
  op?: string;
  loss: { kind: string; output: string; target?: string };
  agd: Record<string, unknown>;
  steps: number;
  parameters: string[];
  batchNorm: 'train' | 'eval';
};

export type Case = {
  name: string;
  info: CaseInfo;
  model: Model;
  bytes: Uint8Array;
  tensors: Map<string, Tensor>;
};

/** One comparison within a case: the error as a share of what is allowed. */
export type Check = { what: string; error: number };

/** What a backward pass is: the inputs that get a gradient, and the operators that it adds. */
export type Backward = { gradients: string[]; emits: string[] };

export async function loadCase(folder: string, name: string): Promise<Case> {
  const path = join(folder, 'model.onnx');
  const tensors = (await readSafetensors(join(folder, 'case.safetensors'))).tensors;
  const info = JSON.parse(await readFile(join(folder, 'case.json'), 'utf8'));
  return { name, info, tensors, bytes: await readFile(path), model: await loadModel(path) };
}

/** The tensors whose name begins with `prefix`, by the rest of it. */
export function section(tensors: ReadonlyMap<string, Tensor>, prefix: string): Map<string, Tensor> {
  return new Map(
    [...tensors].filter(([n]) => n.startsWith(prefix)).map(([n, t]) => [n.slice(prefix.length), t]),
  );
}

/** A reference tensor of the case, with the flat positions it holds where it does not hold all. */
export function reference(
  tensors: ReadonlyMap<string, Tensor>,
  name: string,
): { want: number[]; at?: number[] } {
  return { want: tensors.get(name)!.numbers(), at: tensors.get(`index:${name}`)?.numbers() };
}

/** Largest difference between a result and its reference. A missing number counts as infinitely wrong. */
export function largestDifference(
  got: readonly number[],
  { want, at }: ReturnType<typeof reference>,
): number {
  if (!at && got.length !== want.length) return Number.POSITIVE_INFINITY;
  let worst = 0;
  want.forEach((w, i) => {
    const difference = Math.abs((got[at ? at[i]! : i] ?? Number.NaN) - w);
    worst = difference <= worst ? worst : Number.isNaN(difference) ? Number.POSITIVE_INFINITY : difference;
  });
  return worst;
}
