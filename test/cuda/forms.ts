/** The models that a training run makes sessions of: a step and its variants, for one optimizer. */

import type { Model } from '../../src/graph/ir.js';
import { trainingPart } from '../../src/passes/common/part-of-model.js';
import { readDescription } from '../../src/passes/file/step-metadata.js';
import { inject } from '../../src/passes/inject.js';
import type { InjectOptions } from '../../src/passes/options.js';
import { evaluationModel } from '../../src/passes/run/evaluation-model.js';
import { lookupsOf, scanRows } from '../../src/passes/run/scan-rows.js';
import { scanSteps } from '../../src/passes/run/scan-steps.js';
import { splitStep } from '../../src/passes/run/split-step.js';
import { stateInputs } from '../../src/passes/run/state-inputs.js';
import { sessionShapes } from '../../src/runtime/session.js';

/** Options beside those of the model, by the name of the form. */
export const OPTIONS = {
  step: {},
  accumulation: { accumulate: 2 },
  clipping: { clipGradNorm: 1, clipGradValue: 0.5 },
  ema: { ema: 0.99 },
  'fp16 precision': { precision: 'fp16' },
  sam: { sam: { rho: 0.05 } },
  wsam: { wsam: { rho: 0.05 }, accumulate: 2 },
  'schedule-free': { scheduleFree: { momentum: 0.9 } },
  'skipped batches': { onNonfinite: 'skip' },
  'lazy rows': { lazyRows: ['*'] },
} satisfies Record<string, InjectOptions>;

export type Part = { form: string; model: Model };

/** The step with these options, and what it is run as. */
export async function* partsOf(model: Model, options: InjectOptions, form: string): AsyncGenerator<Part> {
  const { model: injected } = await inject(model, options, sessionShapes);
  const updates = injected.trainingInfo.flatMap(info => info.updates);
  const { lr } = readDescription(injected);
  const part = trainingPart(injected);
  const hasData = part.graph.inputs.some(v => v.name !== lr && !part.graph.initializers.has(v));
  yield { form, model: stateInputs(part, updates) };
  if (hasData)
    yield {
      form: `${form}, K steps`,
      model: stateInputs((lookupsOf(part).length ? scanRows : scanSteps)(part).model, updates),
    };
  if (form !== 'step') return;
  const { gradients, update } = await splitStep(injected, sessionShapes);
  yield { form: 'gradients', model: gradients };
  yield { form: 'update', model: update };
  if (hasData)
    yield {
      form: 'evaluation',
      model: (await evaluationModel(injected, sessionShapes, options.provider)).model,
    };
}
