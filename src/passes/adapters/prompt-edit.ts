/** The nodes that put virtual tokens before the text of a model. */
import { type DType, dtypeCode, type FloatDType } from '../../graph/dtype.js';
import { AgdError } from '../../graph/errors.js';
import { allGraphs, type Dim, type Model, Node, Value, type ValueType } from '../../graph/ir.js';
import { Names } from '../../graph/names.js';
import { listTypes } from '../../graph/proto/codec.js';
import { Tensor } from '../../graph/tensor.js';
import { type AttrInit, toAttrs } from '../../ops/core/builder.js';
import type { TextInputs } from './text-inputs.js';

/**
 * Adds to a graph what virtual tokens need: the values that they have in the place of inputs (`first`, `filled`, `repeated`), nodes
 * that put these before the inputs (`before`, `shift`, `replaceStart`) and cut outputs (`cutOutputs`). `finish` places the nodes:
 * most come before all of the graph's, cuts after them.
 */
export class PromptEdit {
  readonly #names: Names;
  readonly #before: Node[] = [];
  readonly #after: Node[] = [];
  /** Nodes that follow one of the graph's. */
  readonly #behind = new Map<Node, Node[]>();
  #target: Node[] = this.#before;
  #batch: Value | undefined;
  /** What stands in the place of inputs, outputs and lookups, and has virtual tokens too along an axis. */
  readonly #longer: { value: Value; of: Value; axis: number }[] = [];

  constructor(
    readonly model: Model,
    readonly text: TextInputs,
    readonly tokens: number,
  ) {
    this.#names = Names.of(model);
  }

  emit(opType: string, inputs: readonly Value[], attrs: AttrInit = {}, output?: Value): Value {
    const value = output ?? new Value(this.#names.fresh(`prompt_${opType.toLowerCase()}`));
    const node = new Node(opType, inputs, [value], toAttrs(attrs));
    node.name = this.#names.fresh(`prompt.${opType}`);
    this.#target.push(node);
    return value;
  }

  constant(tensor: Tensor, hint = 'prompt_constant'): Value {
    const { dtype, dims: shape } = tensor;
    const value = new Value(this.#names.fresh(hint), { kind: 'tensor', dtype, shape });
    this.model.graph.initializers.set(value, tensor);
    return value;
  }

  ints = (values: readonly number[]) => this.constant(Tensor.ints(values));
  int = (value: number) => this.constant(Tensor.from('int64', [], BigInt64Array.of(BigInt(value))));

  parameter(width: number, dtype: FloatDType, values: Float64Array): Value {
    const compute = dtype === 'float64' ? 'float64' : 'float32';
    return this.constant(Tensor.ofNumbers(compute, [this.tokens, width], values), 'prompt_embeddings');
  }

  cast(x: Value, dtype: DType): Value {
    return x.dtype === dtype || (x.dtype === undefined && /^float(32|64)$/.test(dtype))
      ? x
      : this.emit('Cast', [x], { to: dtypeCode(dtype) });
  }

  /** [batch], of the tokens. */
  #batchOf(value: Value = this.text.ids): Value {
    const extent = () => this.emit('Gather', [this.emit('Shape', [value]), this.ints([0])]);
    if (value !== this.text.ids) return extent();
    this.#batch ??= extent();
    return this.#batch;
  }

  /** The same for each sample: [batch, ...dims]. */
  repeated(x: Value, dims: readonly number[], of?: Value): Value {
    const shape = this.emit('Concat', [this.#batchOf(of), this.ints(dims)], { axis: 0 });
    return this.emit('Expand', [x, shape]);
  }

  /** The first token of each sample, for each virtual token. */
  first(ids: Value): Value {
    const first = this.emit('Slice', [ids, this.ints([0]), this.ints([1]), this.ints([1])]);
    return this.repeated(first, [this.tokens]);
  }

  filled(like: Value, value: number): Value {
    const dtype = like.dtype!;
    const one = this.constant(Tensor.filled('float32', [1], value));
    return this.repeated(this.emit('Cast', [one], { to: dtypeCode(dtype) }), [this.tokens], like);
  }

  /** Puts `start` before an input, for all that read it. */
  before(input: Value, start: Value, axis = 1): void {
    const longer = this.#withPrompt(input, axis);
    input.replaceAllUses(longer);
    this.emit('Concat', [start, input], { axis }, longer);
  }

  /** Moves positions behind the virtual tokens, whose own come before them if `isLonger`. */
  shift(input: Value, isLonger: boolean): void {
    const dtype = input.dtype as 'int64' | 'int32';
    const moved = new Value(this.#names.fresh(`${input.name}_behind_prompt`));
    input.replaceAllUses(moved);
    const count = this.emit('Cast', [this.int(this.tokens)], { to: dtypeCode(dtype) });
    if (!isLonger) {
      this.emit('Add', [input, count], {}, moved);
      return;
    }
    const own = this.emit('Cast', [this.ints([...Array(this.tokens).keys()])], { to: dtypeCode(dtype) });
    const start = this.repeated(own, [this.tokens], input);
    this.#longer.push({ value: moved, of: input, axis: 1 });
    this.emit('Concat', [start, this.emit('Add', [input, count])], { axis: 1 }, moved);
  }

  /** Cuts what the outputs have for virtual tokens. Returns whether there are any. */
  cutOutputs(isCut: (output: Value) => boolean, axis: number): boolean {
    const { graph } = this.model;
    const open = graph.outputs.find(v => !v.shape && (v.type?.kind ?? 'tensor') === 'tensor');
    if (open)
      throw new AgdError(
        'unsupported-op',
        `No virtual tokens: they are cut from outputs by their shapes, and that of '${open.name}' is not known.`,
      );
    const cut = graph.outputs.filter(v => v.producer && isCut(v));
    this.#target = this.#after;
    for (const output of cut) {
      const whole = this.#withPrompt(output, axis);
      const node = output.producer!;
      output.replaceAllUses(whole, { outputs: false });
      node.outputs = node.outputs.map(v => (v === output ? whole : v));
      this.#slice(whole, axis, output);
    }
    this.#target = this.#before;
    return cut.length > 0;
  }

  #slice(x: Value, axis: number, output?: Value): Value {
    const bounds = [this.ints([this.tokens]), this.ints([2 ** 31 - 1]), this.ints([axis])];
    return this.emit('Slice', [x, ...bounds], {}, output);
  }

  /** Lets `start` take the place of the first entries of a node's output along axis 1. */
  replaceStart(output: Value, start: Value): void {
    const node = output.producer!;
    const replaced = this.#withPrompt(output, 1);
    output.replaceAllUses(replaced);
    this.#target = [];
    this.emit('Concat', [start, this.#slice(output, 1)], { axis: 1 }, replaced);
    this.#behind.set(node, this.#target);
  }

  #withPrompt(of: Value, axis: number): Value {
    const value = new Value(this.#names.fresh(`${of.name}_with_prompt`));
    this.#longer.push({ value, of, axis });
    return value;
  }

  /** Places the nodes, and names the extents anew that are no longer what they were. */
  finish(): void {
    const { graph } = this.model;
    this.#renameExtents();
    graph.nodes = [
      ...this.#before,
      ...graph.nodes.flatMap(node => [node, ...(this.#behind.get(node) ?? [])]),
      ...this.#after,
    ];
  }

  /** Of all values but inputs and cut outputs. An extent that only names tell follows from inputs in a way that is not known. */
  #renameExtents(): void {
    const { graph } = this.model;
    const [longer, same] = [new Set<Dim>(), new Set<Dim>()];
    for (const input of graph.inputs) {
      const axis = this.#longer.find(({ of }) => of === input)?.axis;
      input.shape?.forEach((d, i) => void (i === axis ? longer : same).add(d));
    }
    const isClear = ![...longer].some(d => typeof d === 'string' && same.has(d));
    const renamed = (d: Dim): Dim =>
      typeof d !== 'string' || (same.has(d) && !longer.has(d)) ? d : isClear ? `${d}_with_prompt` : null;
    const typeOf = (value: Value, axis?: number): ValueType | undefined => {
      const shape = value.shape?.map((d, i) => (i === axis && typeof d === 'number' ? null : renamed(d)));
      return shape ? { kind: 'tensor', dtype: value.dtype!, shape } : value.type;
    };
    const types = this.#longer.map(({ value, of, axis }) => [value, typeOf(of, axis)] as const);
    for (const { inputs, nodes } of allGraphs(graph))
      for (const value of [...inputs, ...nodes.flatMap(node => node.outputs)])
        if (value && !graph.inputs.includes(value)) value.type = typeOf(value);
    for (const [value, type] of types) value.type = type;
    listTypes(
      graph,
      this.#longer.map(({ value }) => value),
    );
  }
}
