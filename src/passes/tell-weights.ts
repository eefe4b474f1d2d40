/** Which constants of a model are weights: told from the operators that read them, and from what they hold. */

import type { Graph, Node, Value } from '../graph/ir.js';
import { record } from '../graph/record.js';
import type { Tensor } from '../graph/tensor.js';

type Candidate = readonly [Value, Tensor];
type Reader = { node: Node; input: number };

/**
 * Tells why a floating-point constant of `candidates` is no weight (undefined where it is one):
 *
 * 1. every operator that reads it takes it as a setting (running statistics, bounds of a clip, an exponent,
 *    a dropout ratio, resize scales ...);
 * 2. it has a single element that is broadcast over the other operand: an epsilon, a scale, a temperature;
 * 3. it looks like a mask: some element is infinite or of magnitude 10,000 and above, or there are zeros and one
 *    other number, which is 1 or -10 and below;
 * 4. it was filled in the forward pass, as zeros to start from: one repeated number, and every operator that reads it
 *    takes it where fresh weights, which are broadcast over the batch, do not go (an initial state, what is scattered
 *    into, an operand as large as the result);
 * 5. it fills the place of a scale of ones or a bias of zeros in a normalization that has none: the exporter made up
 *    its name, or it belongs to a normalization over groups, whose own scale comes after it;
 * 6. it holds sines and cosines, of positions, or frequencies of which nothing but sines and cosines is taken.
 */
export function notAWeight(
  graph: Graph,
  candidates: readonly Candidate[],
): (value: Value, tensor: Tensor) => string | undefined {
  const readers = readersOf(graph);
  const tables = candidates.filter(([v]) => (readers.get(v) ?? []).every(r => POSITIONAL.has(r.node.opType)));
  const positional = new Set(tables.map(([v]) => v));
  const partners = partnersAmong(tables.map(([, tensor]) => tensor));
  const isWave = (value: Value, tensor: Tensor) =>
    positional.has(value) && (isSinusoid(tensor) || partners(tensor).some(other => areWaves(tensor, other)));
  return (value, tensor) => {
    const own = readers.get(value) ?? [];
    if (own.every(r => SETTINGS[r.node.opType]?.includes(r.input)))
      return `a setting of ${own[0]!.node.opType}`;
    if (tensor.size === 1 && !own.some(r => isSingleChannel(r, value))) return 'a constant of the arithmetic';
    if (own.every(r => MASKING.has(r.node.opType)) && looksLikeMask(tensor)) return 'a mask';
    if (own.every(r => takesFilled(r, value, tensor)) && tensor.isUniform) {
      // The first factor of a product of weights may be a fresh one, of low rank.
      if (own.some(r => r.node.opType !== 'MatMul')) return 'filled in the forward pass';
    }
    if (own.every(r => isFiller(r, value, tensor, readers))) return `fills a place of ${own[0]!.node.opType}`;
    if (isWave(value, tensor) || areFrequencies(value, readers))
      return 'sines and cosines, or their frequencies';
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

function isSingleChannel({ node, input }: Reader, value: Value): boolean {
  if (PER_CHANNEL[node.opType]?.includes(input)) return true;
  if (node.opType !== 'Add' || value.shape?.length === 0) return false;
  return node.inputs[1 - input]?.shape?.at(-1) === 1;
}

const setOf = (operators: string) => new Set(operators.split(' '));
const ELEMENTWISE = setOf('Add Sub Mul Div Where Max Min');
const MASKING = setOf('Add Sub Mul Div Where Max Min Unsqueeze Slice Expand Cast');

function looksLikeMask(tensor: Tensor): boolean {
  let other: number | undefined;
  let [zeros, others] = [0, 0];
  for (const x of tensor.floats()) {
    if (!(Math.abs(x) < 1e4)) return true;
    if (x === 0) zeros++;
    else {
      other ??= x;
      if (x === other) others++;
    }
  }
  const isMasking = other === 1 || (other !== undefined && other <= -10);
  return isMasking && zeros > 0 && zeros + others === tensor.size;
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

function takesFilled({ node, input }: Reader, { shape }: Value, tensor: Tensor): boolean {
  if (STARTS[node.opType]?.includes(input)) return true;
  const { dims } = tensor;
  const result = node.outputs[0]?.shape;
  if (!ELEMENTWISE.has(node.opType) || !shape || !result) return false;
  if (dims.length > 1 && dims.length === result.length && dims[0]! > 1) return true;
  return node.opType === 'Mul' && `${dims}` === `${result}` && tensor.at(0) === 0;
}

/** Names that PyTorch's exporters give to constants that are no parameters or buffers; maybe with a number after. */
const MADE_UP = /^(val|ones|zeros|full|fill)(_\d+)*$|^onnx::|Constant(_\d+)?_output_0(_\d+)?$/;

function isFiller({ node, input }: Reader, { name }: Value, tensor: Tensor, readers: Readers): boolean {
  if (!/^(Batch|Instance|Layer|Group)Normalization$/.test(node.opType) || input < 1 || input > 2)
    return false;
  if (tensor.at(0) !== 2 - input || !tensor.isUniform) return false;
  return MADE_UP.test(name) || (node.opType === 'InstanceNormalization' && isOverGroups(node, readers));
}

/** GroupNormalization as exporters write it: the groups become channels, and channels again. */
function isOverGroups(node: Node, readers: Readers): boolean {
  const after = readers.get(node.outputs[0]!) ?? [];
  return after.length > 0 && after.every(r => r.node.opType === 'Reshape');
}

/** Operators through which a table of positions comes to where it is used. */
const POSITIONAL = setOf(
  'Add Sub Mul Gather GatherND Slice Unsqueeze Squeeze Reshape Transpose Expand Concat Cast RotaryEmbedding ' +
    'GroupQueryAttention',
);
const CLOSE = 1e-3;
const onCircle = (x: number, y: number) => Math.abs(x * x + y * y - 1) < CLOSE;

/** Rows of sines and cosines, in turn or one half after the other. */
function isSinusoid(tensor: Tensor): boolean {
  const width = tensor.dims.at(-1) ?? 0;
  if (tensor.dims.length < 2 || width % 2 || tensor.size < 8) return false;
  const partners = [(c: number) => c ^ 1, (c: number) => (c + width / 2) % width].filter(partner =>
    onCircle(tensor.at(0), tensor.at(partner(0))),
  );
  if (!partners.length) return false;
  const x = tensor.floats();
  return partners.some(partner => x.every((v, i) => onCircle(v, x[i - (i % width) + partner(i % width)]!)));
}

/**
 * Finds the tensors of equal extents whose last element may be the cosine of what a tensor's is the sine of: to compare
 * all elements of all pairs would take quadratic time.
 */
function partnersAmong(tensors: readonly Tensor[]): (tensor: Tensor) => Tensor[] {
  const last = (tensor: Tensor) => tensor.at(tensor.size - 1);
  const key = ({ dims }: Tensor, square: number) => `${dims}:${square}`;
  const bySquare = new Map<string, Tensor[]>();
  for (const tensor of tensors) {
    if (tensor.size < 4 || tensor.isUniform) continue;
    const at = key(tensor, Math.round(last(tensor) ** 2 / CLOSE));
    const same = bySquare.get(at);
    if (same) same.push(tensor);
    else bySquare.set(at, [tensor]);
  }
  return tensor => {
    if (tensor.size < 4) return [];
    const square = Math.round((1 - last(tensor) ** 2) / CLOSE);
    return [-1, 0, 1].flatMap(near => bySquare.get(key(tensor, square + near)) ?? []);
  };
}

/** Whether one tensor holds the sines of what the other holds the cosines of; ones and zeros are fresh weights. */
function areWaves(a: Tensor, b: Tensor): boolean {
  if (a === b || a.isUniform) return false;
  const [x, y] = [a.floats(), b.floats()];
  return x.every((v, i) => onCircle(v, y[i]!));
}

const LINEAR = setOf(
  'Mul Div MatMul Einsum Gather Slice Unsqueeze Squeeze Reshape Transpose Expand Concat Cast',
);

/** Whether all that becomes of a value is a sine or a cosine, and both do. */
function areFrequencies(value: Value, readers: Readers): boolean {
  const found = new Set<string>();
  const seen = new Set<Value>();
  const visit = (v: Value): boolean => {
    if (seen.has(v)) return true;
    seen.add(v);
    const next = readers.get(v) ?? [];
    return next.length > 0 && next.every(({ node }) => follow(node));
  };
  const follow = (node: Node): boolean => {
    if (node.opType !== 'Sin' && node.opType !== 'Cos')
      return LINEAR.has(node.opType) && node.outputs.every(o => !o || visit(o));
    found.add(node.opType);
    return true;
  };
  return visit(value) && found.size === 2;
}

type Readers = ReadonlyMap<Value, Reader[]>;

/** The nodes that read a value, those in subgraphs included, and at which input. */
export function readersOf(graph: Graph): Map<Value, Reader[]> {
  const readers = new Map<Value, Reader[]>();
  const visit = (nodes: readonly Node[]) => {
    for (const node of nodes) {
      node.inputs.forEach((value, input) => {
        if (!value) return;
        const known = readers.get(value);
        if (known) known.push({ node, input });
        else readers.set(value, [{ node, input }]);
      });
      for (const sub of node.subgraphs()) visit(sub.nodes);
    }
  };
  visit(graph.nodes);
  return readers;
}
