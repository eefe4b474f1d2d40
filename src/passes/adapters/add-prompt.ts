import { cloneModel } from '../../graph/clone.js';
import type { FloatDType } from '../../graph/dtype.js';
import { AgdError } from '../../graph/errors.js';
import type { Model } from '../../graph/ir.js';
import { spellDefaultDomain } from '../../graph/proto/read.js';
import { random } from '../../graph/random.js';
import { normal, readRow } from '../adapt/initial-values.js';
import { inlineFunctions } from '../normalize/inline-functions.js';
import type { LoadedPrompt, PromptInit } from '../options/adapters.js';
import { type AdaptedLayer, describeLayer } from './adapted-layers.js';
import { PromptEdit } from './prompt-edit.js';
import { type PromptRecord, writePrompt } from './prompt-record.js';
import { isMergeable } from './put-weight.js';
import { isPerToken, textInputs } from './text-inputs.js';

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
  const edit = new PromptEdit(model, text, virtual.tokens);
  const record =
    virtual.kind === 'prompt'
      ? addEmbeddings(edit, virtual, loaded, seed)
      : addKeysAndValues(edit, virtual, loaded, seed);
  edit.finish();
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
  edit: PromptEdit,
  virtual: Virtual,
  loaded: LoadedPrompt | undefined,
  seed: number,
): PromptRecord {
  const { text, tokens } = edit;
  const { ids, lookup, segments, masks, positions, cache } = text;
  if (cache.length)
    throw new AgdError(
      'unsupported-op',
      `No virtual tokens: the model has a cache ('${cache[0]!.name}'), before which a prompt cannot be inserted; use --prefix-tokens.`,
    );
  const width = lookup.outputs;
  const value = edit.parameter(width, lookup.dtype, valuesFor(virtual, width, lookup, loaded, seed));
  // The same token again: it is none of padding, by which a model may mask.
  edit.before(ids, edit.first(ids));
  for (const each of masks) edit.before(each, edit.filled(each, 1));
  for (const each of segments) edit.before(each, edit.filled(each, 0));
  for (const each of positions) edit.shift(each, true);
  const perToken = edit.cutOutputs(v => isPerToken(v, ids), 1);
  edit.replaceStart(lookup.output, edit.repeated(edit.cast(value, lookup.dtype), [tokens, width]));
  return { kind: 'prompt', name: value.name, tokens, perToken };
}

function addKeysAndValues(
  edit: PromptEdit,
  virtual: Virtual,
  loaded: LoadedPrompt | undefined,
  seed: number,
): PromptRecord {
  const { text, tokens } = edit;
  const { ids, lookup, cache, masks, positions } = text;
  if (!cache.length || cache.length % 2)
    throw new AgdError(
      'unsupported-op',
      'No virtual tokens: the model has no inputs with past keys and values; export it with a cache, or use --prompt-tokens.',
    );
  if (virtual.init)
    throw new AgdError(
      'bad-option',
      '--prompt-init sets embeddings, which a prefix does not have: leave it out.',
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
  const value = edit.parameter(width, dtype, valuesFor(virtual, width, lookup, loaded, seed));
  const split = edit.emit('Reshape', [value, edit.ints([tokens, cache.length, heads, headWidth])]);
  const all = edit.emit('Transpose', [edit.cast(split, dtype)], { perm: [1, 2, 0, 3] });
  cache.forEach((past, i) => {
    const own = edit.emit('Gather', [all, edit.int(i)]);
    edit.before(past, edit.repeated(own, [heads, tokens, headWidth]), 2);
  });
  for (const each of masks) edit.before(each, edit.filled(each, 1));
  for (const each of positions) edit.shift(each, false);
  edit.cutOutputs(v => v.shape?.length === 4 && /present|past|cache/i.test(v.name), 2);
  const perToken = edit.model.graph.outputs.some(v => v.shape?.length !== 4 && isPerToken(v, ids));
  return {
    ...{ kind: 'prefix', name: value.name, tokens, perToken },
    ...{ layers: cache.length / 2, heads, headWidth },
  };
}
