/** Training steps in ModelProto.training_info: an algorithm in addition to the inference graph. */
import { isFloat } from '../../graph/dtype.js';
import { AgdError } from '../../graph/errors.js';
import type { Binding, Graph, Model, Node, Value } from '../../graph/ir.js';
import { encodeModel } from '../../graph/proto/codec.js';
import { dependencies } from '../../graph/prune.js';
import { Tensor } from '../../graph/tensor.js';
import type { Builder } from '../../ops/core/builder.js';
import type { Facts, With } from '../common/context.js';
import { attachLoss } from '../differentiate/attach-loss.js';
import type { TrainingDescription } from '../file/description.js';
import { writeDescription } from '../file/step-metadata.js';
import { withValues } from '../normalize/with-values.js';
import type { InjectOptions } from '../options.js';
import { output, stateInput } from '../update/transition.js';
import type { TrainingOperators } from './lower-training-operators.js';
import { withAlgorithm } from './own-step.js';

type Found<F extends keyof Facts> = Pick<Facts, F>;

/**
 * A copy of the model whose graph is its training step, with the state that the step updates. Throws `invalid-model`
 * if that is not in the graph.
 */
export function readAlgorithm(model: Model, { values: given }: InjectOptions): Found<'work' | 'bindings'> {
  const step = withAlgorithm(model);
  const work = given ? withValues(step, given) : step;
  const { graph, trainingInfo } = work;
  const bindings = trainingInfo.flatMap(info => info.updates);
  const stored = new Map([...graph.initializers.keys()].map(v => [v.name, v]));
  const values = new Set([...graph.inputs, ...stored.values(), ...writtenBy(graph)].map(v => v.name));
  for (const { state, value } of bindings) {
    if (!stored.has(state))
      throw new AgdError('invalid-model', `training_info updates '${state}', which is not an initializer.`);
    if (!values.has(value))
      throw new AgdError(
        'invalid-model',
        `training_info updates '${state}' with '${value}', which nothing computes.`,
      );
  }
  return { work, bindings };
}

/** The loss output: the one named, or else the only one with a single floating-point element that updates nothing. */
function lossName(graph: Graph, updates: readonly Binding[], { loss }: InjectOptions): string {
  if (loss?.kind === 'output') return loss.output;
  const next = new Set(updates.map(u => u.value));
  const scalars = graph.outputs.filter(
    v => !next.has(v.name) && isFloat(v.dtype) && v.shape?.every(d => d === 1),
  );
  if (scalars.length === 1) return scalars[0]!.name;
  const names = graph.outputs.map(v => `'${v.name}'`).join(', ');
  throw new AgdError(
    'bad-option',
    `Which output is the loss? The step has ${names}: name one with --loss-output.`,
  );
}

const writtenBy = ({ nodes }: Graph): Value[] => nodes.flatMap(n => n.outputs.flatMap(v => v ?? []));

/**
 * The step without its optimizer, as a model with gradients: those that the optimizer operators read, or else all
 * those that Gradient computes for parameters. Updates of other state stay if the loss needs them.
 */
export function withoutOptimizer({
  source,
  options,
  work,
  operators,
  bindings: updates,
}: With<'work' | 'operators' | 'bindings'>): { model: Model; options: InjectOptions } {
  const { graph } = work;
  const loss = lossName(graph, updates, options);
  const states = new Set(updates.map(u => u.state));
  const taken = operators.optimizers.flatMap(o => o.parameters.map((p, i) => [p, o.gradients[i]!] as const));
  const pairs = (taken.length ? taken : [...operators.gradients]).filter(([p]) => graph.initializers.has(p));
  if (!pairs.length)
    throw new AgdError(
      'nothing-to-train',
      'The step trains no parameter: it has neither a Gradient nor an optimizer operator of one. Start from the model without training_info.',
    );
  const params = new Set(pairs.map(([p]) => p.name));
  const next = new Set(updates.map(u => u.value));
  graph.outputs = graph.outputs.filter(v => !next.has(v.name));
  const kin = dependencies(graph, [...graph.outputs, ...pairs.map(([, grad]) => grad)]);
  const needed = new Set([...kin].map(v => v.name));
  const kept = updates.filter(u => states.has(u.state) && !params.has(u.state) && needed.has(u.state));
  work.trainingInfo = [{ updates: kept, initializations: [], extra: undefined }];
  return {
    model: work,
    options: {
      ...options,
      loss: { kind: 'output', output: loss },
      gradients: pairs.map(([p, grad]) => `${p.name}=${grad.name}`),
      exports: [],
      values: undefined,
      original: options.original ?? encodeModel(source),
    },
  };
}

/**
 * The step with its own optimizer in standard operators, in the form that `inject` writes: state as inputs and
 * outputs.
 */
export function adoptStep(
  context: With<'work' | 'g' | 'operators' | 'bindings'>,
): Found<'spec' | 'loss' | 'own' | 'bindings' | 'batchNumber'> {
  const { options, work, g, operators, bindings: updates } = context;
  const { graph } = work;
  const loss = lossName(graph, updates, options);
  const stored = new Map([...graph.initializers.keys()].map(v => [v.name, v]));
  const states = updates.map(u => stored.get(u.state)!);
  for (const state of states) if (!graph.inputs.includes(state)) graph.inputs.push(state);
  const values = new Map(
    [...graph.inputs, ...graph.initializers.keys(), ...writtenBy(graph)].map(v => [v.name, v]),
  );
  const bound = new Set<Value>();
  const all = updates.map(({ state, value }, i): Binding => {
    let next = values.get(value)!;
    if (bound.has(next) || !writtenBy(graph).includes(next))
      next = output(g, g.of(next).op('Identity'), `${state}_new`);
    else if (!graph.outputs.includes(next)) graph.addOutputs(next);
    bound.add(next);
    next.type = states[i]!.type;
    return { state, value: next.name };
  });
  const spec = { kind: 'output' as const, output: loss, target: options.loss?.target };
  const attached = attachLoss(g, spec);
  const rate = rateInput(g, operators);
  const step = countInput(g, operators, states, all);
  return {
    spec,
    loss: attached,
    own: { states, rate, step },
    bindings: all,
    batchNumber: () => g.of(step),
  };
}

/** Binds each state to its next value, and writes the description of the step into the metadata. */
export function describeOwnStep(
  context: With<'work' | 'operators' | 'bindings' | 'spec' | 'loss' | 'own'>,
): Found<'parameters' | 'description'> {
  const { source, work, operators, bindings, spec, loss, own } = context;
  work.irVersion = Math.max(work.irVersion, 8);
  work.trainingInfo = [{ updates: bindings, initializations: [], extra: undefined }];
  const inference = new Set([...source.graph.initializers.keys()].map(v => v.name));
  const floats = own.states.filter(v => isFloat(v.dtype) && inference.has(v.name));
  const optimized = new Set(operators.optimizers.flatMap(o => o.parameters));
  const isParameter = (v: Value) => !optimized.size || optimized.has(v);
  const parameters = floats.filter(isParameter);
  const description: TrainingDescription = {
    version: 1,
    loss: { kind: 'output', output: spec.output!, name: loss.loss.name, target: spec.target },
    outputs: source.graph.outputs.map(v => v.name),
    optimizer: { name: 'own', options: {} },
    lr: own.rate.name,
    step: own.step.name,
    parameters: parameters.map(({ name }) => ({ name, grad: '', state: {} })),
    statistics: floats.filter(v => !isParameter(v)).map(v => v.name),
  };
  writeDescription(work, description);
  return {
    description,
    parameters: parameters.map(value => ({
      value,
      trains: true,
      why: 'the training step updates it',
      by: 'file',
    })),
  };
}

/** The learning rate of the operators as a float32 scalar input; if they have none, an input without readers. */
function rateInput(g: Builder, { optimizers }: TrainingOperators): Value {
  const { graph } = g;
  const rates = new Set(optimizers.map(o => o.rate));
  const [rate] = rates;
  const tensor = rate && rates.size === 1 ? graph.initializers.get(rate) : undefined;
  if (!rate || tensor?.dtype !== 'float32' || tensor.size !== 1)
    return stateInput(g, 'lr', Tensor.filled('float32', [], 0));
  if (tensor.dims.length === 0) {
    if (!graph.inputs.includes(rate)) graph.inputs.push(rate);
    return rate;
  }
  const scalar = stateInput(g, 'lr', Tensor.filled('float32', [], tensor.numbers()[0]!));
  graph.initializers.delete(rate);
  graph.inputs = graph.inputs.filter(v => v !== rate);
  graph.prepend(...moved(g, scalar, rate));
  return scalar;
}

/** The nodes that write a one-element tensor of rank 1 from a scalar. */
function moved(g: Builder, scalar: Value, to: Value): Node[] {
  const nodes: Node[] = [];
  g.into(nodes, () => g.identity(g.of(scalar).unsqueeze([0]).value, to));
  return nodes;
}

/** The operators' update count if the step increments it, or else a counter that is added. */
function countInput(
  g: Builder,
  { optimizers }: TrainingOperators,
  states: readonly Value[],
  updates: Binding[],
): Value {
  const counts = new Set(optimizers.map(o => o.count));
  const [count] = counts;
  if (counts.size === 1 && count && states.includes(count) && count.dtype === 'int64' && !count.shape?.length)
    return count;
  const own = stateInput(g, 'step', Tensor.filled('int64', [], 0));
  updates.push({ state: own.name, value: output(g, g.of(own).add(1), 'step_new').name });
  return own;
}
