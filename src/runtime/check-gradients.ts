import { isFloat } from '../graph/dtype.js';
import { AgdError } from '../graph/errors.js';
import type { Model } from '../graph/ir.js';
import { Tensor } from '../graph/tensor.js';
import { type GradientOptions, gradientModel } from '../passes/gradients.js';
import type { Gradients } from './gradients.js';
import { type Feeds, Session, type SessionOptions, sessionShapes } from './session.js';

/** How a tensor's gradient compares with finite differences. */
export type CheckedGradient = {
  name: string;
  /** Number of coordinates compared: those with the largest gradients, and others spread over the tensor. */
  checked: number;
  /** Largest difference, relative to the tensor's largest gradient. */
  error: number;
  passed: boolean;
};

const LARGEST = 4;
const SPREAD = 4;

/**
 * Float32 forward passes leave differences good to about a hundredth; a wrong rule is off by far more. What is
 * smaller than a ten-thousandth of all gradients' largest is left to the noise.
 */
const TOLERANCE = 2e-2;
const NOISE = 1e-4;

/**
 * Compares gradients with central differences of the loss, through the runtime. Needs a loss; values that differ
 * from run to run (dropout) must be off. Throws `bad-option` without a loss.
 */
export async function checkGradients(
  model: Model,
  options: GradientOptions,
  feeds: Feeds,
  { gradients }: Gradients,
  session: SessionOptions = {},
): Promise<CheckedGradient[]> {
  if (!options.loss) throw new AgdError('bad-option', 'Finite differences need a loss.');
  const names = [...gradients.keys()];
  const { runner, values, loss } = await forward(model, options, feeds, names, session);
  const overall = Math.max(...[...gradients.values()].map(t => largest(t.numbers())));
  const evaluate = async (name: string, data: Float32Array) => {
    const tensor = Tensor.from('float32', values[name]!.dims, data);
    return (await runner.run({ ...values, [name]: tensor }, [loss]))[loss]!.numbers()[0]!;
  };
  const results: CheckedGradient[] = [];
  for (const name of names) {
    const g = gradients.get(name)!.numbers();
    const at = coordinates(g);
    const scale = Math.max(largest(g), NOISE * overall);
    let error = 0;
    for (const i of at)
      error = Math.max(error, Math.abs((await difference(evaluate, name, values[name]!, i)) - g[i]!) / scale);
    results.push({ name, checked: at.length, error, passed: error <= TOLERANCE });
  }
  await runner.release();
  return results;
}

/** The loss alone, with what is differentiated as inputs. */
async function forward(
  model: Model,
  options: GradientOptions,
  feeds: Feeds,
  names: readonly string[],
  session: SessionOptions,
) {
  const made = await gradientModel(
    model,
    { ...options, wrt: names, batchNorm: options.batchNorm, dropout: 'eval' },
    sessionShapes,
  );
  const { graph } = made.model;
  const values: Feeds = {};
  for (const [value, tensor] of graph.initializers) {
    if (!names.includes(value.name)) continue;
    if (!isFloat(tensor.dtype) || tensor.dtype !== 'float32')
      throw new AgdError(
        'bad-dtype',
        `'${value.name}' is ${tensor.dtype}: finite differences are taken in float32.`,
      );
    values[value.name] = tensor;
    graph.initializers.delete(value);
    if (!graph.inputs.includes(value)) graph.inputs.push(value);
  }
  const runner = await Session.create(made.model, session);
  for (const name of runner.inputs) values[name] ??= feeds[name]!;
  return { runner, values, loss: made.loss! };
}

async function difference(
  evaluate: (name: string, data: Float32Array) => Promise<number>,
  name: string,
  tensor: Tensor,
  i: number,
): Promise<number> {
  const data = Float32Array.from(tensor.numbers());
  const x = data[i]!;
  const step = 1e-2 * Math.max(0.1, Math.abs(x));
  data[i] = x + step;
  const [up, high] = [await evaluate(name, data), data[i]!];
  data[i] = x - step;
  return (up - (await evaluate(name, data))) / (high - data[i]!);
}

/** Where the gradient is largest, and some places spread evenly. */
function coordinates(g: readonly number[]): number[] {
  const steepest = g
    .map((x, i) => [Math.abs(x), i] as const)
    .sort((a, b) => b[0] - a[0])
    .slice(0, LARGEST)
    .map(([, i]) => i);
  const spread = Array.from({ length: SPREAD }, (_, k) => Math.floor(((k + 0.5) * g.length) / SPREAD));
  return [...new Set([...steepest, ...spread])].filter(i => i < g.length);
}

/** The largest magnitude; a spread into Math.max would not take a large tensor. */
const largest = (values: readonly number[]) => values.reduce((most, x) => Math.max(most, Math.abs(x)), 0);
