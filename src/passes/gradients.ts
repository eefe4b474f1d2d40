import picomatch from 'picomatch';
import { isFloat } from '../graph/dtype.js';
import { AgdError } from '../graph/errors.js';
import type { Model, Value } from '../graph/ir.js';
import type { Builder } from '../ops/core/builder.js';
import type { Expr } from '../ops/core/expr.js';
import type { TargetRange } from '../ops/criterion.js';
import { attachLoss, rangeOfTarget } from './attach-loss.js';
import { output } from './attach-optimizer.js';
import { backward } from './backward.js';
import { checkLoss } from './check-loss.js';
import { drawRandom, numberBatches } from './draw-random.js';
import { dropUnreadInputs, eliminateDeadNodes } from './eliminate-dead-nodes.js';
import type { ShapeOracle } from './infer-shapes.js';
import { normalize } from './inject.js';
import type { LossSpec, SelectOptions } from './options.js';
import { selectParameters } from './select-parameters.js';
import type { Origins } from './tell-origins.js';
import { refuseRounded } from './tell-quantized.js';
import { type LeastBatch, leastBatchOf, lowerBatchNorm, trainBatchNorm } from './train-batch-norm.js';
import { trainDropout } from './train-dropout.js';

export type GradientOptions = SelectOptions & {
  /** What is differentiated: a loss, or the sum over `cotangents` of output times cotangent. */
  loss?: LossSpec;
  /** Names of the outputs that get a cotangent each, fed as the input `<output>_cotangent`. */
  cotangents?: readonly string[];
  /** Globs over inputs and initializers; the parameters that would train where not given. */
  wrt?: readonly string[];
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
  const { work, g, origins } = await normalize(model, oracle);
  const attached = options.loss && attachLoss(g, options.loss);
  const { loss, target, output: read } = attached ?? {};
  const seeds = loss ? new Map([[loss, g.of(loss).ones()]]) : cotangentInputs(g, options.cotangents ?? []);
  const warnings = options.loss && read ? checkLoss(g.graph, options.loss, read) : [];
  const wrt = chooseWrt(g, options, loss, origins, attached?.constants);
  g.forget(wrt);
  const least = loss && options.batchNorm === 'train' ? leastBatchOf(g) : undefined;
  if (loss) {
    trainBatchNorm(g, options.batchNorm ?? 'eval');
    trainDropout(g, options.dropout ?? 'eval');
  }
  numberBatches(g, drawRandom(g, options.seed ?? 0), () => g.scalar(0, 'int64'));
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
    leastBatch: least,
    warnings,
    cotangents: loss ? new Map() : cotangents,
    gradients,
  };
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
