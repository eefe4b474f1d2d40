import { cloneModel } from '../../graph/clone.js';
import { type DType, dtypeCode, type FloatDType } from '../../graph/dtype.js';
import { AgdError } from '../../graph/errors.js';
import { type Model, Node, Value } from '../../graph/ir.js';
import { Names } from '../../graph/names.js';
import { spellDefaultDomain } from '../../graph/proto/read.js';
import { random } from '../../graph/random.js';
import { Tensor } from '../../graph/tensor.js';
import { type AttrInit, toAttrs } from '../../ops/core/builder.js';
import { normal, readRow } from '../adapt/initial-values.js';
import { inlineFunctions } from '../normalize/inline-functions.js';
import type { LoadedPrompt, PromptInit } from '../options/adapters.js';
import { type AdaptedLayer, describeLayer } from './adapted-layers.js';
import { type PromptRecord, writePrompt } from './prompt-record.js';
import { isMergeable } from './put-weight.js';
import { isPerToken, type TextInputs, textInputs } from './text-inputs.js';

export type Virtual = { kind: PromptRecord['kind']; tokens: number; init?: PromptInit };

/**
 * A copy of the model with trained virtual tokens before its text. A prompt has their embeddings: Lester et al.: «The Power
 * of Scale for Parameter-Efficient Prompt Tuning» (arXiv:2104.08691). A prefix has the keys and values of all layers, and
 * stands before the model's cache: Li, Liang: «Prefix-Tuning» (arXiv:2101.00190). Inputs and outputs are those of the model:
 * masks, positions and segments are extended inside, and what is computed for the virtual tokens is cut off. Embeddings
 * start as normal numbers, or as those of tokens. Throws `unsupported-op`, `bad-option`, `bad-shape`.
 */
export function addPrompt(source: Model, virtual: Virtual, loaded?: LoadedPrompt, seed = 0): Model {
  const model = cloneModel(source);
  spellDefaultDomain(model);
  inlineFunctions(model);
  if (model.opset < 10)
    throw new AgdError('unsupported-op', `No virtual tokens: operator set ${model.opset} is below 10.`);
  if (loaded) putOthers(model, loaded);
  const text = textInputs(model.graph);
  const surgery = new Surgery(model, text, virtual.tokens);
  const record =
    virtual.kind === 'prompt'
      ? addEmbeddings(surgery, virtual, loaded, seed)
      : addKeysAndValues(surgery, virtual, loaded, seed);
  surgery.finish();
  writePrompt(model, record);
  return model;
}

/** Gives initializers the values that a file has for them, by their names or the ends of these. */
function putOthers({ graph }: Model, { name, others }: LoadedPrompt): void {
  for (const [parameter, tensor] of others) {
    const [found] = [...graph.initializers].filter(
      ([v, own]) =>
        (v.name === parameter || v.name.endsWith(`.${parameter}`)) &&
        own.dtype === tensor.dtype &&
        `${own.dims}` === `${tensor.dims}`,
    );
    // Exporters leave out a bias of zeros.
    if (!found && tensor.numbers().every(x => x === 0)) continue;
    if (!found)
      throw new AgdError(
        'no-such-value',
        `${name} is an adapter of another model: it has values for '${parameter}', ${tensor.dtype}[${tensor.dims}], and the model has no such parameter.`,
      );
    graph.initializers.set(found[0], tensor);
  }
}

/** The values [tokens, width], checked against those of a file. */
function valuesFor(
  { tokens, init }: Virtual,
  width: number,
  layer: AdaptedLayer,
  loaded: LoadedPrompt | undefined,
  seed: number,
): Float64Array {
  if (loaded) {
    const { value, name } = loaded;
    if (`${value.dims}` !== `${[tokens, width]}`)
      throw new AgdError(
        'bad-shape',
        `${name} is an adapter of another model: its prompt_embeddings have shape [${value.dims}], not [${tokens},${width}].`,
      );
    return Float64Array.from(value.floats());
  }
  const draw = random(seed, 0);
  if (!init) return Float64Array.from({ length: tokens * width }, () => normal(draw));
  const rows = init === 'vocab' ? Array.from({ length: tokens }, () => draw() % layer.inputs) : init;
  const outside = rows.find(row => row < 0 || row >= layer.inputs || !Number.isInteger(row));
  if (outside !== undefined)
    throw new AgdError(
      'bad-option',
      `--prompt-init: ${outside} is no token of layer ${describeLayer(layer)}, which has 0 to ${layer.inputs - 1}.`,
    );
  if (!isMergeable(layer))
    throw new AgdError(
      'unsupported-op',
      `--prompt-init: the table of layer ${describeLayer(layer)} is quantized; leave it out.`,
    );
  const { tensor, isTransposed } = layer.weight;
  const table = tensor.floats();
  const each = Array.from({ length: tokens }, (_, i) =>
    readRow(table, tensor.dims, isTransposed ? 1 : 0, rows[i % rows.length]!),
  );
  return Float64Array.from(each.flat());
}

function addEmbeddings(
  surgery: Surgery,
  virtual: Virtual,
  loaded: LoadedPrompt | undefined,
  seed: number,
): PromptRecord {
  const { text, tokens } = surgery;
  const { ids, lookup, segments, masks, positions, cache } = text;
  if (cache.length)
    throw new AgdError(
      'unsupported-op',
      `No virtual tokens: the model has a cache ('${cache[0]!.name}'), before which a prompt cannot stand; use --prefix-tokens.`,
    );
  const width = lookup.outputs;
  const value = surgery.parameter(width, lookup.dtype, valuesFor(virtual, width, lookup, loaded, seed));
  // The same token again: it is none of padding, by which a model may mask.
  surgery.before(ids, surgery.first(ids));
  for (const each of masks) surgery.before(each, surgery.filled(each, 1));
  for (const each of segments) surgery.before(each, surgery.filled(each, 0));
  for (const each of positions) surgery.shift(each, true);
  const perToken = surgery.cutOutputs(v => isPerToken(v, ids), 1);
  surgery.replaceStart(lookup.output, surgery.repeated(surgery.cast(value, lookup.dtype), [tokens, width]));
  return { kind: 'prompt', name: value.name, tokens, perToken };
}

function addKeysAndValues(
  surgery: Surgery,
  virtual: Virtual,
  loaded: LoadedPrompt | undefined,
  seed: number,
): PromptRecord {
  const { text, tokens } = surgery;
  const { ids, lookup, cache, masks, positions } = text;
  if (!cache.length || cache.length % 2)
    throw new AgdError(
      'unsupported-op',
      'No virtual tokens: the model has no inputs with past keys and values; export it with a cache, or use --prompt-tokens.',
    );
  if (virtual.init)
    throw new AgdError(
      'bad-option',
      '--prompt-init gives embeddings, which a prefix has none of: leave it out.',
    );
  const [, heads, , headWidth] = cache[0]!.shape!;
  const odd =
    typeof heads === 'number' && typeof headWidth === 'number'
      ? cache.find(v => v.shape![1] !== heads || v.shape![3] !== headWidth)
      : cache[0];
  if (odd || typeof heads !== 'number' || typeof headWidth !== 'number')
    throw new AgdError(
      'unsupported-op',
      `No virtual tokens: '${odd!.name}' has shape [${odd!.shape}], and a prefix needs the same number of heads and width of a head in all layers.`,
    );
  const dtype = cache[0]!.dtype as FloatDType;
  const width = cache.length * heads * headWidth;
  const value = surgery.parameter(width, dtype, valuesFor(virtual, width, lookup, loaded, seed));
  const split = surgery.emit('Reshape', [value, surgery.ints([tokens, cache.length, heads, headWidth])]);
  const all = surgery.emit('Transpose', [surgery.cast(split, dtype)], { perm: [1, 2, 0, 3] });
  cache.forEach((past, i) => {
    const own = surgery.emit('Gather', [all, surgery.int(i)]);
    surgery.before(past, surgery.repeated(own, [heads, tokens, headWidth]), 2);
  });
  for (const each of masks) surgery.before(each, surgery.filled(each, 1));
  for (const each of positions) surgery.shift(each, false);
  surgery.cutOutputs(v => v.shape?.length === 4 && /present|past|cache/i.test(v.name), 2);
  const perToken = surgery.model.graph.outputs.some(v => v.shape?.length !== 4 && isPerToken(v, ids));
  return {
    ...{ kind: 'prefix', name: value.name, tokens, perToken },
    ...{ layers: cache.length / 2, heads, headWidth },
  };
}

/** Adds nodes before and after those of a graph. */
class Surgery {
  readonly #names: Names;
  readonly #before: Node[] = [];
  readonly #after: Node[] = [];
  /** Nodes that follow one of the graph's. */
  readonly #behind = new Map<Node, Node[]>();
  #target: Node[] = this.#before;
  #batch: Value | undefined;

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
    const longer = new Value(this.#names.fresh(`${input.name}_with_prompt`));
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
    this.emit('Concat', [start, this.emit('Add', [input, count])], { axis: 1 }, moved);
  }

  /** Cuts what the outputs have for virtual tokens. Returns whether there are any. */
  cutOutputs(isCut: (output: Value) => boolean, axis: number): boolean {
    const { graph } = this.model;
    const cut = graph.outputs.filter(v => v.producer && isCut(v));
    this.#target = this.#after;
    for (const output of cut) {
      const whole = new Value(this.#names.fresh(`${output.name}_with_prompt`));
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
    const replaced = new Value(this.#names.fresh(`${output.name}_with_prompt`));
    output.replaceAllUses(replaced);
    this.#target = [];
    this.emit('Concat', [start, this.#slice(output, 1)], { axis: 1 }, replaced);
    this.#behind.set(node, this.#target);
  }

  /** Places the nodes. Extents that have a name may now be others: inner values lose their shapes. */
  finish(): void {
    const { graph } = this.model;
    const outputs = new Set(graph.outputs);
    for (const value of graph.nodes.flatMap(node => node.outputs)) {
      if (!value || outputs.has(value) || value.type?.kind !== 'tensor') continue;
      if (value.shape?.some(d => typeof d !== 'number')) value.type = undefined;
    }
    graph.nodes = [
      ...this.#before,
      ...graph.nodes.flatMap(node => [node, ...(this.#behind.get(node) ?? [])]),
      ...this.#after,
    ];
  }
}
