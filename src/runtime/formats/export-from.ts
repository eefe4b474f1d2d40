/** The trained model out of whatever holds it: an injected model, training artifacts, or a model and values from elsewhere. */
import { AgdError } from '../../graph/errors.js';
import { saveModel } from '../../graph/files.js';
import type { Model } from '../../graph/ir.js';
import { patchModelFile } from '../../graph/patch-file.js';
import { decodeModel } from '../../graph/proto/codec.js';
import type { Tensor } from '../../graph/tensor.js';
import { adapterNames } from '../../passes/adapters/adapter-names.js';
import { withAdapterInputs, withAdapters } from '../../passes/adapters/apply-adapters.js';
import { mergeAdapters } from '../../passes/adapters/merge-adapters.js';
import { adaptersChange } from '../../passes/adapters/set-adapter-values.js';
import { partOfModel } from '../../passes/common/part-of-model.js';
import { readOriginal } from '../../passes/file/embed-original.js';
import { isInjected, readDescription } from '../../passes/file/step-metadata.js';
import { inferenceModel } from '../../passes/import/lift-artifacts.js';
import { readRecipe } from '../../passes/recipe/read-recipe.js';
import { type ExportOptions, exportFile, exportPlain, saveTrained, withParameters } from '../export.js';
import { readAdapterFile } from './onnx-adapter.js';
import { openForInjection, sessionShapes } from './open-for-injection.js';

/** Values from elsewhere: of parameters, or of adapters in a folder that PEFT wrote. */
type ValuesToExport = { values?: ReadonlyMap<string, Tensor>; adapter?: string };

/**
 * Writes the trained model that is in `source`: an injected model's; the inference model of training artifacts, with
 * the checkpoint's parameters or `values`; or a model with `values` in the places of its own. Throws `bad-option` where
 * there is nothing to take values from, and as `exportFile` does. Tells whether these are values that no step has changed,
 * and which layers keep their adapters.
 */
export async function exportFrom(
  source: string,
  target: string,
  { values, adapter, ...exporting }: ExportOptions & ValuesToExport = {},
): Promise<{ isUntrained: boolean; kept: string[] }> {
  const { ema, recipe, bakePreprocessing } = exporting;
  const { model, options } = await openForInjection(source, { values });
  const done = { isUntrained: false, kept: [] as string[] };
  if (isInjected(model)) {
    if (adapter !== undefined)
      throw new AgdError(
        'bad-option',
        `${source} contains a training step: an adapter goes into a model without.`,
      );
    await exportFile(values ? withParameters(model, values) : model, target, exporting);
    const kept = exporting.adaptersOnly ? [] : mergeAdapters(readOriginal(model)).kept;
    return { isUntrained: !values && stepOf(model) === 0 && !adaptersChange(model), kept };
  }
  if (adapter !== undefined || (adapterNames(model).size && !values)) {
    const adapted =
      adapter === undefined
        ? model
        : await withAdapters(model, { adapters: await readAdapterFile(adapter) }, sessionShapes);
    const merged = exporting.adaptersOnly
      ? { model: withAdapterInputs(adapted), kept: [] }
      : mergeAdapters(adapted);
    await saveModel(merged.model, target);
    return { ...done, kept: merged.kept };
  }
  if (ema)
    throw new AgdError('bad-option', `${source} keeps no average of its weights: only a training step does.`);
  const { original, exports } = options;
  if (recipe || bakePreprocessing) {
    if (original || values)
      throw new AgdError(
        'bad-option',
        `${source}: a recipe goes into a model with its own weights; write the trained model first, then export that one.`,
      );
    await exportPlain(model, target, recipe ?? (await readRecipe(model)), bakePreprocessing);
    return done;
  }
  if (original) {
    const forward = decodeModel(original);
    const { values = new Map() } = options;
    await saveTrained(exports ? partOfModel(forward, exports) : forward, target, values);
    return done;
  }
  if (!values)
    throw new AgdError(
      'bad-option',
      `${source} contains no training step: run agd-onnx inject on it first, or give trained parameters with --params.`,
    );
  const { inputs, initializers } = model.graph;
  if (inputs.some(v => values.has(v.name) && !initializers.has(v))) {
    await saveTrained(await inferenceModel(model, values, sessionShapes), target, values);
    return done;
  }
  const names = new Set([...initializers.keys()].map(v => v.name));
  const known = [...values].filter(([name]) => names.has(name));
  if (!known.length) throw new AgdError('no-such-value', `None of the parameters given is one of ${source}.`);
  await patchModelFile(source, target, new Map(known));
  return done;
}

/** How many updates an injected model has seen. */
function stepOf(model: Model): number {
  const { step } = readDescription(model);
  const [, tensor] = [...model.graph.initializers].find(([{ name }]) => name === step) ?? [];
  return tensor?.numbers()[0] ?? 0;
}
