/** Parts of the samples: for validation, for k folds, and how samples weigh. */
import { AgdError } from '../../graph/errors.js';
import { permutation, random } from '../../graph/random.js';
import { choose } from './order.js';

/** Streams of the seed, apart from those of the epochs. */
const SPLIT_STREAM = 2 ** 50;
const FOLD_STREAM = 2 ** 50 + 2 ** 33;

/** Numbers of samples, ascending. */
export type Split = { train: Uint32Array; validation: Uint32Array };

/**
 * A random share of the samples for validation: with classes, that share of each (rounded, at least one sample of a class
 * with two or more). The same for the same seed. Throws `bad-option` where a part would be empty.
 */
export function splitRows(length: number, share: number, seed: number, classes?: Int32Array): Split {
  if (!(share > 0 && share < 1))
    throw new AgdError('bad-option', `--val-split takes a share between 0 and 1, as 0.2, not ${share}.`);
  const draw = random(seed, SPLIT_STREAM);
  const chosen = new Uint8Array(length);
  for (const rows of classes ? groups(classes) : [undefined]) {
    const size = rows?.length ?? length;
    const count = Math.min(size - 1, Math.max(size > 1 ? 1 : 0, Math.round(share * size)));
    for (const i of choose(size, count, draw)) chosen[rows ? rows[i]! : i] = 1;
  }
  const count = chosen.reduce((n, x) => n + x, 0);
  if (count === 0 || count === length)
    throw new AgdError(
      'bad-option',
      `--val-split ${share} of ${length} samples leaves none for ${count ? 'training' : 'validation'}.`,
    );
  return { train: positions(chosen, 0, length - count), validation: positions(chosen, 1, count) };
}

/**
 * The last share of samples in an order, as windows of a time series, for validation. `overlap` samples before them have
 * something in common with them, and are in neither part. Throws `bad-option` where a part would be empty.
 */
export function splitEnd(length: number, share: number, overlap = 0): Split {
  const count = Math.round(share * length);
  const first = length - count;
  const train = first - overlap;
  if (count < 1 || train < 1)
    throw new AgdError(
      'bad-option',
      `--val-split ${share} of ${length} windows leaves none for ${count ? 'training' : 'validation'}${count && overlap ? `, as ${overlap} windows overlap with those for validation` : ''}.`,
    );
  const range = (from: number, to: number) => Uint32Array.from({ length: to - from }, (_, i) => from + i);
  return { train: range(0, train), validation: range(first, length) };
}

/** One of several folds, from 0. */
export type Fold = { index: number; of: number };

/** All samples but those of a fold, and those of the fold. Throws as `foldRows` does. */
export function splitFold(length: number, { index, of }: Fold, seed: number, classes?: Int32Array): Split {
  const folds = foldRows(length, of, seed, classes);
  const chosen = new Uint8Array(length);
  for (const row of folds[index]!) chosen[row] = 1;
  return { train: positions(chosen, 0), validation: folds[index]! };
}

/** The samples of k folds of nearly the same size, each ascending: with classes, each class is spread over all of them. */
export function foldRows(length: number, k: number, seed: number, classes?: Int32Array): Uint32Array[] {
  if (!Number.isSafeInteger(k) || k < 2 || k > length)
    throw new AgdError(
      'bad-option',
      `${length} sample${length === 1 ? '' : 's'} cannot be divided into ${k} folds: choose 2 or more, and at most one per sample.`,
    );
  const draw = random(seed, FOLD_STREAM);
  const fold = new Uint32Array(length);
  let next = 0;
  for (const rows of classes ? groups(classes) : [undefined])
    for (const i of permutation(rows?.length ?? length, draw)) fold[rows ? rows[i]! : i] = next++ % k;
  return Array.from({ length: k }, (_, f) => positions(fold, f));
}

/** The weight of each sample that makes classes equally likely. */
export function balancedWeights(classes: Int32Array): Float64Array {
  const counts = new Map<number, number>();
  for (const c of classes) counts.set(c, (counts.get(c) ?? 0) + 1);
  return Float64Array.from(classes, c => 1 / counts.get(c)!);
}

/** Throws `bad-data` for weights that are negative, not finite, or all 0. */
export function checkWeights(weights: Float64Array, name: string): Float64Array {
  const row = weights.findIndex(w => !(w >= 0 && w < Infinity));
  if (row >= 0)
    throw new AgdError(
      'bad-data',
      `Row ${row + 1} of '${name}' has the weight ${weights[row]}: weights are 0 or more.`,
    );
  if (!weights.some(w => w > 0)) throw new AgdError('bad-data', `All weights in '${name}' are 0.`);
  return weights;
}

/** The members of each class, by the number of the class. */
function groups(classes: Int32Array): Uint32Array[] {
  const members = new Map<number, number[]>();
  for (const [row, c] of classes.entries()) {
    const list = members.get(c);
    if (list) list.push(row);
    else members.set(c, [row]);
  }
  return [...members].sort(([a], [b]) => a - b).map(([, rows]) => Uint32Array.from(rows));
}

function positions(of: Uint8Array | Uint32Array, value: number, count?: number): Uint32Array {
  const out = new Uint32Array(count ?? of.length);
  let at = 0;
  for (let i = 0; i < of.length; i++) if (of[i] === value) out[at++] = i;
  return out.subarray(0, at);
}
