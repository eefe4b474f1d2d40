/** Adds a loss to a graph, for training or sample by sample for evaluation. */
import { isFloat } from '../../graph/dtype.js';
import { AgdError } from '../../graph/errors.js';
import { type Dim, type Shape, showShape, type Value, type ValueType } from '../../graph/ir.js';
import type { Builder } from '../../ops/core/builder.js';
import type { Expr } from '../../ops/core/expr.js';
import { range } from '../../ops/core/rule.js';
import {
  classAxisIn,
  type LossTerms,
  lossNamed,
  lossTerms,
  maskShape,
  meanOf,
  mixTerms,
  type NamedValues,
  type TargetRange,
  takesClasses,
  targetRange,
  targetType,
} from '../../ops/losses/index.js';
import { isAttached } from '../normalize/attached.js';
import type { LossSpec, LossTerm } from '../options.js';

/**
 * `mix` are the inputs of a second target, if there is one. `exposed` are inner values that the loss reads and that
 * became outputs of the graph. `constants` are the loss's own initializers, such as class weights, which do not
 * belong to the model. For a sum, output and target are those of its first loss.
 */
export type AttachedLoss = {
  loss: Value;
  output?: Value;
  target?: Value;
  mix?: MixInputs;
  exposed?: readonly Value[];
  constants?: ReadonlySet<Value>;
  /** The losses of a sum before their means, with their factors; undefined if the model computes its loss itself. */
  terms?: readonly (LossTerms & { factor: number })[];
  /** The losses of a sum that count different positions, if gradients of parts of a batch are to add exactly. */
  parts?: readonly LossPart[];
};

/** The losses of a sum whose means are over the same positions: their sum, and what it weighs, as of `batchWeight`. */
export type LossPart = { loss: Expr; weight: Expr };

/** The second target, of the type and shape of the first, and the share of the first in each sample [batch], float32. */
export type MixInputs = { target: Value; share: Value };

type Criterion = Exclude<LossSpec, { kind: 'output' }>;

/**
 * Adds the loss to `g.graph` as an output, with the targets as new inputs if the kinds take them. Throws `no-such-value`
 * for an unknown output, `bad-option` if there are several outputs to choose from, `bad-dtype` or `bad-shape` if the
 * output does not fit the loss. `emptyIsZero` is that of `meanOf`; `inParts` asks for `parts`.
 */
export function attachLoss(
  g: Builder,
  spec: LossSpec,
  { emptyIsZero = false, inParts = false } = {},
): AttachedLoss {
  if (spec.kind === 'output') {
    const output = pick(g, spec);
    const target = g.graph.inputs.find(v => v.name === spec.target);
    if (spec.target !== undefined && !target)
      throw new AgdError(
        'no-such-value',
        `The model has no input '${spec.target}' that could be the target.`,
      );
    return { loss: addOutput(g, scalar(output)), output: output.value, target };
  }
  const operands = readOperands(g, spec);
  const before = new Set(g.graph.initializers.keys());
  const [first] = operands;
  const mix = spec.mixTargets ? addMixInputs(g, spec, first!.target) : undefined;
  const means = operands.map((operand, i) => {
    const { term, output, target, values } = operand;
    const of = (t: Expr) => lossTerms(term.kind, output, fitted(t, operand), term, values);
    const terms = of(target);
    const mixed = mix && i === 0 ? mixTerms(terms, of(g.of(mix.target)), g.of(mix.share)) : terms;
    return { mean: meanOf(mixed, emptyIsZero), weight: term.weight ?? 1, terms: mixed };
  });
  const keys = means.map((m, i) => countedBy(operands[i]!.term, m.terms));
  const groups = [...new Set(keys)].map(key => means.filter((_, i) => keys[i] === key));
  const parts =
    inParts && groups.length > 1
      ? groups.map(group => ({ loss: weightedSum(group), weight: weightOf(group[0]!.terms) }))
      : undefined;
  const loss = parts
    ? parts.map(p => p.loss).reduce((sum, part) => sum.add(part.cast(sum.dtype)))
    : weightedSum(means);
  const terms = means.map(m => ({ ...m.terms, factor: m.weight }));
  const constants = new Set([...g.graph.initializers.keys()].filter(v => !before.has(v)));
  const exposed = operands.flatMap(o => o.exposed ?? []);
  const target = first!.isInput ? first!.target.value : undefined;
  return {
    loss: addOutput(g, loss),
    output: first!.output.value,
    target,
    mix,
    exposed,
    constants,
    terms,
    parts,
  };
}

function weightedSum(terms: readonly { mean: Expr; weight: number }[]): Expr {
  const { dtype } = terms[0]!.mean;
  return terms
    .map(({ mean, weight }) => (weight === 1 ? mean : mean.mul(weight)).cast(dtype))
    .reduce((sum, term) => sum.add(term));
}

/**
 * What a batch weighs in the mean over several: the sum of the weights of its loss, or the number of positions. Undefined if all
 * batches weigh the same, or if the losses of a sum count different positions: each of the `parts` has a weight of its own.
 */
export function batchWeight({ terms, parts }: AttachedLoss): Expr | undefined {
  if (!terms || parts) return undefined;
  const { loss, weight } = terms[0]!;
  return weight || (loss.shape && !loss.staticShape) ? weightOf(terms[0]!) : undefined;
}

/** What the mean of a batch is divided by. */
export function weightOf({ loss, weight }: LossTerms): Expr {
  const dtype = loss.dtype === 'float64' ? 'float64' : 'float32';
  if (weight) return weight.cast(dtype).sum();
  return loss.shape ? loss.count(dtype) : loss.op('Size').cast(dtype);
}

/** Equal for losses whose weights are proportional to each other in all batches. */
function countedBy(term: LossTerm, { loss }: LossTerms): string {
  const { mask, ignoreIndex, classWeights, target, mixTargets } = term;
  const open = loss.shape?.filter(d => typeof d !== 'number');
  const classes =
    ignoreIndex === undefined && !classWeights ? [] : [target, ignoreIndex, classWeights, mixTargets];
  return JSON.stringify([mask, open, ...classes]);
}

/** Outputs with one number per sample: the sum of its losses, and the sum of their weights unless each is 1. */
export type SampleLosses = {
  losses: Value;
  weights?: Value;
  /** The factor of the mean in the sum of losses. */
  factor: number;
  /** The loss of a sample depends on the other samples of the batch. */
  acrossBatch: boolean;
};

/** Those of each loss of a sum; output and target, if it is an input, of the first one. */
export type AttachedSampleLosses = { terms: SampleLosses[]; output: Value; target?: Value };

/**
 * The same for evaluation: instead of the mean, sums over each sample [batch], at least in float32, from which the mean
 * over any set of samples can be computed exactly.
 */
export function attachSampleLosses(g: Builder, spec: Criterion): AttachedSampleLosses {
  const operands = readOperands(g, spec);
  const perSample = (x: Expr) => {
    const wide = x.cast(x.dtype === 'float64' ? 'float64' : 'float32');
    return x.rank ? wide.sum(range(1, x.rank)) : wide.reshape([1]);
  };
  const terms = operands.map((operand, i): SampleLosses => {
    const { term, output, target, values, isInput } = operand;
    const { loss, weight } = lossTerms(term.kind, output, fitted(target, operand), term, values);
    // Else each element of the first target weighs 1.
    const isCounted = i > 0 || !isInput || loss.rank !== target.rank;
    const weights = weight ?? (isCounted ? loss.ones() : undefined);
    return {
      losses: addOutput(g, perSample(loss), 'sample_losses'),
      weights: weights && addOutput(g, perSample(weights), 'sample_weights'),
      factor: term.weight ?? 1,
      acrossBatch: lossNamed(term.kind).acrossBatch ?? false,
    };
  });
  const { output, target, isInput } = operands[0]!;
  return { terms, output: output.value, target: isInput ? target.value : undefined };
}

/** What a loss of a sum reads. */
type Operands = {
  term: LossTerm;
  output: Expr;
  target: Expr;
  isInput: boolean;
  /** How many extents of the target are neither numbers nor those of an input of the model: no caller can check them. */
  open: number;
  values: NamedValues;
  exposed?: Value;
};

function readOperands(g: Builder, spec: Criterion): Operands[] {
  const { plus = [], ...first } = spec;
  const added = new Set<Value>();
  return [first, ...plus].map(term => {
    const output = pick(g, term);
    const exposed = expose(g, output);
    const { target, isInput } = targetOf(g, term, output, added);
    const isTold = (d: Dim) =>
      typeof d === 'number' || g.graph.inputs.some(v => d !== null && !added.has(v) && v.shape?.includes(d));
    const open = isInput ? (target.shape?.filter(d => !isTold(d)).length ?? 1) : 0;
    return { term, output, target, isInput, open, values: namedValues(g, term, output, added), exposed };
  });
}

/** How the node is named that fails; `targetMisfit` of session.ts finds it in the runtime's error. */
const FITS = '_fits_output';

/**
 * The target, of which a step fails if it does not have one element for each position of the output. Else operators would
 * read a part of it, or repeat it. Where two extents are open, as those of images that are resized, they may lie in another
 * order: then a step also fails if the axes that are not of length 1 differ, which Expand compares.
 */
function fitted(target: Expr, { term, output, open }: Operands): Expr {
  if (!open || lossNamed(term.kind).isSequence) return target;
  const { g, dtype, shape } = target;
  const emit = (op: string, inputs: Expr[], shape?: Shape) =>
    g.emit(op, inputs, {}, { types: [{ kind: 'tensor', dtype, shape }] })[0]!;
  const named = (x: Expr) => {
    g.writer(x.value)!.name ||= g.scope.names.fresh(`${target.value.name}${FITS}`);
    return x;
  };
  const axes = range(0, output.rank).filter(i => !takesClasses(term.kind) || i !== classAxisIn(output, term));
  const extents = output.dims().gather(g.ints(axes));
  const same = named(emit('Reshape', [target, extents], shape));
  if (open === 1) return same;
  const wanted = emit('Squeeze', [same]).dims();
  return emit('Reshape', [named(emit('Expand', [emit('Squeeze', [target]), wanted])), extents], shape);
}

/**
 * A value of the model, where the name is that of an output or an inner value, or of an input that another loss of the
 * sum reads; else a new input.
 */
function targetOf(
  g: Builder,
  term: LossTerm,
  output: Expr,
  added: Set<Value>,
): { target: Expr; isInput: boolean } {
  const { target: takes } = lossNamed(term.kind);
  if (takes === 'none') return { target: output, isInput: false };
  if (takes === 'output') {
    if (term.target === undefined)
      throw new AgdError(
        'bad-option',
        `${term.kind} compares outputs: name them, --loss '${term.kind}(${output.value.name}, OTHER)'.`,
      );
    return { target: pick(g, { ...term, output: term.target }), isInput: false };
  }
  const name = term.target ?? 'target';
  const type = targetType(term.kind, output, term);
  const known = g.graph.inputs.find(v => v.name === name);
  if (known && !added.has(known))
    throw new AgdError(
      'bad-option',
      `The model already has an input '${name}': give the target another name with --target.`,
    );
  const made = term.target === undefined ? undefined : (known ?? computed(g, name));
  if (!made) return { target: addInput(g, name, { kind: 'tensor', ...type }, added), isInput: true };
  const isOther = (d: Dim, i: number) => {
    const want = type.shape[i];
    return typeof d === 'number' && typeof want === 'number' && d !== want;
  };
  // The numbers of a teacher may be of another precision.
  const fits = made.dtype === type.dtype || (!known && isFloat(made.dtype) && isFloat(type.dtype));
  if (!fits || made.shape?.length !== type.shape.length || made.shape.some(isOther))
    throw new AgdError(
      'bad-shape',
      `'${name}' is ${made.dtype} ${showShape(made.shape)}, and ${term.kind} of '${output.value.name}' needs a target of ${type.dtype} ${showShape(type.shape)}.${isAttached(name) ? ' Training projects values to the width of the teacher if only their last axis differs, or axis 1 of [batch, channels, ...], and the loss is mse, l1, huber or cosine.' : ''}`,
    );
  return { target: g.of(made).cast(type.dtype), isInput: !!known };
}

function namedValues(g: Builder, term: LossTerm, output: Expr, added: Set<Value>): NamedValues {
  const values: NamedValues = {};
  const named = (name: string) => g.graph.inputs.find(v => v.name === name) ?? computed(g, name);
  const read = (name: string, shape: Shape) => {
    const known = named(name);
    return known ? g.of(known) : addInput(g, name, { kind: 'tensor', dtype: 'int64', shape }, added);
  };
  const { mask, lengths, negative } = term;
  if (mask !== undefined) values.mask = read(mask, maskShape(term.kind, output, term));
  if (lengths !== undefined) values.lengths = read(lengths, output.shape!.slice(0, 1));
  if (negative !== undefined) values.negative = pick(g, { ...term, output: negative });
  return values;
}

function addInput(g: Builder, name: string, type: ValueType, added: Set<Value>): Expr {
  const value = g.newValue(name, type);
  g.graph.inputs.push(value);
  added.add(value);
  return g.of(value);
}

const computed = ({ graph }: Builder, name: string): Value | undefined =>
  graph.nodes.flatMap(node => node.outputs).find(v => v?.name === name) ?? undefined;

function addMixInputs(g: Builder, { kind }: Criterion, { value }: Expr): MixInputs {
  if (!takesClasses(kind))
    throw new AgdError(
      'bad-option',
      `--mix-targets is for losses over classes; ${kind} takes values, which are mixed directly.`,
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
  const fitting = outputs.filter(v => isFloat(v.dtype) && !isAttached(v.name));
  if (fitting.length === 1) return g.of(fitting[0]!);
  if (!fitting.length)
    throw new AgdError(
      'bad-dtype',
      `The model has no floating-point output to compute a loss from: ${names}. Name an inner value with --output.`,
    );
  const choice = fitting.map(v => `'${v.name}' ${showShape(v.shape)}`).join(', ');
  throw new AgdError(
    'bad-option',
    `The model has several outputs: choose with --output the one that the loss reads, ${choice}.`,
  );
}

function scalar(x: Expr): Expr {
  const size = x.staticShape?.reduce((n, d) => n * d, 1);
  if (size !== 1) {
    throw new AgdError(
      'bad-shape',
      `Output '${x.value.name}' of shape ${showShape(x.shape)} is not a loss: a loss is a single number.`,
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

/** The range of the elements of each target that is known, by name; `valueNamed` finds the outputs. */
export function rangesOfTargets(
  spec: LossSpec,
  valueNamed: (name: string) => Value | undefined,
): Map<string, TargetRange> {
  const ranges = new Map<string, TargetRange>();
  if (spec.kind === 'output') return ranges;
  for (const term of [spec, ...(spec.plus ?? [])]) {
    const output = valueNamed(term.output ?? '');
    const range = output && targetRange(term.kind, output.shape, term);
    if (range) ranges.set(term.target ?? 'target', range);
  }
  return ranges;
}
