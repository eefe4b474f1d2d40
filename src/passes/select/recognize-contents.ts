/**
 * Recognizes contents that do not train: masks, positions, coordinates, bases. Each test reads only a few elements of
 * most tensors.
 */
import type { Tensor } from '../../graph/tensor.js';

const CLOSE = 1e-3;
const onCircle = (x: number, y: number) => Math.abs(x * x + y * y - 1) < CLOSE;
const isNear = (x: number, y: number, scale = Math.abs(y)) => Math.abs(x - y) <= 1e-4 * scale + 1e-9;

/** `hides`: infinite or large numbers, or zeros and one number of -10 and below; `keeps`: ones and zeros. */
export function maskOf(tensor: Tensor): 'hides' | 'keeps' | undefined {
  let other: number | undefined;
  let [zeros, others] = [0, 0];
  for (const x of tensor.floats()) {
    if (!(Math.abs(x) < 1e4)) return 'hides';
    if (x === 0) zeros++;
    else {
      other ??= x;
      if (x === other) others++;
    }
  }
  if (zeros === 0 || zeros + others < tensor.size || other === undefined) return undefined;
  return other === 1 ? 'keeps' : other <= -10 ? 'hides' : undefined;
}

/** Square matrices with zeros on exactly one side of the diagonal: a causal mask, or one with decay. */
export function isTriangular(tensor: Tensor): boolean {
  const [rows = 0, columns = 0] = tensor.dims.slice(-2);
  if (tensor.dims.length < 2 || rows !== columns || rows < 3 || tensor.size === 0) return false;
  const upper = tensor.at(1) === 0;
  if (tensor.at(0) === 0 || upper === (tensor.at(rows) === 0)) return false;
  const isZero = (r: number, c: number) => (upper ? c > r : c < r);
  return tensor
    .floats()
    .every((x: number, i: number) => (x === 0) === isZero(Math.floor(i / columns) % rows, i % columns));
}

/** Rows of sines and cosines, alternating or in halves. */
export function isSinusoid(tensor: Tensor): boolean {
  const width = tensor.dims.at(-1) ?? 0;
  if (tensor.dims.length < 2 || width % 2 || tensor.size < 8) return false;
  const partners = [(c: number) => c ^ 1, (c: number) => (c + width / 2) % width].filter(partner =>
    onCircle(tensor.at(0), tensor.at(partner(0))),
  );
  if (!partners.length) return false;
  const x = tensor.floats();
  return partners.some(partner => x.every((v, i) => onCircle(v, x[i - (i % width) + partner(i % width)]!)));
}

/** Rows, or columns, whose second half are the sines for the cosines in the first half, times a window. */
export function isWaveBasis(tensor: Tensor): boolean {
  return matricesOf(tensor).some(({ rows, columns, at }) => {
    const half = rows / 2;
    if (rows % 2 || half < 2 || columns < 4) return false;
    const power = (r: number, c: number) => at(r, c) ** 2 + at(r + half, c) ** 2;
    if (!isNear(power(0, 0), power(1, 0), 10 * (power(0, 0) + 1e-9))) return false;
    const sums = Array.from({ length: columns }, (_, c) => power(0, c));
    const top = Math.max(...sums);
    return top > 0 && everyCell(half, columns, (r, c) => Math.abs(power(r, c) - sums[c]!) < CLOSE * top);
  });
}

/** Rows, or columns, with the powers of evenly spaced numbers: ones, the numbers, their squares ... */
export function isPowerBasis(tensor: Tensor): boolean {
  return matricesOf(tensor).some(({ rows, columns, at }) => {
    if (rows < 2 || columns < 4 || at(0, 0) !== 1 || at(0, columns - 1) !== 1) return false;
    const base = Array.from({ length: columns }, (_, c) => at(1, c));
    return areSpaced(base) && everyCell(rows, columns, (r, c) => isNear(at(r, c), base[c]! ** r));
  });
}

type Matrix = { rows: number; columns: number; at: (r: number, c: number) => number };

/** A tensor with two axes longer than 1 as a matrix, and its transpose; elements are read on demand. */
function matricesOf(tensor: Tensor): Matrix[] {
  const dims = tensor.dims.filter(d => d > 1);
  if (dims.length !== 2) return [];
  const [rows, columns] = dims as [number, number];
  let asked = 0;
  let all: ArrayLike<number> | undefined;
  const element = (i: number) => {
    if (!all && ++asked > 16) all = tensor.floats();
    return all ? all[i]! : tensor.at(i);
  };
  return [
    { rows, columns, at: (r, c) => element(r * columns + c) },
    { rows: columns, columns: rows, at: (r, c) => element(c * columns + r) },
  ];
}

function everyCell(rows: number, columns: number, test: (r: number, c: number) => boolean): boolean {
  for (let r = 0; r < rows; r++) for (let c = 0; c < columns; c++) if (!test(r, c)) return false;
  return true;
}

/** Evenly spaced and not all equal. */
function areSpaced(x: readonly number[]): boolean {
  const step = (x.at(-1)! - x[0]!) / (x.length - 1);
  const scale = Math.max(Math.abs(x[0]!), Math.abs(x.at(-1)!));
  return Math.abs(step) > 1e-6 * scale && x.every((v, i) => isNear(v, x[0]! + i * step, scale));
}

/** 0, 1, 2 ... along one axis: the bins of a distribution whose mean is computed. */
export function isCount(tensor: Tensor): boolean {
  const { size, dims } = tensor;
  if (size < 4 || dims.filter(d => d > 1).length !== 1) return false;
  if (tensor.at(0) !== 0 || tensor.at(1) !== 1 || tensor.at(size - 1) !== size - 1) return false;
  return tensor.floats().every((x: number, i: number) => x === i);
}

/**
 * Coordinates: every row repeats evenly spaced numbers, each once or several times in a row, as the grids of
 * `arange`, `linspace` and `meshgrid` do. The x and y of points may be on the last axis.
 */
export function isGrid(tensor: Tensor): boolean {
  const dims = tensor.dims.filter(d => d > 1);
  const width = dims.at(-1) ?? 0;
  if (tensor.size < 4 || !mayBeSpaced(tensor, dims)) return false;
  const x = tensor.floats();
  const interleaved = dims.length > 1 && width < 4;
  const count = interleaved ? width : x.length / width;
  const length = x.length / count;
  let varies = false;
  const firsts: number[] = [];
  for (let row = 0; row < count; row++) {
    const line = Array.from({ length }, (_, i) => x[interleaved ? i * width + row : row * length + i]!);
    const kind = stepsOf(line);
    if (!kind) return false;
    if (kind === 'spaced') varies = true;
    firsts.push(line[0]!);
  }
  return (varies && (count < 4 || Boolean(stepsOf(firsts)))) || stepsOf(firsts) === 'spaced';
}

/** A quick test of a few elements: hardly any three weights are evenly spaced. */
function mayBeSpaced(tensor: Tensor, dims: readonly number[]): boolean {
  const step = dims.length > 1 && dims.at(-1)! < 4 ? dims.at(-1)! : 1;
  if (tensor.size < 4 * step) return tensor.size >= 4;
  const [a, b, c] = [0, 1, 2].map(i => tensor.at(i * step)) as [number, number, number];
  const scale = Math.max(Math.abs(a), Math.abs(b), Math.abs(c));
  const [first, second] = [b - a, c - b];
  const tolerance = 1e-4 * scale;
  return [first - second, first, second].some(d => Math.abs(d) <= tolerance);
}

/** `spaced`: three or more evenly spaced numbers in order, possibly repeated; `constant`: one number. */
function stepsOf(line: readonly number[]): 'spaced' | 'constant' | undefined {
  const scale = line.reduce((most, x) => Math.max(most, Math.abs(x)), 0);
  if (!Number.isFinite(scale)) return undefined;
  const tolerance = 1e-4 * scale;
  const steps = line.slice(1).map((x, i) => x - line[i]!);
  const moves = steps.filter(d => Math.abs(d) > tolerance);
  if (!moves.length) return 'constant';
  const step = moves.reduce((least, d) => Math.min(least, Math.abs(d)), Number.POSITIVE_INFINITY);
  const onLattice = moves.every(d => Math.abs(d / step - Math.round(d / step)) * step <= 4 * tolerance);
  const up = moves.filter(d => Math.abs(d - step) <= tolerance).length;
  const down = moves.filter(d => Math.abs(d + step) <= tolerance).length;
  const [forth, again] = [Math.max(up, down), moves.length - Math.max(up, down)];
  const values = new Set(line.map(x => Math.round((x - line[0]!) / step)));
  return onLattice && values.size > 2 && forth >= 2 * again ? 'spaced' : undefined;
}

/** A single power of two, from 4 on, or several in order: the strides of the levels of a pyramid. */
export function areStrides(tensor: Tensor): boolean {
  if (tensor.size < 2) return false;
  const isStride = (x: number) => x >= 2 && Number.isInteger(Math.log2(x));
  const [first, last] = [tensor.at(0), tensor.at(tensor.size - 1)];
  if (!isStride(first) || !isStride(last) || last < Math.max(first, 4)) return false;
  const x = tensor.floats();
  return x.every((v: number, i: number) => isStride(v) && (i === 0 || v >= x[i - 1]!));
}

/** Whole numbers from 2 on, some of them large: sizes in pixels. */
export function arePixels(tensor: Tensor): boolean {
  const isSize = (x: number) => x >= 2 && Number.isInteger(x);
  if (tensor.size < 4 || !isSize(tensor.at(0)) || !isSize(tensor.at(tensor.size - 1))) return false;
  const x = tensor.floats();
  return x.every(isSize) && x.some((v: number) => v >= 10);
}

/** One number, up to rounding: the distance between evenly spaced points. */
export function isSpacing(tensor: Tensor): boolean {
  const first = tensor.at(0);
  if (tensor.size < 4 || first === 0 || !isNear(tensor.at(tensor.size - 1), first)) return false;
  return tensor.floats().every((x: number) => isNear(x, first));
}

/**
 * Finds tensors of equal extents whose last element may be the cosine of the angle whose sine is the last element of
 * a given tensor: comparing all elements of all pairs would take quadratic time.
 */
export function partnersAmong(tensors: readonly Tensor[]): (tensor: Tensor) => Tensor[] {
  const last = (tensor: Tensor) => tensor.at(tensor.size - 1);
  const bySquare = new Map<string, Tensor[]>();
  for (const tensor of tensors) {
    if (tensor.size < 4 || tensor.isUniform) continue;
    const at = `${tensor.dims}:${Math.round(last(tensor) ** 2 / CLOSE)}`;
    const same = bySquare.get(at);
    if (same) same.push(tensor);
    else bySquare.set(at, [tensor]);
  }
  return tensor => {
    if (tensor.size < 4) return [];
    const square = Math.round((1 - last(tensor) ** 2) / CLOSE);
    const dims = `${tensor.dims}`;
    return [-1, 0, 1].flatMap(near => bySquare.get(`${dims}:${square + near}`) ?? []);
  };
}

/**
 * Whether one tensor contains the sines of the angles whose cosines the other contains; uniform tensors are fresh
 * weights.
 */
export function areWaves(a: Tensor, b: Tensor): boolean {
  if (a === b || !onCircle(a.at(0), b.at(0)) || a.isUniform) return false;
  const [x, y] = [a.floats(), b.floats()];
  return x.every((v, i) => onCircle(v, y[i]!));
}
