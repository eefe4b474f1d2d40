/** Which constants of a model are weights: told from the operators that read them, and from what they hold. */

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
 * Tells why a floating-point constant of `candidates` is no weight (undefined where it is one). What counts is where a
 * constant comes to by way of operators that only move elements (Expand, Slice, Transpose ...):
 *
 * 1. every operator that reads it takes it as a setting (running statistics, bounds of a clip, an exponent,
 *    a dropout ratio, resize scales ...), or multiplies it by zero;
 * 2. it has a single element that is broadcast over the other operand: an epsilon, a scale, a temperature;
 * 3. it looks like a mask: some element is infinite or of magnitude 10,000 and above, or there are zeros and one
 *    other number, which is 1, for a factor, or -10 and below, or a factor is triangular;
 * 4. it was filled in the forward pass, as zeros to start from: one repeated number, and every operator that reads it
 *    takes it where fresh weights, which are broadcast over the batch, do not go (an initial state, what is scattered
 *    into, padding, an operand as large as the result);
 * 5. it fills the place of a scale of ones or a bias of zeros in a normalization that has none: the exporter made up
 *    its name, or it belongs to a normalization over groups, whose own scale comes after it;
 * 6. it holds sines and cosines, of positions or of a basis, or frequencies of which nothing but sines and cosines is
 *    taken;
 * 7. it holds coordinates, or what belongs to them: evenly spaced numbers, their powers, strides;
 * 8. it is subtracted from an input of the model that is then divided, or it is that divisor;
 * 9. it belongs to a batch normalization that was frozen: its running statistics, or its scale, are arithmetic.
 *
 * Of what `origins` knows as a module's state, 2 and 4 do not hold, nor do exponents count as settings: numbers of the
 * program have other names in that file.
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
      // The first factor of a product of weights may be a fresh one, of low rank.
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

/** Inputs that set an operator up rather than take part in learning. */
const SETTINGS = record<readonly number[]>({
  BatchNormalization: [3, 4],
  Clip: [1, 2],
  Dropout: [1],
  OneHot: [2],
  Pad: [2],
  Pow: [1],
  QuantizeLinear: [1, 2],
  DequantizeLinear: [1, 2],
  Range: [0, 1, 2],
  Resize: [1, 2],
  STFT: [2],
});

/** Floating-point inputs that no gradient goes through, even where they are computed. */
export const NEVER_DIFFERENTIATED = record<readonly number[]>({ Resize: [2], Upsample: [1] });

/** Inputs that hold one number per channel: a single element there is a weight of a single channel. */
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

/** The addend of a matrix product whose factor is zero. */
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

/** Inputs that start something: states, and what is scattered into. */
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

/** Names that PyTorch's exporters give to constants that are no parameters or buffers; maybe with a number after. */
const MADE_UP = /^(val|ones|zeros|full|fill)(_\d+)*$|^onnx::|Constant(_\d+)?_output_0(_\d+)?$/;

function isFiller({ node, index }: Use, { name }: Value, tensor: Tensor): boolean {
  if (!/^(Batch|Instance|Layer|Group)Normalization$/.test(node.opType) || index < 1 || index > 2)
    return false;
  if (tensor.at(0) !== 2 - index || !tensor.isUniform) return false;
  return MADE_UP.test(name) || (node.opType === 'InstanceNormalization' && isOverGroups(node));
}

/** GroupNormalization as exporters write it: the groups become channels, and channels again. */
function isOverGroups(node: Node): boolean {
  const after = node.outputs[0]!.readers;
  return after.length > 0 && after.every(reader => reader.opType === 'Reshape');
}

/** Operators through which a table of positions comes to where it is used, or that read a basis. */
const POSITIONAL = setOf(
  'Add Sub Mul Gather GatherND Slice Unsqueeze Squeeze Reshape Transpose Expand Concat Cast RotaryEmbedding ' +
    'GroupQueryAttention MatMul Gemm Conv Einsum',
);

const PRODUCTS = setOf('MatMul Gemm Conv');

/** Evenly spaced numbers where points are made of them, bases of polynomials, strides that scale points. */
function areCoordinates(uses: readonly ValueUse[], tensor: Tensor): boolean {
  if (uses.every(r => PRODUCTS.has(r.node.opType))) return isCount(tensor) || isPowerBasis(tensor);
  if (!uses.every(r => ELEMENTWISE.has(r.node.opType) || r.node.opType === 'Concat')) return false;
  const isFactor = uses.every(r => r.node.opType === 'Mul' || r.node.opType === 'Div');
  if (isFactor && (areStrides(tensor) || arePixels(tensor))) return true;
  if (uses.every(r => r.node.opType === 'Div' && r.index === 1) && isSpacing(tensor)) return true;
  return isGrid(tensor) && !uses.every(isBias) && !(isFactor && isRamp(tensor));
}

/** An addend of one number per channel to a product. */
function isBias({ node, index, value }: ValueUse): boolean {
  const before = node.inputs[1 - index]?.producer?.opType;
  return node.opType === 'Add' && value.shape?.length === 1 && PRODUCTS.has(before ?? '');
}

/** 0, 1/n, 2/n ... of n numbers: how much of each channel some recurrent networks mix at first. */
const isRamp = (tensor: Tensor) => tensor.at(0) === 0 && Math.abs(tensor.at(1) * tensor.size - 1) < 1e-4;

const LINEAR = setOf(
  'Mul Div MatMul Einsum Gather Slice Unsqueeze Squeeze Reshape Transpose Expand Concat Cast',
);

/** Whether all that becomes of a value is a sine or a cosine, and both do. */
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
