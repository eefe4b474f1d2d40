/** Explains why nothing trains. */
import { AgdError } from '../../graph/errors.js';
import type { Graph, Value } from '../../graph/ir.js';
import type { ParameterChoice } from './parameter-choice.js';

const error = (why: string) => new AgdError('nothing-to-train', `Nothing to train: ${why}`);

/** The error, which says where the weights are that a user looks for. */
export function nothingTrains(
  { nodes }: Graph,
  targets: readonly Value[],
  count: number,
  [integer, ...more]: readonly ParameterChoice[],
): AgdError {
  const classic = nodes.find(node => node.domain === 'ai.onnx.ml' && /Ensemble|Linear|SVM/.test(node.opType));
  if (!count && classic)
    return error(
      `the model has no floating-point initializers; the numbers of ${classic.opType} are attributes of its node, which do not train.`,
    );
  const none = `of ${count} floating-point initializers none is a weight that ${targets.map(v => `'${v.name}'`).join(', ')} depends on.`;
  if (!integer) return error(`${none} Choose with --train GLOB; \`agd-onnx inspect\` lists them.`);
  const stored = `${more.length + 1} of the weights, such as '${integer.value.name}', are stored as ${integer.why}: those do not train.`;
  return error(
    `${none} ${stored} --qat int8 trains those of static quantization, --lora GLOB adapters of layers of weight-only quantization.`,
  );
}
