/** The built-in digits, and those that were drawn. */
import { files } from 'agd-onnx/web';
import type { DataFacts } from '../protocol.js';
import { exists, type Session } from './storage.js';

export const SIDE = 28;
export const LENET = '/digits/lenet.onnx';
const TRAIN = '/digits/train.npz';
const TEST = '/digits/test.npz';
const DRAWN = '/digits/drawn.safetensors';

/** A drawing counts as so many of the thousands of built-in digits. */
const WEIGHT = 40;

export const DIGITS: DataFacts = {
  name: 'Handwritten digits',
  kind: 'arrays',
  samples: 9000,
  columns: [],
  arrays: [],
  labels: [],
  classes: 10,
  loss: 'cross-entropy',
  reason: '10 scores per sample, one for each class',
};

const fetched = async (name: string) => {
  // The worker is one folder below the page, built or not.
  const response = await fetch(new URL(`../${name}`, location.href));
  if (!response.ok)
    throw new Error(`${name} could not be loaded: ${response.status} ${response.statusText}.`);
  return new Uint8Array(await response.arrayBuffer());
};

const place = async (path: string, name: string) => {
  if (!(await exists(path))) await files.write(path, await fetched(name));
};

export const placeLenet = () => place(LENET, 'lenet.onnx');

export async function placeDigits({ taught }: Session): Promise<{ data: string[]; validation: string }> {
  await Promise.all([place(TRAIN, 'digits-train.npz'), place(TEST, 'digits-test.npz')]);
  if (!taught.length) return { data: [TRAIN], validation: TEST };
  const samples = taught.flatMap(sample => Array<(typeof taught)[0]>(WEIGHT).fill(sample));
  const count = samples.length;
  const x = Uint8Array.from(samples.flatMap(({ pixels }) => pixels));
  const y = Uint8Array.from(samples, ({ label }) => label);
  await files.write(DRAWN, safetensors({ x: [[count, SIDE, SIDE], x], y: [[count], y] }));
  return { data: [TRAIN, DRAWN], validation: TEST };
}

/** A .safetensors file of 8-bit arrays. */
export function safetensors(arrays: Record<string, [shape: number[], bytes: Uint8Array]>): Uint8Array {
  let at = 0;
  const entries = Object.entries(arrays).map(([name, [shape, bytes]]) => {
    const data_offsets = [at, at + bytes.length];
    at += bytes.length;
    return [name, { dtype: 'U8', shape, data_offsets }];
  });
  const json = JSON.stringify(Object.fromEntries(entries));
  const header = new TextEncoder().encode(json.padEnd(8 * Math.ceil(json.length / 8)));
  const file = new Uint8Array(8 + header.length + at);
  new DataView(file.buffer).setBigUint64(0, BigInt(header.length), true);
  file.set(header, 8);
  at = 8 + header.length;
  for (const [, bytes] of Object.values(arrays)) {
    file.set(bytes, at);
    at += bytes.length;
  }
  return file;
}
