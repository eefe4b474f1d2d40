import { isFloat } from '../graph/dtype.js';
import { AgdError } from '../graph/errors.js';
import type { Model } from '../graph/ir.js';
import { record } from '../graph/record.js';
import { Tensor } from '../graph/tensor.js';
import { type GradientOptions, objectiveModel } from '../passes/differentiate.js';
import { type Gradients, withTarget } from './gradients.js';
import { asFeeds, type Feeds, Session, type SessionOptions, shapesIn } from './session.js';

/** How a tensor's gradient compares with finite differences. */
export type CheckedGradient = {
  name: string;
  /** Number of coordinates compared: those with the largest gradients, and others spread over the tensor. */
  checked: number;
  /** Largest distance from the slopes on the two sides and what is between, relative to the tensor's largest gradient. */
  error: number;
  passed: boolean;
  /**
   * Why finite differences do not apply: the gradient passes rounding straight through, or stops there, while the model's
   * outputs change in steps.
   */
  unchecked?: 'straight-through' | 'rounded';
};

const LARGEST = 8;
const SPREAD = 8;

/** Largest difference that passes, beside what rounding explains. Wrong rules are off by a factor or a sign. */
const TOLERANCE = 2e-2;
/** Gradients below this share of the largest of all are themselves sums of rounding errors. */
const NOISE = 1e-4;
/** What two float32 evaluations may differ by for no reason: two units in the last place. */
const ROUNDING = 2 ** -22;
const STEPS = { least: 1e-4, most: 0.1 };
/** What differs is tried again with a step smaller by this: it meets fewer kinks, and more noise. */
const RETRY = 8;

/** A loss, or the sum of outputs times cotangents; its rounding error is ROUNDING times `size`. */
type Objective = (feeds: Feeds) => Promise<{ value: number; size: number }>;

/**
 * Compares gradients with finite differences, through the runtime: a derivative lies between the slopes on its two
 * sides, at a kink (of Relu, MaxPool ...) too, where their mean would be off. The step of a tensor is the smallest
 * whose difference stands out of the objective's rounding by 1 / TOLERANCE: larger ones meet curvature, smaller ones
 * noise. Where even the largest step does not stand out, the rounding is added to what passes.
 * Random nodes and dropout draw the same numbers in all runs. Gradients that pass rounding have no slopes to be compared
 * with and are returned as `unchecked`. Throws `bad-dtype` for other than float32.
 */
export async function checkGradients(
  model: Model,
  options: GradientOptions,
  given: Feeds,
  { gradients }: Pick<Gradients, 'gradients'>,
  session: SessionOptions = {},
): Promise<CheckedGradient[]> {
  const arrays = asFeeds(given);
  const shapes = shapesIn(() => arrays);
  const { model: work, rounded } = await objectiveModel(model, options, new Set(Object.keys(arrays)), shapes);
  const feeds = withTarget(arrays, options, work);
  const values = freeParameters(work, [...gradients.keys()], feeds);
  const runner = await Session.create(work, session);
  try {
    const fed = Object.fromEntries(runner.inputs.map(name => [name, values[name] ?? feeds[name]!]));
    const objective = objectiveOf(runner, options, feeds);
    const { value, size } = await objective(fed);
    const point = { objective, fed, value, rounding: ROUNDING * size };
    const overall = Math.max(...[...gradients.values()].map(t => largest(t.numbers())));
    const unchecked = options.straightThrough ? 'straight-through' : 'rounded';
    const results: CheckedGradient[] = [];
    for (const [name, gradient] of gradients)
      results.push(
        rounded.has(name)
          ? { name, checked: 0, error: 0, passed: true, unchecked }
          : await checkTensor(point, name, gradient.numbers(), NOISE * overall),
      );
    return results;
  } finally {
    await runner.release();
  }
}

/** Where the objective is differentiated: its value there, and what that is rounded by. */
type Point = { objective: Objective; fed: Feeds; value: number; rounding: number };

/** Gradients of magnitude `least` and below count as that large. */
async function checkTensor(
  point: Point,
  name: string,
  g: readonly number[],
  least: number,
): Promise<CheckedGradient> {
  const scale = Math.max(largest(g), least);
  const tensor = point.fed[name];
  // What the objective does not read has the slope 0.
  if (!tensor)
    return { name, checked: g.length, error: scale && largest(g) / scale, passed: largest(g) === 0 };
  const most = STEPS.most * Math.max(1, largest(tensor.numbers()));
  const h = Math.min(Math.max(point.rounding / (TOLERANCE * scale), STEPS.least), most);
  const allowed = TOLERANCE * scale + point.rounding / h;
  const at = coordinates(g);
  let worst = 0;
  for (const i of at) {
    const distance = async (step: number) => {
      const slopes = await slopesAt(point, name, i, step);
      return Math.max(0, Math.min(...slopes) - g[i]!, g[i]! - Math.max(...slopes));
    };
    let error = await distance(h);
    if (error > allowed) error = Math.min(error, await distance(h / RETRY));
    worst = Math.max(worst, error);
  }
  return { name, checked: at.length, error: scale && worst / scale, passed: worst <= allowed };
}

/** The values of what is differentiated; initializers among them become plain inputs. */
function freeParameters({ graph }: Model, names: readonly string[], feeds: Feeds): Feeds {
  const values = record(
    Object.fromEntries(names.flatMap(name => (feeds[name] ? [[name, feeds[name]]] : []))),
  );
  for (const [value, tensor] of graph.initializers) {
    if (!names.includes(value.name)) continue;
    values[value.name] = tensor;
    graph.initializers.delete(value);
    if (!graph.inputs.includes(value)) graph.inputs.push(value);
  }
  for (const [name, { dtype }] of Object.entries(values))
    if (isFloat(dtype) && dtype !== 'float32')
      throw new AgdError('bad-dtype', `'${name}' is ${dtype}: finite differences are taken in float32.`);
  return values;
}

function objectiveOf(runner: Session, options: GradientOptions, feeds: Feeds): Objective {
  return async fed => {
    const results = Object.entries(await runner.run(fed));
    if (options.loss) {
      const value = results[0]![1].numbers()[0]!;
      return { value, size: Math.abs(value) };
    }
    const terms = results.flatMap(([name, y]) => {
      const cotangent = feeds[`${name}_cotangent`]!.numbers();
      return y.numbers().map((v, i) => v * cotangent[i]!);
    });
    // Each output is rounded by itself: the errors of the terms add up like a random walk.
    const size = Math.sqrt(terms.reduce((sum, v) => sum + v * v, 0));
    return { value: terms.reduce((sum, v) => sum + v, 0), size };
  };
}

/** The slopes to the left and to the right of element i of an input. */
async function slopesAt({ objective, fed, value }: Point, name: string, i: number, step: number) {
  const { dims } = fed[name]!;
  const data = Float32Array.from(fed[name]!.numbers());
  const x = data[i]!;
  const slopes: number[] = [];
  for (const h of [-step, step]) {
    data[i] = x + h;
    const moved = await objective({ ...fed, [name]: Tensor.from('float32', dims, data) });
    // As far as float32 let it move.
    slopes.push((moved.value - value) / (data[i]! - x));
  }
  return slopes;
}

/** Where the gradient is largest, and places spread evenly. */
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
