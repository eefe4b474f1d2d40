import { reads } from '../graph/dependents.js';
import type { Model, Node } from '../graph/ir.js';
import type { TargetRange } from '../ops/losses/index.js';
import { contextOf, runPasses } from './common/context.js';
import { rangeOfTarget } from './differentiate/attach-loss.js';
import { activeValues, passesStraight } from './differentiate/backward.js';
import type { ShapeOracle } from './normalize/infer-shapes.js';
import type { LeastBatch, LossSpec, SelectOptions } from './options.js';
import { PIPELINES } from './pipeline.js';
import { rounds } from './select/detect-quantization.js';

export type GradientOptions = SelectOptions & {
  /** What is differentiated: a loss, or the sum over `cotangents` of output times cotangent. */
  loss?: LossSpec;
  /** Names of the outputs that get a cotangent each, fed as the input `<output>_cotangent`. */
  cotangents?: readonly string[];
  /** Globs over inputs and initializers; the parameters that would train where not given. */
  wrt?: readonly string[];
  /** Of a loss, as `inject` takes it; vector-Jacobian products are of the model in the mode that its file is in. */
  batchNorm?: 'train' | 'eval';
  dropout?: 'train' | 'eval';
  seed?: number;
  dumpPasses?: string;
};

export type GradientModel = {
  model: Model;
  loss?: string;
  /** The input that takes the loss's target, and what its elements may be. */
  target?: { name: string; range?: TargetRange };
  /** What is likely not meant as it was asked for, a line each. */
  warnings: string[];
  /** Where batch normalization needs more than one sample. */
  leastBatch?: LeastBatch;
  /** Name of the graph input that takes an output's cotangent, by output. */
  cotangents: Map<string, string>;
  /** Name of the graph output that holds a value's gradient, by value; null where the gradient is zero. */
  gradients: Map<string, string | null>;
};

/** A model that computes gradients: its outputs are the loss, if there is one, and the gradients. */
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
    target: target && { name: target.name, range: rangeOfTarget(options.loss!, output!) },
    leastBatch: found.leastBatch,
    warnings: found.warnings ?? [],
    cotangents: inputs,
    gradients: found.gradients,
  };
}

/**
 * What `gradientModel` differentiates, in the model's own operators: the outputs are the loss, or those that have
 * cotangents; what random nodes draw is the same. `rounded` names what is differentiated by through rounding, which the
 * gradient passes as if it were not there, or stops at. Of the inputs, only those in `fed` are read.
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
