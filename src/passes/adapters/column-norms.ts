/** Norms of a layer's weight for each of its outputs, of which DoRA's magnitudes begin. */
import { isFloat } from '../../graph/dtype.js';
import { AgdError } from '../../graph/errors.js';
import type { Node, Value } from '../../graph/ir.js';
import type { Tensor } from '../../graph/tensor.js';
import { storedAt } from '../select/find-head.js';
import { type AdaptedLayer, describeLayer } from './adapted-layers.js';

/**
 * The sum of squares of the weights that lead to each output, in float64; of what quantized weights stand for. The `alpha`
 * of a Gemm is a factor of its weight. Throws `unsupported-op` for a form whose numbers cannot be read.
 */
export function columnSquares(layer: AdaptedLayer): Float64Array {
  const { node, outputs } = layer;
  const sums = new Float64Array(outputs);
  if (node.opType === 'MatMulNBits') addBlocks(layer, sums);
  else addMatrix(layer, sums);
  const alpha = node.attrs.get('alpha');
  const factor = alpha?.type === 'float' ? alpha.value ** 2 : 1;
  return sums.map(sum => sum * factor);
}

const refusal = (layer: AdaptedLayer, why: string) =>
  new AgdError('unsupported-op', `No DoRA adapter for layer ${describeLayer(layer)}: ${why}.`);

/** Throws `unsupported-op` for a layer that cannot have magnitudes. */
export function checkMagnitudes(layer: AdaptedLayer): void {
  if (layer.quantized === 'GatherBlockQuantized')
    throw refusal(layer, 'its table is quantized in blocks; use an adapter without dora');
  if (layer.isInner || layer.part)
    throw refusal(layer, 'it is part of an operator that computes more; use an adapter without dora');
  if (layer.node.graph!.owner) throw refusal(layer, 'in a branch; use one without dora');
  if (layer.quantized === 'MatMulBnb4')
    throw refusal(layer, 'its weights are 4-bit floats; use an adapter without dora');
  if (layer.quantized === 'MatMulInteger')
    throw refusal(layer, 'its activations are quantized; use an adapter without dora');
}

function constant(layer: AdaptedLayer, value: Value | null | undefined): Tensor | undefined {
  if (!value) return undefined;
  const stored = storedAt(layer.node.graph!, value);
  if (!stored) throw refusal(layer, `its '${value.name}' is not constant`);
  return stored.tensor;
}

/** Levels of `bits` bits, lowest first in each byte. */
const level = (bytes: Uint8Array, bits: number, at: number) =>
  (bytes[Math.floor((at * bits) / 8)]! >> ((at * bits) % 8)) & (2 ** bits - 1);

/** MatMulNBits: rows of blocks, each with its scale and zero point. */
function addBlocks(layer: AdaptedLayer, sums: Float64Array): void {
  const { node, inputs, outputs, weight } = layer;
  const int = (name: string, otherwise: number) => {
    const attr = node.attrs.get(name);
    return attr?.type === 'int' ? Number(attr.value) : otherwise;
  };
  if (node.inputs[4]) throw refusal(layer, "it has 'g_idx'");
  const [bits, size] = [int('bits', 4), int('block_size', 32)];
  const blocks = Math.ceil(inputs / size);
  const scales = constant(layer, node.inputs[2])!.floats();
  const zeros = constant(layer, node.inputs[3]);
  const zerosByRow = Math.ceil((blocks * bits) / 8);
  const floats = zeros && zeros.dtype !== 'uint8' ? zeros.floats() : undefined;
  const zeroAt = (row: number, block: number) =>
    !zeros
      ? 2 ** (bits - 1)
      : (floats?.[row * blocks + block] ??
        level(zeros.bytes.subarray(row * zerosByRow, (row + 1) * zerosByRow), bits, block));
  const { bytes } = weight.tensor;
  for (let o = 0; o < outputs; o++)
    for (let i = 0; i < inputs; i++) {
      const block = Math.floor(i / size);
      const number = level(bytes, bits, o * blocks * size + i) - zeroAt(o, block);
      sums[o]! += (number * scales[o * blocks + block]!) ** 2;
    }
}

/** A matrix or kernels, in floating point or behind DequantizeLinear. */
function addMatrix(layer: AdaptedLayer, sums: Float64Array): void {
  const { weight, outAxis } = layer;
  const { tensor, isTransposed, through } = weight;
  const axis = isTransposed ? 1 - outAxis : outAxis;
  const inner = tensor.dims.slice(axis + 1).reduce((n, d) => n * d, 1);
  const extent = tensor.dims[axis]!;
  const dequantize = through.find(n => n.opType === 'DequantizeLinear');
  if (!dequantize && !isFloat(tensor.dtype)) throw refusal(layer, `its weight is ${tensor.dtype}`);
  if (dequantize && through[0] !== dequantize)
    throw refusal(layer, 'its integers are transposed before DequantizeLinear');
  const numbers = dequantize ? dequantized(layer, dequantize) : tensor.floats();
  for (let i = 0; i < numbers.length; i++) sums[Math.floor(i / inner) % extent]! += numbers[i]! ** 2;
}

/** (x - zero) * scale, with scale and zero of the tensor, of one axis, or of blocks along it. */
function dequantized(layer: AdaptedLayer, node: Node): Float64Array {
  const { tensor } = layer.weight;
  const { dims } = tensor;
  const int = (name: string, otherwise: number) => {
    const attr = node.attrs.get(name);
    return attr?.type === 'int' ? Number(attr.value) : otherwise;
  };
  const scale = constant(layer, node.inputs[1])!;
  const zeros = constant(layer, node.inputs[2])?.numbers();
  const scales = scale.floats();
  const axis = (int('axis', 1) + dims.length) % dims.length;
  const size = int('block_size', 0);
  const inner = dims.slice(axis + 1).reduce((n, d) => n * d, 1);
  const extent = dims[axis]!;
  const blocks = size ? scale.dims[axis]! : extent;
  const at = (i: number) => {
    if (scale.size === 1) return 0;
    const along = Math.floor(i / inner) % extent;
    if (!size) return along;
    return (Math.floor(i / (inner * extent)) * blocks + Math.floor(along / size)) * inner + (i % inner);
  };
  return Float64Array.from(tensor.numbers(), (x, i) => (x - (zeros?.[at(i)] ?? 0)) * scales[at(i)]!);
}
