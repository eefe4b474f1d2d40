import { isFloat } from '../../graph/dtype.js';
import { AgdError } from '../../graph/errors.js';
import type { Value } from '../../graph/ir.js';
import type { Builder } from '../../ops/core/builder.js';
import type { Expr } from '../../ops/core/expr.js';
import { range } from '../../ops/core/rule.js';
import {
  lossTerms,
  meanOf,
  mixTerms,
  type TargetRange,
  takesClasses,
  targetRange,
  targetType,
} from '../../ops/losses/index.js';
import type { LossSpec } from '../options.js';

/**
 * `mix` are the inputs of a second target, if there is one. `exposed` is an inner value that the loss reads and that
 * became an output of the graph. `constants` are the loss's own initializers, such as class weights, which do not
 * belong to the model.
 */
export type AttachedLoss = {
  loss: Value;
  output?: Value;
  target?: Value;
  mix?: MixInputs;
  exposed?: Value;
  constants?: ReadonlySet<Value>;
};

/** The second target, of the type and shape of the first, and the share of the first in each sample [batch], float32. */
export type MixInputs = { target: Value; share: Value };

type Criterion = Exclude<LossSpec, { kind: 'output' }>;

/**
 * Adds the loss to `g.graph` as an output, with the target as a new input if the kind takes one. Throws `no-such-value`
 * for an unknown output, `bad-option` if there are several outputs to choose from, `bad-dtype` or `bad-shape` if the
 * output does not fit the loss.
 */
export function attachLoss(g: Builder, spec: LossSpec): AttachedLoss {
  const output = pick(g, spec);
  if (spec.kind === 'output') {
    const target = g.graph.inputs.find(v => v.name === spec.target);
    if (spec.target !== undefined && !target)
      throw new AgdError(
        'no-such-value',
        `The model has no input '${spec.target}' that could be the target.`,
      );
    return { loss: addOutput(g, scalar(output)), output: output.value, target };
  }
  const exposed = expose(g, output);
  const target = addTarget(g, spec, output);
  const before = new Set(g.graph.initializers.keys());
  const terms = lossTerms(spec.kind, output, target, spec);
  const mix = spec.mixTargets ? addMixInputs(g, spec, target) : undefined;
  const loss = meanOf(
    mix ? mixTerms(terms, lossTerms(spec.kind, output, g.of(mix.target), spec), g.of(mix.share)) : terms,
  );
  const constants = new Set([...g.graph.initializers.keys()].filter(v => !before.has(v)));
  return { loss: addOutput(g, loss), output: output.value, target: target.value, mix, exposed, constants };
}

/**
 * Outputs with one number per sample: the sum of its losses, and of their weights, if not 1 for each target; and what
 * the loss reads.
 */
export type AttachedSampleLosses = { losses: Value; weights?: Value; output: Value; target: Value };

/**
 * The same for evaluation: instead of the mean, sums over each sample [batch], at least in float32, from which the mean
 * over any set of samples can be computed exactly.
 */
export function attachSampleLosses(g: Builder, spec: Criterion): AttachedSampleLosses {
  const output = pick(g, spec);
  expose(g, output);
  const target = addTarget(g, spec, output);
  const { loss, weight } = lossTerms(spec.kind, output, target, spec);
  const perSample = (x: Expr) => {
    const wide = x.cast(x.dtype === 'float64' ? 'float64' : 'float32');
    return x.rank ? wide.sum(range(1, x.rank)) : wide.reshape([1]);
  };
  return {
    losses: addOutput(g, perSample(loss), 'sample_losses'),
    weights: weight && addOutput(g, perSample(weight), 'sample_weights'),
    output: output.value,
    target: target.value,
  };
}

function addTarget(g: Builder, spec: Criterion, output: Expr): Expr {
  const name = spec.target ?? 'target';
  if (g.graph.inputs.some(v => v.name === name))
    throw new AgdError(
      'bad-option',
      `The model already has an input '${name}': give the target another name with --target.`,
    );
  const target = g.newValue(name, { kind: 'tensor', ...targetType(spec.kind, output, spec) });
  g.graph.inputs.push(target);
  return g.of(target);
}

function addMixInputs(g: Builder, { kind }: Criterion, { value }: Expr): MixInputs {
  if (!takesClasses(kind))
    throw new AgdError(
      'bad-option',
      `--mix-targets is for losses of classes, and ${kind} takes values: those are mixed themselves.`,
    );
  const target = g.newValue(`${value.name}_mixed`, value.type!);
  const share = g.newValue(`${value.name}_share`, {
    kind: 'tensor',
    dtype: 'float32',
    shape: value.shape!.slice(0, 1),
  });
  g.graph.inputs.push(target, share);
  return { target, share };
}

/** Makes an inner value an output, so that its shape is visible to readers of the file. */
function expose(g: Builder, { value }: Expr): Value | undefined {
  if (g.graph.outputs.includes(value)) return undefined;
  g.graph.addOutputs(value);
  return value;
}

/** The output, or inner value, that the loss reads. */
function pick(g: Builder, spec: LossSpec): Expr {
  const output = choose(g, spec);
  if (isFloat(output.value.dtype)) return output;
  throw new AgdError(
    'bad-dtype',
    `Output '${output.value.name}' is ${output.value.dtype ?? 'not a tensor'}; a loss needs floating-point numbers.`,
  );
}

function choose(g: Builder, spec: LossSpec): Expr {
  const { outputs, nodes } = g.graph;
  const names = outputs.map(v => `'${v.name}'`).join(', ');
  if (spec.output !== undefined) {
    const inner = nodes.flatMap(node => node.outputs);
    const named = [...outputs, ...inner].find(v => v?.name === spec.output);
    if (!named)
      throw new AgdError(
        'no-such-value',
        `The model has no output or inner value '${spec.output}'; its outputs are ${names}.`,
      );
    return g.of(named);
  }
  const fitting = outputs.filter(v => isFloat(v.dtype));
  if (fitting.length === 1) return g.of(fitting[0]!);
  if (!fitting.length)
    throw new AgdError(
      'bad-dtype',
      `The model has no floating-point output to compute a loss from: ${names}.`,
    );
  const choice = fitting.map(v => `'${v.name}' [${v.shape ?? '?'}]`).join(', ');
  throw new AgdError(
    'bad-option',
    `The model has several outputs: choose with --output the one that the loss reads, ${choice}.`,
  );
}

function scalar(x: Expr): Expr {
  const size = x.staticShape?.reduce((n, d) => n * d, 1);
  if (size !== 1) {
    const shape = `[${x.shape ?? '?'}]`;
    throw new AgdError(
      'bad-shape',
      `Output '${x.value.name}' of shape ${shape} is not a loss: a loss is a single number.`,
    );
  }
  return x.rank === 0 ? x : x.reshape([]);
}

/** Makes the loss an output with this name, or a similar one if it is taken. */
function addOutput(g: Builder, loss: Expr, name = 'loss'): Value {
  if (g.graph.outputs.includes(loss.value)) return loss.value;
  const out = g.newValue(name, loss.type);
  g.identity(loss.value, out);
  g.graph.addOutputs(out);
  return out;
}

/** The range of the target's elements for a loss of this output; undefined if not known. */
export function rangeOfTarget(spec: LossSpec, output: Value): TargetRange | undefined {
  return spec.kind === 'output' ? undefined : targetRange(spec.kind, output.shape, spec);
}
