/** All methods that train something small beside a model that stays as it is. */
import { cloneModel } from '../../graph/clone.js';
import { AgdError } from '../../graph/errors.js';
import type { Model } from '../../graph/ir.js';
import { inferShapes, type ShapeOracle } from '../normalize/infer-shapes.js';
import { newHead } from '../select/find-head.js';
import { type AdapterOptions, adapterNames, flagOf } from './adapter-names.js';
import { addAdapters } from './add-adapters.js';
import { addPrompt } from './add-prompt.js';
import { addScales } from './add-scales.js';
import { setAdapterValues } from './set-adapter-values.js';

/**
 * A copy of the model with the adapters that the options ask for; `notes` gets lines for the user. A layer with both methods
 * computes IA3's product of what LoRA makes of it, as PEFT does where one is merged before the other is loaded; virtual tokens
 * come before both. Throws `bad-option` where the model has adapters, and as the methods do.
 */
export function applyAdapters(model: Model, options: AdapterOptions, notes: string[] = []): Model {
  const { lora = [], ia3 = [], adapters, seed, train = [], promptTokens, promptInit, prefixTokens } = options;
  if (adapters?.values)
    return setAdapterValues(model, adapters.values, adapters.name, [...adapterNames(model)]);
  if (adapterNames(model).size)
    throw new AgdError(
      'bad-option',
      `The model already has adapters, which continue training without ${flagOf(options)}: leave that out, or merge them first with agd-onnx export.`,
    );
  if (promptInit && !promptTokens) throw new AgdError('bad-option', '--prompt-init needs --prompt-tokens.');
  let result = model;
  const loaded = adapters?.prompt;
  if (promptTokens)
    result = addPrompt(result, { kind: 'prompt', tokens: promptTokens, init: promptInit }, undefined, seed);
  else if (prefixTokens)
    result = addPrompt(result, { kind: 'prefix', tokens: prefixTokens }, undefined, seed);
  else if (loaded) result = addPrompt(result, { kind: loaded.kind, tokens: loaded.value.dims[0]! }, loaded);
  if (ia3.length || adapters?.scales) result = addScales(result, ia3, adapters);
  if (lora.length || adapters?.adapters.length)
    result = addAdapters(result, lora, adapters, seed, notes, [...train, ...newHead(model)]);
  return result;
}

/** The same, once the shapes of all outputs are known: virtual tokens are cut from those that have one entry for each token. */
export async function withAdapters(
  model: Model,
  options: AdapterOptions,
  oracle: ShapeOracle,
  notes: string[] = [],
): Promise<Model> {
  const { promptTokens, prefixTokens, adapters } = options;
  const isCut = promptTokens || prefixTokens || adapters?.prompt;
  if (!isCut || model.graph.outputs.every(v => v.shape)) return applyAdapters(model, options, notes);
  const [declared, typed] = [cloneModel(model), cloneModel(model)];
  await inferShapes(typed, oracle);
  for (const [i, value] of declared.graph.outputs.entries()) value.type = typed.graph.outputs[i]!.type;
  return applyAdapters(declared, options, notes);
}

/** A copy of the model in which the adapters are inputs that a caller may feed, with what they are now as defaults. */
export function withAdapterInputs(source: Model): Model {
  const model = cloneModel(source);
  const { graph } = model;
  const names = adapterNames(model);
  for (const [value, { dtype, dims: shape }] of graph.initializers) {
    if (!names.has(value.name) || graph.inputs.includes(value)) continue;
    value.type = { kind: 'tensor', dtype, shape };
    graph.inputs.push(value);
  }
  return model;
}
