import picomatch from 'picomatch';
import { reads } from '../graph/dependents.js';
import { isFloat } from '../graph/dtype.js';
import { AgdError } from '../graph/errors.js';
import type { Model, Node, Value } from '../graph/ir.js';
import { neededInputs } from '../graph/prune.js';
import type { Builder } from '../ops/core/builder.js';
import type { Expr } from '../ops/core/expr.js';
import type { TargetRange } from '../ops/criterion.js';
import { type AttachedLoss, attachLoss, rangeOfTarget } from './attach-loss.js';
import { output } from './attach-optimizer.js';
import { activeValues, backward, passesStraight } from './backward.js';
import { checkLoss } from './check-loss.js';
import { computeInFloat } from './compute-in-float.js';
import { drawRandom, numberBatches } from './draw-random.js';
import { dropUnreadInputs, eliminateDeadNodes } from './eliminate-dead-nodes.js';
import { expandNodes } from './expand-nodes.js';
import type { ShapeOracle } from './infer-shapes.js';
import { normalize } from './inject.js';
import type { LossSpec, SelectOptions } from './options.js';
import { selectParameters } from './select-parameters.js';
import type { Origins } from './tell-origins.js';
import { refuseRounded, rounds } from './tell-quantized.js';
import { type LeastBatch, leastBatchOf, lowerBatchNorm, trainBatchNorm } from './train-batch-norm.js';
import { trainDropout } from './train-dropout.js';

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
  const { work, g, attached, seeds, wrt, leastBatch, warnings } = await prepare(model, options, oracle);
  const { loss, target, output: read } = attached ?? {};
  const results = backward(g, seeds, wrt, options);
  lowerBatchNorm(g);
  g.graph.outputs = loss ? [loss] : [];
  const gradients = new Map(
    wrt.map((value, i) => [value.name, results[i] ? output(g, results[i], `${value.name}_grad`).name : null]),
  );
  eliminateDeadNodes(work);
  dropUnreadInputs(work);
  const cotangents = new Map([...seeds].map(([value, e]) => [value.name, e.value.name]));
  return {
    model: work,
    loss: loss?.name,
    target: target && { name: target.name, range: rangeOfTarget(options.loss!, read!) },
    leastBatch,
    warnings,
    cotangents: loss ? new Map() : cotangents,
    gradients,
  };
}

/**
 * What `gradientModel` differentiates, in the model's own operators: the outputs are the loss, or those that have
 * cotangents; what random nodes draw is the same. `rounded` names what is differentiated by through rounding, which the
 * gradient passes as if it were not there, or stops at. Of the inputs, only those in `given` are read.
 */
export async function objectiveModel(
  model: Model,
  options: GradientOptions,
  given: ReadonlySet<string>,
  oracle: ShapeOracle,
): Promise<{ model: Model; rounded: Set<string> }> {
  const { work, g, attached, seeds, wrt } = await prepare(model, options, oracle);
  lowerBatchNorm(g);
  g.graph.outputs = [...seeds.keys()];
  // A kernel may read what its gradient does not, such as the lengths of sequences.
  const needed = neededInputs(g.graph, g.graph.outputs).filter(v => v !== attached?.target);
  if (needed.some(v => !given.has(v.name))) expandNodes(g, activeValues(g.graph.nodes, wrt));
  eliminateDeadNodes(work);
  dropUnreadInputs(work);
  const stops = options.straightThrough ? passesStraight : rounds;
  const { nodes } = g.graph;
  const rounded = wrt.filter(value => {
    const active = activeValues(nodes, [value], { straightThrough: true });
    return nodes.some(node => holds(node, stops) && reads(node).some(v => active.has(v)));
  });
  return { model: work, rounded: new Set(rounded.map(v => v.name)) };
}

const holds = (node: Node, is: (node: Node) => boolean): boolean =>
  is(node) || node.subgraphs().some(body => body.nodes.some(inner => holds(inner, is)));

type Prepared = {
  work: Model;
  g: Builder;
  attached?: AttachedLoss;
  seeds: ReadonlyMap<Value, Expr>;
  wrt: Value[];
  leastBatch?: LeastBatch;
  warnings: string[];
};

/** The model with its loss, in the mode asked for, and what is to be differentiated by what. */
async function prepare(model: Model, options: GradientOptions, oracle: ShapeOracle): Promise<Prepared> {
  const { work, g, origins } = await normalize(model, oracle);
  const { batchNorm = 'train', dropout = 'train', seed = 0 } = options;
  const attached = options.loss && attachLoss(g, options.loss);
  const { loss, output: read } = attached ?? {};
  const seeds = loss ? new Map([[loss, g.of(loss).ones()]]) : cotangentInputs(g, options.cotangents ?? []);
  const warnings = options.loss && read ? checkLoss(g.graph, options.loss, read) : [];
  const wrt = chooseWrt(g, options, loss, origins, attached?.constants);
  g.forget(wrt);
  const leastBatch = loss && batchNorm === 'train' ? leastBatchOf(g) : undefined;
  if (loss) {
    trainBatchNorm(g, batchNorm);
    trainDropout(g, dropout);
  }
  numberBatches(g, drawRandom(g, seed), () => g.scalar(0, 'int64'));
  computeInFloat(g.graph, wrt);
  return { work, g, attached, seeds, wrt, leastBatch, warnings };
}

function cotangentInputs(g: Builder, names: readonly string[]): Map<Value, Expr> {
  if (!names.length)
    throw new AgdError('bad-option', 'Nothing to differentiate: give a loss or cotangents of outputs.');
  return new Map(
    names.map(name => {
      const y = g.graph.outputs.find(v => v.name === name);
      if (!y) {
        const known = g.graph.outputs.map(v => `'${v.name}'`).join(', ');
        throw new AgdError('no-such-value', `The model has no output '${name}'; its outputs are ${known}.`);
      }
      if (!isFloat(y.dtype))
        throw new AgdError(
          'bad-dtype',
          `Output '${name}' is ${y.dtype ?? 'not a tensor'}: it has no cotangent.`,
        );
      const input = g.newValue(`${name}_cotangent`, y.type);
      g.graph.inputs.push(input);
      return [y, g.of(input)];
    }),
  );
}

function chooseWrt(
  g: Builder,
  options: GradientOptions,
  loss: Value | undefined,
  origins: Origins,
  constants: ReadonlySet<Value> = new Set(),
): Value[] {
  const { graph } = g;
  const floating = [...new Set([...graph.inputs, ...graph.initializers.keys()])].filter(
    v => isFloat(v.dtype) && !constants.has(v),
  );
  if (!options.wrt) {
    if (!loss) throw new AgdError('bad-option', 'Say with --wrt what to differentiate with respect to.');
    const choices = selectParameters(graph, [loss], origins, options, constants);
    refuseRounded(graph, choices, options);
    return choices.flatMap(p => (p.trains ? [p.value] : []));
  }
  return options.wrt.flatMap(glob => {
    const matches = picomatch(glob, { bash: true, dot: true });
    const found = floating.filter(v => v.name === glob || matches(v.name));
    if (!found.length) {
      const names = floating
        .map(v => `'${v.name}'`)
        .slice(0, 8)
        .join(', ');
      throw new AgdError(
        'no-such-value',
        `--wrt '${glob}' matches no floating-point input or initializer, such as ${names}.`,
      );
    }
    return found;
  });
}
