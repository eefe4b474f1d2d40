import { allGraphs, type Graph, Node, type Value, type ValueType } from '../../graph/ir.js';
import { prune } from '../../graph/prune.js';
import { Tensor } from '../../graph/tensor.js';
import { type AttrInit, type Builder, toAttrs } from '../../ops/core/builder.js';
import type { Expr } from '../../ops/core/expr.js';

/** The domain of ONNX Runtime's own operators on tensors with blocked channels. */
export const BLOCKED = 'com.microsoft.nchwc';

/** A convolution in blocks, which adds a tensor and a number per channel. */
type Convolve = (sum?: Expr, bias?: Expr, attrs?: AttrInit) => Expr;

/** What is added up: tensors in blocks, convolutions that are not written yet, and vectors of a number per channel. */
export type Sum = { ready: readonly Expr[]; convolutions: readonly Convolve[]; biases: readonly Expr[] };

/** Whether a value holds images in float32, of whole blocks and known extents, and more than one pixel. */
export function isImage(v: Value | null | undefined, block: number): v is Value {
  const [n, ...rest] = v?.shape ?? [];
  const areKnown = rest.length === 3 && rest.every(d => typeof d === 'number' && d > 0);
  const isWhole = areKnown && (rest[0] as number) % block === 0 && `${rest.slice(1)}` !== '1,1';
  return v?.dtype === 'float32' && n != null && isWhole;
}

/**
 * More pairs of channels, such as 512 into 512, occur with small images, for which reordering costs what it gains.
 */
const MOST = 2 ** 16;

/** Whether a convolution with kernels [M, C / group, ...] does: of whole blocks, with a kernel larger than a pixel. */
export function gainsInBlocks(kernels: readonly number[], group: number, block: number): boolean {
  const [m = 0, c = 0, ...kernel] = kernels;
  const isImage = kernel.length === 2 && kernel[0]! * kernel[1]! > 1;
  // Fewer channels than a block are read without reordering.
  const fits = group === 1 ? c < block || c % block === 0 : c === 1 && group === m;
  return isImage && m % block === 0 && m * c > 0 && (group > 1 || m * c <= MOST) && fits;
}

/** A kernel [M, C, ...] with the values of `block` outputs, and of as many inputs, side by side. */
export function kernelInBlocks(w: Expr, block: number): Expr {
  const [m, c, ...kernel] = w.staticShape as [number, number, ...number[]];
  const size = kernel.reduce((n, d) => n * d, 1);
  // One axis at a time: the runtime's Transpose is several times slower if it moves several axes.
  const rows = w.reshape([m / block, block, c * size]).transpose([0, 2, 1]);
  const laidOut =
    c % block === 0 ? rows.reshape([(m * c) / block ** 2, block, size, block]).transpose([0, 2, 1, 3]) : rows;
  return laidOut.reshape([m, c, ...kernel]);
}

export const isReorder = ({ opType, domain, inputs }: Node) =>
  opType === 'ReorderInput' && domain === BLOCKED && inputs[0]?.shape?.length === 4;

export const isShape = ({ opType, domain }: Node) => opType === 'Shape' && !domain;

/** How a node runs in blocks. */
export type InBlocks = {
  /** The images that it reads in blocks. */
  reads: readonly Value[];
  /** What it writes in blocks. */
  image?: Value | undefined;
  /** Whether it is in blocks in any case. */
  isFixed?: boolean;
  /** What it is faster by than the file's form, as a part of what reordering its image takes. */
  gain?: number;
  /** Whether it adds to what it reads, or clips it at 0. */
  adds?: boolean;
  /** Nodes that are no longer needed. */
  inner?: readonly Node[];
  write(blocks: Blocks): void;
};

/** The values of a graph that are in blocks. Each is laid out otherwise where something needs it so. */
export class Blocks {
  readonly #made = new Map<Value, Expr>();
  readonly #sums = new Map<Value, Sum>();
  /** Values that only exist in blocks so far, and the number of their channels. */
  readonly #channels = new Map<Value, number>();

  constructor(
    readonly g: Builder,
    /** Values that are kept as sums for the single node that reads them. */
    readonly deferred: ReadonlySet<Value>,
  ) {}

  emit(opType: string, inputs: readonly (Expr | undefined)[], attrs: AttrInit, type?: ValueType): Expr {
    return this.g.emit(opType, inputs, attrs, { domain: BLOCKED, types: [type] })[0]!;
  }

  known(v: Value | null | undefined): Expr | undefined {
    return v ? this.#made.get(v) : undefined;
  }

  of(v: Value): Expr {
    const sum = this.#sums.get(v);
    if (sum) {
      this.#sums.delete(v);
      this.#made.set(v, this.written(sum, v.type));
    }
    const made = this.#made.get(v) ?? this.emit('ReorderInput', [this.g.of(v)], {}, v.type);
    this.#made.set(v, made);
    return made;
  }

  /** A value as a sum that other terms may be added to. */
  sumOf(v: Value): Sum {
    const sum = this.#sums.get(v);
    this.#sums.delete(v);
    return sum ?? { ready: [this.of(v)], convolutions: [], biases: [] };
  }

  put(v: Value, sum: Sum, channels = v.shape![1] as number): void {
    this.#channels.set(v, channels);
    if (this.deferred.has(v)) this.#sums.set(v, sum);
    else this.#made.set(v, this.written(sum, v.type));
  }

  /** x k + bias + sum with a number k per channel: a depthwise convolution with a kernel of one pixel. */
  scaled(x: Expr, k: Expr): Convolve {
    const channels = x.shape![1] as number;
    const kernel = k.reshape([channels, 1, 1, 1]);
    return (sum, bias, attrs = {}) =>
      this.emit(
        'Conv',
        [x, kernel, bias, sum],
        {
          kernel_shape: [1, 1],
          strides: [1, 1],
          dilations: [1, 1],
          pads: [0, 0, 0, 0],
          group: channels,
          ...attrs,
        },
        x.type,
      );
  }

  /** The last convolution adds the vectors, and clips at 0 if that is wanted. */
  written({ ready, convolutions, biases }: Sum, type: ValueType | undefined, isClipped = false): Expr {
    const bias = biases.length ? biases.reduce((a, b) => a.add(b)) : undefined;
    const [first, ...others] = ready;
    const rest = [...convolutions];
    if (first && bias && !rest.length) rest.push(this.scaled(first, this.#ones(first)));
    else if (first) others.unshift(first);
    let sum = others.length ? others.reduce((a, b) => a.op('Add', [b], {}, { types: [type] })) : undefined;
    const last = rest.pop();
    for (const convolve of rest) sum = convolve(sum);
    if (!last) return isClipped ? sum!.relu() : sum!;
    return last(sum, bias, isClipped ? { activation: 'Relu' } : {});
  }

  #ones(x: Expr): Expr {
    return this.g.tensor(Tensor.filled('float32', [x.shape![1] as number], 1), 'ones');
  }

  /** Sees to it that a value can be read as the file has it. */
  plain(v: Value | null): void {
    const channels = v ? this.#channels.get(v) : undefined;
    if (!v || channels === undefined) return;
    this.#channels.delete(v);
    this.g.identity(this.emit('ReorderOutput', [this.of(v)], { channels }, v.type).value, v);
  }

  /** Adds a node as it is, with what it and its subgraphs read. */
  adopt(node: Node): void {
    const [x] = node.inputs;
    // What is in blocks has the same shape.
    if (isShape(node) && this.#channels.has(x!)) node.inputs = [this.of(x!).value];
    for (const v of node.inputs) this.plain(v);
    const inner = node.subgraphs().flatMap(sub => [...allGraphs(sub)].flatMap(graph => graph.nodes));
    const reordered = new Map<Value, Expr>();
    for (const n of inner)
      if (isReorder(n) && (this.#channels.has(n.inputs[0]!) || this.known(n.inputs[0])))
        reordered.set(n.inputs[0]!, this.of(n.inputs[0]!));
    for (const sub of node.subgraphs())
      for (const v of sub.captures()) if (!reordered.has(v) || sub.outputs.includes(v)) this.plain(v);
    this.g.adopt([node]);
    if (reordered.size) for (const sub of node.subgraphs()) this.#readBlocks(sub, reordered);
  }

  /** Reads `reordered` in a subgraph, and makes there what else reads the same values: a branch that is not run costs nothing. */
  #readBlocks(sub: Graph, reordered: ReadonlyMap<Value, Expr>): void {
    const nodes = [...allGraphs(sub)].flatMap(graph => graph.nodes);
    for (const [v, { value }] of reordered) {
      const readers = nodes.filter(n => n.inputs.includes(v));
      const others = readers.filter(n => !isReorder(n));
      for (const n of readers) if (isReorder(n)) n.outputs[0]!.replaceAllUses(value);
      const channels = this.#channels.get(v);
      if (!others.length || channels === undefined) continue;
      const plain = this.g.newValue(v.name, v.type);
      const node = new Node('ReorderOutput', [value], [plain], toAttrs({ channels }));
      sub.prepend(Object.assign(node, { domain: BLOCKED }));
      for (const n of others) n.inputs = n.inputs.map(input => (input === v ? plain : input));
    }
    prune(sub);
  }
}
