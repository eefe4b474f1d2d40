/** The layout of adapters in PEFT's files: that of PyTorch's layers, [outputs, inputs]. */
import { type FloatDType, isFloat } from '../../graph/dtype.js';
import { AgdError } from '../../graph/errors.js';
import { Tensor } from '../../graph/tensor.js';
import type { PeftAdapter } from '../options/adapters.js';
import { type AdaptedLayer, type AdapterKind, describeLayer } from './adapted-layers.js';

/** A matrix the other way round. */
export function transposed(tensor: Tensor, dtype: FloatDType = tensor.dtype as FloatDType): Tensor {
  const [rows, columns] = tensor.dims as [number, number];
  const values = tensor.floats();
  const result = new Float64Array(rows * columns);
  for (let i = 0; i < rows; i++)
    for (let j = 0; j < columns; j++) result[j * rows + i] = values[i * columns + j]!;
  return Tensor.ofNumbers(dtype, [columns, rows], result);
}

/** What a file holds of an adapter, by the kind of the layer: PEFT keeps a convolution's kernels as they are. */
export const toPeft = (kind: AdapterKind, tensor: Tensor): Tensor =>
  kind === 'conv' ? tensor : transposed(tensor);

/** Magnitudes as a file holds them: of a convolution along the axis of its channels. */
export const magnitudeToPeft = (kind: AdapterKind, { dtype, dims, bytes }: Tensor, kernel: number): Tensor =>
  new Tensor(dtype, kind === 'conv' ? [1, ...dims, ...Array(kernel).fill(1)] : dims, bytes);

/** The values of a file for a layer, as the graph takes them. Throws `bad-shape`. */
export function fromPeft(
  { kind, r, a, b, magnitude }: PeftAdapter,
  file: string,
  layer: AdaptedLayer,
): { a: Tensor; b: Tensor; magnitude?: Tensor } {
  const { inputs, outputs, kernel } = layer;
  const dtype = layer.dtype === 'float64' ? 'float64' : 'float32';
  const wanted =
    kind === 'conv'
      ? [
          [r, inputs, ...kernel],
          [outputs, r, ...kernel.map(() => 1)],
        ]
      : [
          [r, inputs],
          [outputs, r],
        ];
  const perOutput = [[1], [outputs], kernel.map(() => 1)].flat();
  const values = [
    ['lora_A', a, wanted[0]],
    ['lora_B', b, wanted[1]],
    ['lora_magnitude_vector', magnitude, kind === 'conv' ? perOutput : [outputs]],
  ] as const;
  for (const [name, tensor, dims] of values)
    if (tensor && (`${tensor.dims}` !== `${dims}` || !isFloat(tensor.dtype)))
      throw new AgdError(
        'bad-shape',
        `${file} is an adapter of another model: its ${name} for layer ${describeLayer(layer)} is ${tensor.dtype}[${tensor.dims}], not of shape [${dims}].`,
      );
  const cast = (t: Tensor) =>
    kind === 'conv' ? Tensor.ofNumbers(dtype, t.dims, t.floats()) : transposed(t, dtype);
  const norms = magnitude && { magnitude: Tensor.ofNumbers(dtype, [outputs], magnitude.floats()) };
  return { a: cast(a), b: cast(b), ...norms };
}
