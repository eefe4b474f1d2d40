/** Makes a batch size that the exporter fixed variable. */
import { cloneModel } from '../../graph/clone.js';
import { AgdError } from '../../graph/errors.js';
import { type Graph, type Model, Node, type Shape, Value } from '../../graph/ir.js';
import { Names } from '../../graph/names.js';
import { Tensor } from '../../graph/tensor.js';
import { Builder, toAttrs } from '../../ops/core/builder.js';
import { foldShapes } from './fold-shapes.js';
import { fillIn, inferShapes, type ShapeOracle } from './infer-shapes.js';

/** Each round infers the shapes of the whole graph; more rounds are needed if inference loses the axis repeatedly. */
const ROUNDS = 64;

/**
 * Makes the first axis of these inputs, which the file fixes to the batch size of the export, variable. Extents that
 * exporters derive from it follow: shapes of Reshape, Expand and Resize, initial states of recurrent operators, and
 * constants that Concat joins with samples. The caller has to verify with a run that results are the same sample by
 * sample. Needs types of the fixed batch. Throws `bad-shape` if an output does not follow.
 */
export async function freeBatch(model: Model, names: readonly string[], oracle: ShapeOracle): Promise<void> {
  const { graph } = model;
  const inputs = graph.inputs.filter(v => names.includes(v.name));
  const size = inputs[0]?.shape?.[0];
  const other = names.find(name => !inputs.some(v => v.name === name && v.shape?.[0] === size));
  if (typeof size !== 'number' || other !== undefined)
    throw new AgdError(
      'bad-shape',
      `The first axis of input '${other ?? names[0]}' is not ${typeof size === 'number' ? `the fixed batch of ${size}` : 'a fixed batch'}: leave it out of --free-batch.`,
    );
  const still = cloneModel(model);
  do await inferShapes(still, oracle);
  while (foldShapes(still, { all: true }));
  const written = (g: Graph) => [...g.inputs, ...g.nodes.flatMap(n => n.outputs.filter(v => v !== null))];
  const shapes = new Map(written(still.graph).map(v => [v.name, v.shape]));
  const symbols = new Set(graph.inputs.flatMap(v => v.shape ?? []));
  let symbol = 'batch';
  for (let i = 1; symbols.has(symbol); i++) symbol = `batch_${i}`;
  for (const v of inputs) v.type = { kind: 'tensor', dtype: v.dtype!, shape: [symbol, ...v.shape!.slice(1)] };
  // Declared types of the other values have the fixed batch size.
  for (const v of graph.nodes.flatMap(n => n.outputs)) if (v) [v.type, v.extra] = [undefined, undefined];
  const samples = new Set<Value | null>(inputs);
  const rewriter = new Rewriter(model, { size, symbol, shapes, samples });
  for (let round = 0; round < ROUNDS; round++) {
    do await inferShapes(model, oracle);
    while (foldShapes(model, { all: true }));
    if (rewriter.rewrite()) continue;
    const stuck = graph.outputs.find(
      v => shapes.get(v.name)?.[0] === size && typeof v.shape?.[0] === 'number',
    );
    if (!stuck) return;
    throw new AgdError(
      'bad-shape',
      `${rewriter.lost() ?? `Output '${stuck.name}'`} fixes the batch at ${size}.`,
    );
  }
  throw new AgdError('bad-shape', `The graph fixes the batch at ${size} in too many places.`);
}

type Batch = {
  /** The batch size in the file, and the name of the symbolic one. */
  size: number;
  symbol: string;
  /** Types by value name, with the fixed batch size. */
  shapes: ReadonlyMap<string, Shape | undefined>;
  /** The values that depend on the samples, not only on their number. */
  samples: Set<Value | null>;
};

class Rewriter {
  private readonly names: Names;

  constructor(
    private readonly model: Model,
    private readonly batch: Batch,
  ) {
    this.names = Names.of(model);
  }

  /** One pass over the graph. Returns whether anything was rewritten. */
  rewrite(): boolean {
    const { graph } = this.model;
    const { samples } = this.batch;
    const g = new Builder(graph, { names: this.names, opsets: this.model.opsetImports });
    let changed = false;
    // Its type was inferred before nodes in front of it were rewritten.
    const stale = new Set<Value | null>();
    const nodes = graph.nodes.flatMap(node => {
      const before = this.#rewritten(node);
      if (node.opType !== 'Shape' && node.opType !== 'Size' && node.inputs.some(v => samples.has(v)))
        for (const v of node.outputs) samples.add(v);
      if (before || node.inputs.some(v => stale.has(v))) {
        for (const v of node.outputs) {
          stale.add(v);
          if (v && node.opType !== 'Reshape' && v.type?.kind === 'tensor')
            v.type = { ...v.type, shape: undefined };
        }
        for (const made of before ?? []) fillIn(g, made);
        if (node.opType !== 'Reshape') fillIn(g, node);
      }
      changed ||= before !== undefined;
      return [...(before ?? []), node];
    });
    if (changed) graph.nodes = nodes;
    return changed;
  }

  /** The first node whose outputs do not depend on the batch, although its inputs do. */
  lost(): string | undefined {
    const node = this.model.graph.nodes.find(
      ({ inputs, outputs, opType }) =>
        opType !== 'Shape' &&
        inputs.some(v => this.#axis(v) >= 0) &&
        outputs.every(v => v?.shape && this.#axis(v) < 0),
    );
    return node?.label;
  }

  /** The axis that depends on the batch, of its extent or of unknown extent; -1 if there is none. */
  #axis(value: Value | null | undefined): number {
    const at = value?.shape?.indexOf(this.batch.symbol) ?? -1;
    return at >= 0 ? at : (value?.shape?.indexOf(null) ?? -1);
  }

  #constant(value: Value | null | undefined): number[] | undefined {
    const attr = value?.producer?.opType === 'Constant' ? value.producer.attrs.get('value') : undefined;
    const tensor = attr?.type === 'tensor' ? attr.value : value && this.model.graph.initializers.get(value);
    return tensor?.numbers();
  }

  /** The node with a variable batch, after the nodes that it needs; undefined if it stays. */
  #rewritten(node: Node): Node[] | undefined {
    if (node.domain !== '') return undefined;
    switch (node.opType) {
      case 'Reshape':
        return this.#reshape(node);
      case 'Expand':
        return this.#expand(node);
      case 'Resize':
        return this.#resize(node);
      case 'Concat':
        return this.#concat(node);
      case 'LSTM':
      case 'GRU':
      case 'RNN':
        return this.#recurrent(node);
      default:
        return undefined;
    }
  }

  /**
   * If the elements before the batch axis are as many as those before an axis of the result, that is the batch axis:
   * the other extents of the result stay as they are, and this one follows.
   */
  #reshape(node: Node): Node[] | undefined {
    const [x, shape] = node.inputs;
    const [y] = node.outputs;
    const { size, symbol, shapes } = this.batch;
    const axis = this.#axis(x);
    const [from, to] = [shapes.get(x!.name), shapes.get(y!.name)];
    const wanted = this.#constant(shape);
    if (axis < 0 || !wanted || !isStatic(from) || !isStatic(to)) return undefined;
    const before = product(from.slice(0, axis));
    const fitting = to.flatMap((d, i) => (product(to.slice(0, i)) === before && d % size === 0 ? [i] : []));
    const exact = fitting.filter(i => to[i] === size);
    const at = exact.includes(axis) ? axis : (exact[0] ?? (fitting.includes(axis) ? axis : fitting[0]));
    if (at === undefined || wanted[at] === -1 || (wanted[at] === 0 && at === axis)) return undefined;
    node.inputs = [
      x!,
      this.#ints(
        `${shape!.name}_free`,
        to.map((d, i) => (i === at ? -1 : d)),
      ),
    ];
    const extents = to.map((d, i) => (i !== at ? d : d === size ? symbol : null));
    y!.type = { kind: 'tensor', dtype: x!.dtype!, shape: extents };
    return [];
  }

  /** Samples already have their extent; 1 keeps it. */
  #expand(node: Node): Node[] | undefined {
    const [x, shape] = node.inputs;
    const axis = this.#axis(x);
    const wanted = this.#constant(shape);
    if (axis < 0 || !wanted) return undefined;
    const at = axis + wanted.length - x!.shape!.length;
    if (wanted[at] === 1) return undefined;
    node.inputs = [
      x!,
      this.#ints(
        `${shape!.name}_free`,
        wanted.map((d, i) => (i === at ? 1 : d)),
      ),
    ];
    return [];
  }

  #resize(node: Node): Node[] | undefined {
    const [x, roi, scales, sizes] = node.inputs;
    const axis = this.#axis(x);
    const wanted = this.#constant(sizes);
    if (axis < 0 || !wanted || node.attrs.has('axes') || wanted.length !== x!.shape!.length) return undefined;
    const nodes: Node[] = [];
    node.inputs = [x!, roi!, scales!, this.#extents(nodes, wanted, axis, x!, axis)];
    return nodes;
  }

  /** A value without samples, such as a class token, is repeated for each of them. */
  #concat(node: Node): Node[] | undefined {
    const like = node.inputs.find(v => v?.shape?.includes(this.batch.symbol));
    const at = this.#axis(like);
    const along = node.attrs.get('axis');
    const rank = like?.shape?.length ?? 0;
    const axis = along?.type === 'int' ? (Number(along.value) + rank) % rank : 0;
    if (!like || axis === at) return undefined;
    const nodes: Node[] = [];
    node.inputs = node.inputs.map(v => this.#repeated(nodes, v, at, like, at));
    return nodes.length ? nodes : undefined;
  }

  /** Initial states of the fixed batch are the same for each sample. */
  #recurrent(node: Node): Node[] | undefined {
    const [x] = node.inputs;
    const layout = node.attrs.get('layout');
    const at = layout?.type === 'int' && Number(layout.value) === 1 ? 0 : 1;
    if (this.#axis(x) !== at) return undefined;
    const nodes: Node[] = [];
    node.inputs = node.inputs.map((v, i) => {
      const [isLength, isState] = [i === 4, i === 5 || i === 6];
      if (!isLength && !isState) return v;
      return this.#repeated(nodes, v, isLength ? 0 : at, x!, at);
    });
    return nodes.length ? nodes : undefined;
  }

  /** The first sample of a value that does not depend on them, repeated for each sample of another. */
  #repeated(nodes: Node[], value: Value | null, axis: number, like: Value, at: number): Value | null {
    const { samples, symbol } = this.batch;
    const { shape, dtype } = value ?? {};
    if (!value || !shape || !dtype || samples.has(value) || shape[axis] === symbol) return value;
    let one = value;
    if (shape[axis] !== 1) {
      const bounds = [this.#ints('first', [0]), this.#ints('second', [1]), this.#ints('axis', [axis])];
      one = this.#add(nodes, 'Slice', [value, ...bounds], value.name);
      one.type = { kind: 'tensor', dtype, shape: shape.map((d, i) => (i === axis ? 1 : d)) };
    }
    const ones = shape.map(() => 1);
    const result = this.#add(nodes, 'Expand', [one, this.#extents(nodes, ones, axis, like, at)], value.name);
    result.type = { kind: 'tensor', dtype, shape: shape.map((d, i) => (i === axis ? symbol : d)) };
    samples.add(result);
    return result;
  }

  /** A vector of these extents, except at `axis`, which gets the extent of axis `at` of `like`. */
  #extents(nodes: Node[], dims: readonly number[], axis: number, like: Value, at: number): Value {
    const own = this.#add(nodes, 'Shape', [like], like.name, { start: at, end: at + 1 });
    const parts = [dims.slice(0, axis), dims.slice(axis + 1)].map(d =>
      d.length ? this.#ints('extents', d) : null,
    );
    const all = [parts[0], own, parts[1]].filter(v => v !== null && v !== undefined);
    return all.length === 1 ? own : this.#add(nodes, 'Concat', all, like.name, { axis: 0 });
  }

  #add(nodes: Node[], op: string, inputs: Value[], hint: string, attrs: Record<string, number> = {}): Value {
    const output = new Value(this.names.fresh(`${hint}_${op.toLowerCase()}`));
    nodes.push(new Node(op, inputs, [output], toAttrs(attrs)));
    return output;
  }

  #ints(hint: string, data: readonly number[]): Value {
    const tensor = Tensor.ints([...data]);
    const value = new Value(this.names.fresh(hint), { kind: 'tensor', dtype: 'int64', shape: tensor.dims });
    this.model.graph.initializers.set(value, tensor);
    return value;
  }
}

const isStatic = (shape: Shape | undefined): shape is number[] =>
  shape?.every(d => typeof d === 'number') === true;
const product = (dims: readonly number[]) => dims.reduce((n, d) => n * d, 1);
