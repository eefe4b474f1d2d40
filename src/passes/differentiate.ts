/** Models that compute gradients or other derivatives instead of a training step: the entry points of `grad` and `differentiate`. */
import { reads } from '../graph/dependents.js';
import { AgdError } from '../graph/errors.js';
import type { Model, Node } from '../graph/ir.js';
import type { Provider } from '../ops/core/provider.js';
import type { TargetRange } from '../ops/losses/index.js';
import { contextOf, runPasses } from './common/context.js';
import type { DerivativeNames } from './differentiate/add-derivatives.js';
import { rangesOfTargets } from './differentiate/attach-loss.js';
import { activeValues, passesStraight } from './differentiate/backward.js';
import { isInjected } from './file/step-metadata.js';
import type { ShapeOracle } from './normalize/infer-shapes.js';
import type { DerivativeMode } from './options/derivatives.js';
import type { LeastBatch, LossSpec, SelectOptions } from './options.js';
import { PIPELINES } from './pipeline.js';
import { rounds } from './select/detect-quantization.js';

export type GradientOptions = SelectOptions & {
  /** What to differentiate: a loss, or the sum over `cotangents` of output times cotangent. */
  loss?: LossSpec;
  /** Names of the outputs that get a cotangent, fed as the input `<output>_cotangent`. */
  cotangents?: readonly string[];
  /** Globs over inputs and initializers; the parameters that would train if not given. */
  wrt?: readonly string[];
  /** Modes of a loss, as in `inject`. Vector-Jacobian products use the mode stored in the file. */
  batchNorm?: 'train' | 'eval';
  dropout?: 'train' | 'eval';
  seed?: number;
  /** The execution provider to write nodes for; cpu if not given. */
  provider?: Provider;
  /** Globs of inputs of a decoder that are computed from its tokens. */
  deriveInputs?: readonly string[];
  /** Whether rows hold several documents, told apart by the input `segment_ids`. */
  pack?: boolean;
  dumpPasses?: string;
};

export type GradientModel = {
  model: Model;
  loss?: string;
  /** The input for the loss's target, and the range of its elements. */
  target?: { name: string; range?: TargetRange };
  /** Likely mistakes in the request, one line each. */
  warnings: string[];
  /** Set if batch normalization needs more than one sample. */
  leastBatch?: LeastBatch;
  /** Name of the graph input for an output's cotangent, by output. */
  cotangents: Map<string, string>;
  /** Name of the graph output with a value's gradient, by value; null if the gradient is zero. */
  gradients: Map<string, string | null>;
};

/** A model that computes gradients: its outputs are the loss, if any, and the gradients. */
export async function gradientModel(
  model: Model,
  options: GradientOptions,
  oracle: ShapeOracle,
): Promise<GradientModel> {
  const kind = kindOf(options);
  const passes = { parameters: 'gradients', names: 'gradientsByName', outputs: 'pullback' } as const;
  const context = contextOf(model, options, oracle);
  const found = await runPasses(PIPELINES[passes[kind]], context, ['work', 'gradients']);
  const { loss, target, output } = found.loss ?? {};
  const inputs = new Map([...(found.seeds ?? [])].map(([value, e]) => [value.name, e.value.name]));
  return {
    model: found.work,
    loss: loss?.name,
    target: target && {
      name: target.name,
      range: rangesOfTargets({ ...options.loss!, target: target.name }, () => output).get(target.name),
    },
    leastBatch: found.leastBatch,
    warnings: found.warnings ?? [],
    cotangents: inputs,
    gradients: found.gradients,
  };
}

export type DerivativeOptions = {
  /** Outputs or inner values to differentiate; the only output if not given. */
  of?: readonly string[];
  /** Alternatively, a loss of an output and a target, which becomes an input. */
  loss?: LossSpec;
  /** Globs over inputs and initializers to differentiate with respect to. */
  wrt: readonly string[];
  /** `gradient` if not given; see `addDerivatives`. */
  mode?: DerivativeMode;
  straightThrough?: boolean;
  /** The execution provider to write nodes for; cpu if not given. */
  provider?: Provider;
  dumpPasses?: string;
};

export type DerivativeModel = DerivativeNames & {
  model: Model;
  /** Likely mistakes in the request, one line each. */
  warnings: string[];
};

/** Metadata key of the inputs and outputs of derivatives, as JSON. */
const DERIVATIVES_KEY = 'agd.derivatives';

/**
 * A model that computes derivatives, in the mode stored in the file: its outputs are the differentiated values and the
 * derivatives. The values of `wrt` are inputs; initializers among them become defaults.
 */
export async function derivativeModel(
  model: Model,
  { of, mode = 'gradient', ...options }: DerivativeOptions,
  oracle: ShapeOracle,
): Promise<DerivativeModel> {
  if (of && options.loss)
    throw new AgdError(
      'bad-option',
      'Differentiate values of the model or a loss: of and loss cannot be combined.',
    );
  if (isInjected(model))
    throw new AgdError(
      'bad-option',
      'The model already contains a training step: differentiate the original.',
    );
  const context = contextOf(model, { ...options, derivatives: { mode, of } }, oracle);
  const passes = options.loss ? PIPELINES.derivativesOfLoss : PIPELINES.derivatives;
  const { work, derivatives, warnings = [] } = await runPasses(passes, context, ['work', 'derivatives']);
  work.irVersion = Math.max(work.irVersion, 8);
  work.metadata.set(DERIVATIVES_KEY, JSON.stringify({ mode, ...derivatives }));
  return { model: work, ...derivatives, warnings };
}

/**
 * The function that `gradientModel` differentiates, in the model's own operators: its outputs are the loss, or the
 * outputs with cotangents, and it draws the same random numbers. `rounded` names values whose gradient passes through
 * rounding or stops there, so that finite differences do not apply. The model reads only the inputs in `fed`.
 */
export async function objectiveModel(
  model: Model,
  options: GradientOptions,
  fed: ReadonlySet<string>,
  oracle: ShapeOracle,
): Promise<{ model: Model; rounded: Set<string> }> {
  const kind = kindOf(options);
  const passes = {
    parameters: 'objective',
    names: 'objectiveByName',
    outputs: 'objectiveOfPullback',
  } as const;
  const context = contextOf(model, { ...options, fed, dumpPasses: undefined }, oracle);
  const { work, trained } = await runPasses(PIPELINES[passes[kind]], context, ['work', 'trained']);
  const stops = options.straightThrough ? passesStraight : rounds;
  const { nodes } = work.graph;
  const rounded = trained.filter(value => {
    const active = activeValues(nodes, [value], { straightThrough: true });
    return nodes.some(node => holds(node, stops) && reads(node).some(v => active.has(v)));
  });
  return { model: work, rounded: new Set(rounded.map(v => v.name)) };
}

const kindOf = ({ loss, wrt }: GradientOptions) => (!loss ? 'outputs' : wrt ? 'names' : 'parameters');

const holds = (node: Node, is: (node: Node) => boolean): boolean =>
  is(node) || node.subgraphs().some(body => body.nodes.some(inner => holds(inner, is)));
