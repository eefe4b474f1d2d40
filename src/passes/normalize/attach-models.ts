/** The model with what is asked for beside it: a teacher, or a graph that computes the loss. */

import { AgdError } from '../../graph/errors.js';
import type { Model } from '../../graph/ir.js';
import type { InjectOptions } from '../options.js';
import { loadOnDemand } from '../stages/load-on-demand.js';
import type { ShapeOracle } from './infer-shapes.js';

/**
 * The model with the teacher and the loss graph of the options beside it, whose values have the prefixes `teacher::` and
 * `loss::`, and the options with the loss that reads them. An input of the teacher is the model's input of the same name,
 * or the only one; an input of the loss graph is an output, inner value or input of the model of that name, and else a
 * target. What is exported are the outputs of the model alone. With an `oracle`, values of other widths than the teacher's are
 * compared through a projection that trains: see `addProjection`. Throws `no-such-value`, `bad-option`.
 */
export async function attachModels(
  source: Model,
  options: InjectOptions,
  oracle?: ShapeOracle,
): Promise<{ model: Model; options: InjectOptions }> {
  const { teacherModel, lossGraph, distill } = options;
  if (distill && !teacherModel)
    throw new AgdError('bad-option', '--distill needs a model to learn from: add --teacher FILE.');
  if (teacherModel && !distill?.length)
    throw new AgdError(
      'bad-option',
      "--teacher needs a distillation loss: add --distill 'kl:T=2,alpha=0.5'.",
    );
  if (!teacherModel && !lossGraph) return { model: source, options };
  const { joinModels } = await loadOnDemand();
  return joinModels(source, options, oracle);
}
