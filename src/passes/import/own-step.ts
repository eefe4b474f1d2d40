/** Whether a model has a training step of its own: apart from what reads one, which few models need. */
import { cloneModel } from '../../graph/clone.js';
import { AgdError } from '../../graph/errors.js';
import type { Model, Node } from '../../graph/ir.js';
import { spellDefaultDomain } from '../../graph/proto/read.js';
import { hasAlgorithm, trainingGraph } from '../../graph/proto/training.js';

export const TRAINING_DOMAIN = 'ai.onnx.preview.training';

/** Whether a node is one of ONNX's own training operators: Gradient, or an optimizer. */
export const isTrainingOperator = (node: Node): boolean => node.domain === TRAINING_DOMAIN;

/** Whether the model has its own training step in `training_info`. */
export function hasOwnStep(model: Model): boolean {
  return model.trainingInfo.some(hasAlgorithm);
}

/**
 * The model with its training step as the graph: the inference graph followed by the algorithm. Models without a step
 * are returned unchanged. Throws `unsupported-op` if there are several steps.
 */
export function withAlgorithm(model: Model): Model {
  const infos = model.trainingInfo.filter(hasAlgorithm);
  const [info] = infos;
  if (!info) return model;
  if (infos.length > 1)
    throw new AgdError(
      'unsupported-op',
      `The model's training_info has ${infos.length} algorithms; only one is supported.`,
    );
  const step = cloneModel(model);
  step.graph = trainingGraph(model, info);
  step.trainingInfo = [{ ...info, extra: undefined }];
  spellDefaultDomain(step);
  return step;
}
