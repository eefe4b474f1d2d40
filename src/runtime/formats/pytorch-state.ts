/**
 * Training state under PyTorch's names, flat, as a .safetensors file has it: `<param>`, and beside it what PyTorch's
 * optimizer keeps for it: `<param>.exp_avg`, `<param>.exp_avg_sq`, `<param>.step` (updates done) ...; the moving
 * average of the weights as `<param>.ema`; running statistics by their own names.
 */
import { AgdError } from '../../graph/errors.js';
import { Tensor } from '../../graph/tensor.js';
import { findOptimizer } from '../../ops/optimizers/index.js';
import { asKept, type OptimizerOptions, statesOf } from '../../ops/optimizers/optimizer.js';
import { wrapped } from '../../ops/optimizers/wrappers/index.js';
import { sumsOf, type TrainingDescription } from '../../passes/file/description.js';
import { convert } from '../data/convert.js';

type State = ReadonlyMap<string, Tensor>;

/** What PyTorch calls `name` is the graph's `state` times `factor`. */
type Entry = { name: string; state: string; factor: number };

/** The state of an injected model, which is by names in the graph, in PyTorch's terms. Throws `bad-state` where names clash. */
export function toPytorch(description: TrainingDescription, state: State): Map<string, Tensor> {
  const step = state.get(description.step)!;
  const all = [...required(description, state, step.numbers()[0]!), ...optional(description)];
  const tensors = [
    ...all.map(({ name, state: from, factor }) => {
      const tensor = state.get(from)!;
      return [name, factor === 1 ? tensor : convert(tensor, tensor.dtype, factor)] as const;
    }),
    ...description.parameters.map(
      p => [stepOf(p), Tensor.filled('float32', [], ownStep(p, step.numbers()[0]!))] as const,
    ),
  ];
  const result = new Map(tensors);
  if (result.size < tensors.length)
    throw new AgdError(
      'bad-state',
      `Two tensors of the state would have the same name in PyTorch: rename a parameter.`,
    );
  return result;
}

/**
 * The state as `tensors` have it in PyTorch's terms. Running statistics may be missing, and averages, which then begin
 * as the weights; gradients that were being summed up are forgotten. `unused` are tensors that nothing here is
 * called. Throws `bad-state` where others are missing or of another shape, or where step counts differ.
 */
export function fromPytorch(
  description: TrainingDescription,
  state: State,
  tensors: State,
): { state: Map<string, Tensor>; unused: string[] } {
  const { parameters, accumulation } = description;
  const [step, ...others] = new Set(stepsOf(description, tensors));
  if (others.length)
    throw new AgdError(
      'bad-state',
      `The checkpoint's parameters are at different steps (${[step, ...others].join(', ')}): they must share one.`,
    );
  const result = new Map(state).set(description.step, Tensor.filled('int64', [], step!));
  const used = new Set(parameters.map(stepOf));
  const take = ({ name, state: to, factor }: Entry) => {
    const [found, own] = [find(tensors, name), state.get(to)!];
    if (`${found.dims}` !== `${own.dims}`)
      throw new AgdError(
        'bad-state',
        `'${name}' has shape [${found.dims}] in the checkpoint, but [${own.dims}] in the model.`,
      );
    // Before the first step there is nothing to be corrected: exp_avg is 0.
    result.set(to, convert(found, own.dtype, factor && 1 / factor));
    used.add(name);
  };
  required(description, state, step!).forEach(take);
  for (const parameter of parameters) {
    const { name, ema, carry } = parameter;
    if (ema) result.set(ema, result.get(name)!);
    for (const zero of [carry, ...sumsOf(parameter)]) if (zero) result.set(zero, zerosLike(state.get(zero)!));
  }
  for (const zero of [accumulation?.counter, accumulation?.weight, ...(accumulation?.further ?? [])])
    if (zero) result.set(zero, zerosLike(state.get(zero)!));
  optional(description)
    .filter(entry => tensors.has(entry.name))
    .forEach(take);
  return { state: result, unused: [...tensors.keys()].filter(name => !used.has(name)) };
}

/** The updates of a parameter after so many of the model's. */
const ownStep = ({ begins = 0 }: { begins?: number }, step: number) => Math.max(0, step - begins);

/**
 * The steps that the model has behind it, as each parameter's count says; where none are counted, it is past the first one.
 * One that did not begin to train says nothing, unless all say 0.
 */
function stepsOf(description: TrainingDescription, tensors: State): number[] {
  const { parameters } = description;
  const { uncounted } = definitionOf(description);
  if (uncounted && !parameters.some(p => tensors.has(stepOf(p)))) return [1];
  const steps = parameters.flatMap(({ begins = 0, ...p }) => {
    const own = find(tensors, stepOf(p)).numbers()[0]!;
    return own || !begins ? own + begins : [];
  });
  return steps.length ? steps : [0];
}

function definitionOf({
  optimizer: { name },
  ...wrappers
}: Pick<TrainingDescription, 'optimizer' | 'stateBits'>) {
  const found = findOptimizer(name);
  if (found) return wrapped(found, wrappers);
  throw new AgdError(
    'bad-option',
    `Optimizer '${name}' is defined by an extension, which says what its state is in PyTorch's terms: load it with --extend FILE.`,
  );
}

const stepOf = (parameter: { name: string }) => `${parameter.name}.step`;
const zerosLike = ({ dtype, dims }: Tensor) => Tensor.zeros(dtype, dims);

/** The parameters and what the optimizer keeps for them. */
function required(description: TrainingDescription, state: State, step: number): Entry[] {
  const {
    optimizer: { options },
    parameters,
  } = description;
  const optimizer = definitionOf(description);
  return parameters.flatMap(parameter => {
    const own = { ...options, ...parameter.options } as OptimizerOptions;
    const { dims } = state.get(parameter.name)!;
    const kept =
      optimizer.checkpoint?.(own, ownStep(parameter, step), dims) ?? asKept(statesOf(optimizer, own, dims));
    return [
      { name: parameter.name, state: parameter.name, factor: 1 },
      ...Object.entries(kept).map(([slot, { name, factor }]) => ({
        name: `${parameter.name}.${name}`,
        state: parameter.state[slot]!,
        factor,
      })),
    ];
  });
}

function optional({ parameters, statistics }: TrainingDescription): Entry[] {
  return [
    ...parameters.flatMap(({ name, ema }) => (ema ? [{ name: `${name}.ema`, state: ema, factor: 1 }] : [])),
    ...statistics.map(name => ({ name, state: name, factor: 1 })),
  ];
}

function find(tensors: State, name: string): Tensor {
  const tensor = tensors.get(name);
  if (tensor) return tensor;
  throw new AgdError(
    'bad-state',
    `The checkpoint lacks '${name}'; it needs every parameter, and its optimizer state beside it.`,
  );
}
