import type { Node, Value } from '../../graph/ir.js';
import type { Expr } from '../../ops/core/expr.js';
import { convAttrs, type Window } from '../../ops/core/window.js';
import { type Blocks, type InBlocks, isImage, kernelInBlocks } from './blocks.js';
import { type Transposed, transposedOf } from './untranspose-convolutions.js';

/**
 * A ConvTranspose of a stride in blocks: each of the pixels that a stride covers is an output channel of a convolution of dy,
 * with the elements of the kernel that reach it; then pixels change places, as many numbers at once as a block has.
 * ONNX Runtime's kernel adds up columns with a single thread.
 */
export function transposed(node: Node, block: number): InBlocks | undefined {
  const found = transposedOf(node);
  const [dx] = node.outputs;
  if (!found || !isImage(found.dy, block) || !isImage(dx, block)) return undefined;
  const phases = found.windows.map((v, i) => phasesOf(v, found.inner[i]!, found.outer[i]!));
  if (!phases.every(v => v !== undefined) || phases.every(v => v.stride === 1)) return undefined;
  const places = (found.kernels[1] / block) * found.inner[0]! * found.inner[1]!;
  if (!isFewer(found, phases) || places > MOST_PLACES) return undefined;
  return {
    isFixed: true,
    reads: [found.dy],
    image: dx,
    write: blocks => write(blocks, found, phases, dx, block),
  };
}

/**
 * Along an axis: how many pixels a stride covers, how many elements of dy the convolution reads for them, from which place on, and the
 * element of the kernel with which one of those meets one of the pixels.
 */
type Phases = {
  stride: number;
  taps: number;
  begin: number;
  end: number;
  count: number;
  element(pixel: number, tap: number): number;
};

function phasesOf(
  { kernel, stride, dilation, begin }: Window,
  inner: number,
  outer: number,
): Phases | undefined {
  if (inner % stride || dilation > 1) return undefined;
  // Pixel r of the place q is reached by element k from the place q + (r + begin - k) / stride of dy.
  const first = Math.ceil((begin! - kernel + 1) / stride);
  const last = Math.floor((stride - 1 + begin!) / stride);
  const count = inner / stride;
  const end = count - outer + last;
  if (first > 0 || end < 0) return undefined;
  return {
    stride,
    taps: last - first + 1,
    begin: -first,
    end,
    count,
    element: (pixel, tap) => pixel + begin! - stride * (first + tap),
  };
}

/** Whether the products that the convolution has more take less time than adding up columns does, by the rates measured of both. */
function isFewer({ kernels: [m, , ...kernel] }: Transposed, phases: readonly Phases[]): boolean {
  const more = phases.reduce((n, v, i) => (n * v.stride * v.taps) / kernel[i]!, 1) - 1;
  return m * more < MOST_MORE;
}
const MOST_MORE = 128;

/** The model has an index for each place. */
const MOST_PLACES = 2 ** 18;

function write(blocks: Blocks, found: Transposed, phases: readonly Phases[], dx: Value, block: number): void {
  const { g } = blocks;
  const [m, c, height, width] = found.kernels;
  const [down, across] = phases as [Phases, Phases];
  const elements: number[] = [];
  const none = height * width;
  for (let r = 0; r < down.stride; r++)
    for (let s = 0; s < across.stride; s++)
      for (let i = 0; i < down.taps; i++)
        for (let j = 0; j < across.taps; j++) {
          const [k, l] = [down.element(r, i), across.element(s, j)];
          elements.push(k >= 0 && k < height && l >= 0 && l < width ? k * width + l : none);
        }
  const pixels = down.stride * across.stride;
  const taps = down.taps * across.taps;
  const kernels = g
    .of(found.w)
    .reshape([m, c * none])
    .transpose([1, 0])
    .reshape([c, none, m])
    .pad(g.ints([0, 1]), g.ints([1]))
    .gather(g.ints(elements), 1)
    .reshape([c, pixels, taps * m])
    .transpose([1, 0, 2])
    .reshape([pixels * c, taps, m])
    .transpose([0, 2, 1])
    .reshape([pixels * c, m, down.taps, across.taps]);
  const windows = phases.map(({ taps: kernel, begin, end }) => ({
    kernel,
    stride: 1,
    dilation: 1,
    begin,
    end,
    surplus: 0,
  }));
  const made = blocks.emit('Conv', [blocks.of(found.dy), kernelInBlocks(kernels, block)], convAttrs(windows));
  // [pixels of a stride, blocks of channels, places] to [blocks of channels, rows, columns].
  const places: number[] = [];
  for (let b = 0; b < c / block; b++)
    for (let y = 0; y < found.inner[0]!; y++)
      for (let x = 0; x < found.inner[1]!; x++) {
        const pixel = (y % down.stride) * across.stride + (x % across.stride);
        const row = (pixel * c) / block + b;
        places.push(
          (row * down.count + Math.floor(y / down.stride)) * across.count + Math.floor(x / across.stride),
        );
      }
  const inPlace: Expr = made
    .reshape([-1, places.length, block])
    .gather(g.ints(places), 1)
    .reshape([-1, c, ...found.inner])
    .typed(dx.type!);
  blocks.put(dx, { ready: [inPlace], convolutions: [], biases: [] });
}
