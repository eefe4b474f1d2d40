import type { Model, Value } from '../graph/ir.js';
import { encodeModel } from '../graph/proto/codec.js';
import { secretSeed } from '../graph/random.js';
import { ensure } from '../ops/optimizers/optimizer.js';
import { contextOf, runPasses } from './common/context.js';
import { countNodes } from './common/eliminate-dead-nodes.js';
import type { TrainingDescription } from './file/description.js';
import { hasOwnStep, isTrainingOperator, withAlgorithm } from './import/own-step.js';
import { attachModels } from './normalize/attach-models.js';
import type { ShapeOracle } from './normalize/infer-shapes.js';
import { withValues } from './normalize/with-values.js';
import { checkInjectOptions, decidedByOwnStep, type InjectOptions } from './options.js';
import { PIPELINES } from './pipeline.js';
import type { ParameterChoice } from './select/parameter-choice.js';
import { loadOnDemand } from './stages/load-on-demand.js';

export type InjectReport = {
  parameters: ParameterChoice[];
  /** Likely mistakes in the request, one line each. */
  warnings: string[];
  /** What else a user may want to know, one line each. */
  notes?: string[];
  nodes: { before: number; after: number };
  /** Bytes of the parameters, and of optimizer state, running statistics and counters together. */
  bytes: { parameters: number; state: number };
  description: TrainingDescription;
};

/**
 * A copy of the model with loss, backward pass and optimizer as nodes of its graph: one run is one training step.
 * Everything that a step changes is an input with an initializer, and has an output with its next value.
 */
export async function inject(
  given: Model,
  asked: InjectOptions,
  oracle: ShapeOracle,
): Promise<{ model: Model; report: InjectReport }> {
  const { model: source, options } = await attachModels(given, withRounding(asked), oracle);
  const { loss, gradients, replaceOptimizer, values } = options;
  checkInjectOptions(options);
  const own = hasOwnStep(source) && !gradients && (!loss || loss.kind === 'output');
  const model = values && !own ? withValues(source, values) : source;
  if (own) {
    if (!replaceOptimizer) return adopt(model, options, oracle);
    const step = contextOf(model, options, oracle);
    const facts = ['work', 'operators', 'bindings'] as const;
    const { withoutOptimizer } = await loadOnDemand();
    const lifted = withoutOptimizer(await runPasses(PIPELINES.readStep, step, facts));
    return injectStep(lifted.model, lifted.options, oracle);
  }
  ensure(!replaceOptimizer, 'There is no optimizer to replace: the model has no training step of its own.');
  if (!model.graph.nodes.some(isTrainingOperator)) return injectStep(model, options, oracle);
  const context = contextOf(model, options, oracle);
  const { work } = await runPasses(PIPELINES.lowerTraining, context, ['work']);
  return injectStep(work, { ...options, original: options.original ?? encodeModel(model) }, oracle);
}

/** Gradients pass the rounding that is trained for. */
const withRounding = (options: InjectOptions): InjectOptions =>
  options.qat ? { ...options, straightThrough: true } : options;

async function injectStep(
  model: Model,
  options: InjectOptions,
  oracle: ShapeOracle,
): Promise<{ model: Model; report: InjectReport }> {
  const before = countNodes(model);
  // Noise that others can compute hides nothing.
  const seed = options.seed ?? (options.dpSgd ? secretSeed() : undefined);
  const passes = options.gradients ? PIPELINES.injectGradients : PIPELINES.inject;
  const { work, parameters, trained, warnings, attached, description, perSample } = await runPasses(
    passes,
    contextOf(model, { ...options, seed }, oracle),
    ['work', 'parameters', 'trained', 'warnings', 'attached', 'description'],
  );
  const bytes = sizes(
    work,
    trained,
    attached.updates.map(u => u.state),
  );
  const nodes = { before, after: countNodes(work) };
  const notes = [
    ...(perSample?.why === undefined ? [] : [whyLoop(perSample.why)]),
    ...whyRounds(description, options.provider),
  ];
  const noted = notes.length ? { notes } : {};
  return { model: work, report: { parameters, warnings, ...noted, nodes, bytes, description } };
}

const whyLoop = (why: string) =>
  `gradients of single samples are computed in a loop over the samples, ${why}`;

function whyRounds({ precision }: TrainingDescription, provider = 'cpu'): string[] {
  if (provider !== 'cpu' || precision === undefined || precision === 'fp32') return [];
  const type = precision === 'fp16' ? 'float16' : 'bfloat16';
  return [
    `${precision}: the CPU has no ${type} kernels of products and arithmetic, so these round to ${type} and compute in float32, which is slower than --precision fp32`,
  ];
}

/** The model's own training step in standard operators, with state as inputs and outputs. */
async function adopt(
  model: Model,
  options: InjectOptions,
  oracle: ShapeOracle,
): Promise<{ model: Model; report: InjectReport }> {
  const given = decidedByOwnStep(options);
  ensure(
    given === undefined,
    `'${given}' cannot be combined with the training step that the model already has: leave it out, or replace the optimizer of the step with --replace-optimizer.`,
  );
  const before = countNodes(withAlgorithm(model));
  const { work, parameters, own, description } = await runPasses(
    PIPELINES.adopt,
    contextOf(model, options, oracle),
    ['work', 'parameters', 'own', 'description'],
  );
  const bytes = sizes(
    work,
    parameters.map(p => p.value),
    own.states,
  );
  const nodes = { before, after: countNodes(work) };
  return { model: work, report: { parameters, warnings: [], nodes, bytes, description } };
}

/** `states` includes the parameters. */
function sizes({ graph }: Model, parameters: readonly Value[], states: readonly Value[]) {
  const bytes = (values: readonly Value[]) =>
    values.reduce((n, v) => n + graph.initializers.get(v)!.byteLength, 0);
  return { parameters: bytes(parameters), state: bytes(states) - bytes(parameters) };
}
