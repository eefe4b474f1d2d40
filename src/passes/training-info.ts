/** Training steps that come in ModelProto.training_info: an algorithm beside the inference graph. */
import { cloneModel } from '../graph/clone.js';
import { isFloat } from '../graph/dtype.js';
import { AgdError } from '../graph/errors.js';
import type { Binding, Graph, Model, Node, Value } from '../graph/ir.js';
import { Names } from '../graph/names.js';
import { encodeModel } from '../graph/proto.js';
import { spellDefaultDomain } from '../graph/proto-read.js';
import { hasAlgorithm, trainingGraph } from '../graph/proto-training.js';
import { dependencies } from '../graph/prune.js';
import { Tensor } from '../graph/tensor.js';
import { Builder } from '../ops/core/builder.js';
import { demand } from '../ops/optimizers/optimizer.js';
import { attachLoss } from './attach-loss.js';
import { output } from './attach-optimizer.js';
import { computeInFloat } from './compute-in-float.js';
import { drawRandom, numberBatches } from './draw-random.js';
import { countNodes, dropUnreadInputs, eliminateDeadNodes } from './eliminate-dead-nodes.js';
import { inferShapes, type ShapeOracle } from './infer-shapes.js';
import type { InjectReport } from './inject.js';
import { lowerTrainingOperators, type TrainingOperators } from './lower-training-operators.js';
import { decidedByOwnStep, type InjectOptions } from './options.js';
import { embedOriginal } from './original.js';
import { type TrainingDescription, writeDescription } from './training-description.js';
import { stateInput } from './transition.js';
import { withValues } from './with-values.js';

/** Whether the model brings a training step of its own in `training_info`. */
export function hasOwnStep(model: Model): boolean {
  return model.trainingInfo.some(hasAlgorithm);
}

/**
 * The model with the graph that its training step is: that of inference, and the algorithm after it. Models without
 * one are as they were. Throws `unsupported-op` where there are several.
 */
export function withAlgorithm(model: Model): Model {
  const infos = model.trainingInfo.filter(hasAlgorithm);
  const [info] = infos;
  if (!info) return model;
  if (infos.length > 1)
    throw new AgdError(
      'unsupported-op',
      `The model has ${infos.length} training algorithms, which take turns; one can be read.`,
    );
  const step = cloneModel(model);
  step.graph = trainingGraph(model, info);
  step.trainingInfo = [{ ...info, extra: undefined }];
  spellDefaultDomain(step);
  return step;
}

type Step = { work: Model; operators: TrainingOperators; updates: Binding[]; loss: string };

async function readStep(model: Model, options: InjectOptions, oracle: ShapeOracle): Promise<Step> {
  const step = withAlgorithm(model);
  const work = options.values ? withValues(step, options.values) : step;
  const { graph, trainingInfo } = work;
  const updates = trainingInfo.flatMap(info => info.updates);
  const stored = new Map([...graph.initializers.keys()].map(v => [v.name, v]));
  const values = new Set([...graph.inputs, ...stored.values(), ...writtenBy(graph)].map(v => v.name));
  for (const { state, value } of updates) {
    if (!stored.has(state))
      throw new AgdError('invalid-model', `training_info updates '${state}', which is no initializer.`);
    if (!values.has(value))
      throw new AgdError(
        'invalid-model',
        `training_info updates '${state}' with '${value}', which nothing computes.`,
      );
  }
  const operators = await lowerTrainingOperators(work, oracle);
  await inferShapes(work, oracle);
  return { work, operators, updates, loss: lossName(graph, updates, options) };
}

/** The output that is the loss: the one named, else the only one of one floating-point element that updates nothing. */
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
 * The step without its optimizer, as a model with gradients: those that the optimizer's operators took, or else all
 * that Gradient was asked for of parameters. What updates other state, and is needed for the loss, stays.
 */
export async function withoutOptimizer(
  model: Model,
  options: InjectOptions,
  oracle: ShapeOracle,
): Promise<{ model: Model; options: InjectOptions }> {
  const { work, operators, updates, loss } = await readStep(model, options, oracle);
  const { graph } = work;
  const states = new Set(updates.map(u => u.state));
  const taken = operators.optimizers.flatMap(o => o.parameters.map((p, i) => [p, o.gradients[i]!] as const));
  const pairs = (taken.length ? taken : [...operators.gradients]).filter(([p]) => graph.initializers.has(p));
  if (!pairs.length)
    throw new AgdError(
      'nothing-to-train',
      'The step has no Gradient and no optimizer operator of a parameter.',
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
      original: options.original ?? encodeModel(model),
    },
  };
}

/** The step with its own optimizer, in standard operators, as `inject` writes steps: state goes in and comes out. */
export async function adoptStep(
  model: Model,
  options: InjectOptions,
  oracle: ShapeOracle,
): Promise<{ model: Model; report: InjectReport }> {
  checkOptions(options);
  const before = countNodes(withAlgorithm(model));
  const { work, operators, updates, loss } = await readStep(model, options, oracle);
  const { graph } = work;
  const g = new Builder(graph, { names: Names.of(work), opsets: work.opsetImports });
  const stored = new Map([...graph.initializers.keys()].map(v => [v.name, v]));
  const states = updates.map(u => stored.get(u.state)!);
  for (const state of states) if (!graph.inputs.includes(state)) graph.inputs.push(state);
  computeInFloat(graph, states);
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
  const target = options.loss?.target;
  const attached = attachLoss(g, { kind: 'output', output: loss, target });
  const rate = rateInput(g, operators);
  const step = countInput(g, operators, states, all);
  numberBatches(g, drawRandom(g, options.seed ?? 0), () => g.of(step));
  eliminateDeadNodes(work);
  dropUnreadInputs(work);
  work.irVersion = Math.max(work.irVersion, 8);
  work.trainingInfo = [{ updates: all, initializations: [], extra: undefined }];
  const inference = new Set([...model.graph.initializers.keys()].map(v => v.name));
  const floats = states.filter(v => isFloat(v.dtype) && inference.has(v.name));
  const optimized = new Set(operators.optimizers.flatMap(o => o.parameters));
  const isParameter = (v: Value) => !optimized.size || optimized.has(v);
  const description: TrainingDescription = {
    version: 1,
    loss: { kind: 'output', output: loss, name: attached.loss.name, target },
    outputs: model.graph.outputs.map(v => v.name),
    optimizer: { name: 'own', options: {} },
    lr: rate.name,
    step: step.name,
    parameters: floats.filter(isParameter).map(({ name }) => ({ name, grad: '', state: {} })),
    statistics: floats.filter(v => !isParameter(v)).map(v => v.name),
  };
  writeDescription(work, description);
  const learned = floats.map(v => v.name);
  embedOriginal(work, options.original ?? encodeModel(model), model, learned);
  const bytes = (list: readonly Value[]) =>
    list.reduce((n, v) => n + graph.initializers.get(v)!.byteLength, 0);
  const parameters = floats.filter(isParameter);
  return {
    model: work,
    report: {
      parameters: parameters.map(value => ({
        value,
        trains: true,
        why: 'the training step updates it',
        by: 'file' as const,
      })),
      warnings: [],
      nodes: { before, after: countNodes(work) },
      bytes: { parameters: bytes(parameters), state: bytes(states) - bytes(parameters) },
      description,
    },
  };
}

function checkOptions(options: InjectOptions): void {
  const given = decidedByOwnStep(options);
  demand(
    given === undefined,
    `'${given}' cannot be combined with the training step that the model already has: leave it out, or replace the optimizer of the step with --replace-optimizer.`,
  );
}

/** The learning rate of the operators as a float32 scalar input; an input that nothing reads where there is not one. */
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

/** The operators' count of updates, where the step counts it up; else a count of our own. */
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
