/** Distinguishes weights from other constants, by the operators that read them and by their contents. */

import type { Graph, Node, Use, Value } from '../../graph/ir.js';
import { record } from '../../graph/record.js';
import type { Tensor } from '../../graph/tensor.js';
import { usesIn, type ValueUse } from '../common/readers.js';
import { frozenNormalization, inputNormalization } from './detect-normalization.js';
import type { Origins } from './read-origins.js';
import {
  arePixels,
  areStrides,
  areWaves,
  isCount,
  isGrid,
  isPowerBasis,
  isSinusoid,
  isSpacing,
  isTriangular,
  isWaveBasis,
  maskOf,
  partnersAmong,
} from './recognize-contents.js';

type Candidate = readonly [Value, Tensor];

/**
 * Returns why a floating-point constant of `candidates` is not a weight, or undefined if it is one. Operators that
 * only move elements (Expand, Slice, Transpose ...) are followed to the actual uses. A constant is not a weight if
 *
 * 1. every operator that reads it uses it as a setting (running statistics, bounds of a clip, an exponent, a dropout
 *   ratio, resize scales ...), or multiplies it by zero;
 * 2. it has a single element that is broadcast over the other operand: an epsilon, a scale, a temperature;
 * 3. it looks like a mask: some element is infinite or of magnitude 10,000 and above, or all elements are zero or one
 *   other number, which is 1 for a factor, or -10 and below, or a factor is triangular;
 * 4. it was filled in the forward pass, such as initial zeros: it is uniform, and every operator reads it where fresh
 *   weights, which are broadcast over the batch, do not occur (an initial state, the target of a scatter, padding, an
 *   operand as large as the result);
 * 5. it is the scale of ones or bias of zeros of a normalization without parameters: its name is made up by the
 *   exporter, or the normalization is over groups, with its own scale after it;
 * 6. it contains sines and cosines, of positions or of a basis, or frequencies that are only used in sines and
 *   cosines;
 * 7. it contains coordinates or related values: evenly spaced numbers, their powers, strides;
 * 8. it is subtracted from an input of the model that is then divided, or it is that divisor;
 * 9. it belongs to a frozen batch normalization, whose running statistics or scale are plain arithmetic.
 *
 * Rules 2 and 4, and exponents as settings, do not apply to the state of a module according to `origins`: in such
 * files, constants of the program have other names.
 */
export function notAWeight(
  graph: Graph,
  candidates: readonly Candidate[],
  origins: Origins = new Map(),
): (value: Value, tensor: Tensor) => string | undefined {
  const follow = usesIn(graph);
  const tables = candidates.filter(([v]) => v.readers.every(node => POSITIONAL.has(node.opType)));
  const positional = new Set(tables.map(([v]) => v));
  const partners = partnersAmong(tables.map(([, tensor]) => tensor));
  const isWave = (value: Value, tensor: Tensor) =>
    positional.has(value) &&
    (isSinusoid(tensor) || isWaveBasis(tensor) || partners(tensor).some(other => areWaves(tensor, other)));
  const normalizing = inputNormalization(graph);
  const frozen = frozenNormalization(graph);
  return (value, tensor) => {
    if (!value.readers.length) return 'no operator reads it';
    const uses = follow(value);
    if (!uses.length) return undefined;
    const isState = origins.get(value)?.kind === 'named';
    if (uses.every(r => SETTINGS[r.node.opType]?.includes(r.index) && !(isState && r.node.opType === 'Pow')))
      return `a setting of ${uses[0]!.node.opType}`;
    if (uses.every(isUnused)) return `multiplied by zero in ${uses[0]!.node.opType}`;
    if (tensor.size === 1 && !isState && !uses.some(isSingleChannel)) return 'a constant of the arithmetic';
    if (uses.every(r => ELEMENTWISE.has(r.node.opType)) && isMask(uses, tensor)) return 'a mask';
    if (!isState && uses.every(r => takesFilled(r, tensor)) && tensor.isUniform) {
      // The first factor of a low-rank product of weights may be a fresh weight.
      if (uses.some(r => r.node.opType !== 'MatMul' || r.value !== value))
        return 'filled in the forward pass';
    }
    if (uses.every(r => isFiller(r, value, tensor))) return `fills a place of ${uses[0]!.node.opType}`;
    if (isWave(value, tensor) || areFrequencies(value)) return 'sines and cosines, or their frequencies';
    if (areCoordinates(uses, tensor)) return 'coordinates';
    if (normalizing.has(value)) return 'normalizes an input';
    if (frozen.has(value)) return 'a frozen batch normalization';
    return undefined;
  };
}

/** Inputs that configure an operator and do not learn. */
const SETTINGS = record<readonly number[]>({
  BatchNormalization: [3, 4],
  Clip: [1, 2],
  Dropout: [1],
  OneHot: [2],
  Pad: [2],
  Pow: [1],
  QuantizeLinear: [1, 2],
  DequantizeLinear: [1, 2],
  GatherBlockQuantized: [2, 3],
  MatMulBnb4: [2],
  MatMulNBits: [2, 3],
  QMoE: [3, 6, 9],
  Range: [0, 1, 2],
  Resize: [1, 2],
  STFT: [2],
});

/** Floating-point inputs without a gradient, even if they are computed. */
export const NEVER_DIFFERENTIATED = record<readonly number[]>({ Resize: [2], Upsample: [1] });

/** Inputs with one number per channel: a single element there is a weight of a single channel. */
const PER_CHANNEL = record<readonly number[]>({
  Conv: [1, 2],
  ConvTranspose: [1, 2],
  Gemm: [0, 1, 2],
  MatMul: [0, 1],
  Gather: [0],
  BatchNormalization: [1, 2],
  InstanceNormalization: [1, 2],
  LayerNormalization: [1, 2],
  GroupNormalization: [1, 2],
  RMSNormalization: [1],
  PRelu: [1],
  LSTM: [1, 2, 3, 7],
  GRU: [1, 2, 3],
  RNN: [1, 2, 3],
});

function isSingleChannel({ node, index, value }: ValueUse): boolean {
  const isChannel = (v: Value | null | undefined) => v?.shape?.at(-1) === 1;
  if (node.opType === 'Gemm' && index === 2) return value.shape?.length !== 0 && isChannel(node.outputs[0]);
  if (PER_CHANNEL[node.opType]?.includes(index)) return true;
  if (node.opType !== 'Add' || value.shape?.length === 0) return false;
  return isChannel(node.inputs[1 - index]);
}

/** Whether it is the addend of a matrix product with the factor zero. */
function isUnused({ node, index }: Use): boolean {
  const beta = node.attrs.get('beta');
  return node.opType === 'Gemm' && index === 2 && beta?.type === 'float' && beta.value === 0;
}

const setOf = (operators: string) => new Set(operators.split(' '));
const ELEMENTWISE = setOf('Add Sub Mul Div Where Max Min');

function isMask(uses: readonly ValueUse[], tensor: Tensor): boolean {
  const mask = maskOf(tensor);
  if (mask === 'hides') return true;
  if (uses.some(r => r.node.opType === 'Add')) return false;
  if (mask === 'keeps') return true;
  return uses.every(r => r.node.opType === 'Mul') && isTriangular(tensor);
}

/** Inputs with initial values: states, and targets of a scatter. */
const STARTS = record<readonly number[]>({
  LSTM: [5, 6],
  GRU: [5],
  RNN: [5],
  Gemm: [0],
  MatMul: [0],
  ScatterElements: [0],
  ScatterND: [0],
});

function takesFilled({ node, index, value: { shape } }: ValueUse, tensor: Tensor): boolean {
  if (STARTS[node.opType]?.includes(index) || node.opType === 'Concat') return true;
  if (node.opType === 'Loop' && index > 1) return true;
  const result = node.outputs[0]?.shape;
  if (!ELEMENTWISE.has(node.opType) || !shape || !result) return false;
  if (shape.length > 1 && shape.length === result.length && shape[0] !== 1) return true;
  return node.opType === 'Mul' && `${shape}` === `${result}` && tensor.at(0) === 0;
}

/**
 * Names that PyTorch's exporters give to constants other than parameters and buffers, possibly with a number
 * appended.
 */
const MADE_UP = /^(val|ones|zeros|full|fill)(_\d+)*$|^onnx::|Constant(_\d+)?_output_0(_\d+)?$/;

function isFiller({ node, index }: Use, { name }: Value, tensor: Tensor): boolean {
  if (!/^(Batch|Instance|Layer|Group)Normalization$/.test(node.opType) || index < 1 || index > 2)
    return false;
  if (tensor.at(0) !== 2 - index || !tensor.isUniform) return false;
  return MADE_UP.test(name) || (node.opType === 'InstanceNormalization' && isOverGroups(node));
}

/** Whether it is part of an exported GroupNormalization, in which groups become channels, and channels again. */
function isOverGroups(node: Node): boolean {
  const after = node.outputs[0]!.readers;
  return after.length > 0 && after.every(reader => reader.opType === 'Reshape');
}

/** Operators between a table of positions and its use, or that read a basis. */
const POSITIONAL = setOf(
  'Add Sub Mul Gather GatherND Slice Unsqueeze Squeeze Reshape Transpose Expand Concat Cast RotaryEmbedding ' +
    'GroupQueryAttention SparseAttention MatMul Gemm Conv Einsum',
);

const PRODUCTS = setOf('MatMul Gemm Conv');

/** Evenly spaced numbers that make up points, bases of polynomials, strides that scale points. */
function areCoordinates(uses: readonly ValueUse[], tensor: Tensor): boolean {
  if (uses.every(r => PRODUCTS.has(r.node.opType))) return isCount(tensor) || isPowerBasis(tensor);
  if (!uses.every(r => ELEMENTWISE.has(r.node.opType) || r.node.opType === 'Concat')) return false;
  const isFactor = uses.every(r => r.node.opType === 'Mul' || r.node.opType === 'Div');
  if (isFactor && (areStrides(tensor) || arePixels(tensor))) return true;
  if (uses.every(r => r.node.opType === 'Div' && r.index === 1) && isSpacing(tensor)) return true;
  return isGrid(tensor) && !uses.every(isBias) && !(isFactor && isRamp(tensor));
}

/** Whether it adds one number per channel to a product. */
function isBias({ node, index, value }: ValueUse): boolean {
  const before = node.inputs[1 - index]?.producer?.opType;
  return node.opType === 'Add' && value.shape?.length === 1 && PRODUCTS.has(before ?? '');
}

/** 0, 1/n, 2/n ... for n numbers: initial mixing factors of the channels in some recurrent networks. */
const isRamp = (tensor: Tensor) => tensor.at(0) === 0 && Math.abs(tensor.at(1) * tensor.size - 1) < 1e-4;

const LINEAR = setOf(
  'Mul Div MatMul Einsum Gather Slice Unsqueeze Squeeze Reshape Transpose Expand Concat Cast',
);

/** Whether a value is only used in sines and cosines, and in both. */
function areFrequencies(value: Value): boolean {
  const found = new Set<string>();
  const seen = new Set<Value>();
  const visit = (v: Value): boolean => {
    if (seen.has(v)) return true;
    seen.add(v);
    return v.readers.length > 0 && v.readers.every(follow);
  };
  const follow = (node: Node): boolean => {
    if (node.opType !== 'Sin' && node.opType !== 'Cos')
      return LINEAR.has(node.opType) && node.outputs.every(o => !o || visit(o));
    found.add(node.opType);
    return true;
  };
  return visit(value) && found.size === 2;
}
