/** Splits a step into a half that computes gradients and one that updates the state. */
import { cloneModel } from '../../graph/clone.js';
import { dependentValues, reads } from '../../graph/dependents.js';
import { AgdError } from '../../graph/errors.js';
import { type Binding, Graph, type Model, type Value } from '../../graph/ir.js';
import { eliminateDeadNodes } from '../common/eliminate-dead-nodes.js';
import { lossPartsOf, type TrainingDescription } from '../file/description.js';
import { constantsOf, like, recordUpdates } from '../file/plain-state.js';
import { readDescription } from '../file/step-metadata.js';
import { inferShapes, type ShapeOracle } from '../normalize/infer-shapes.js';

export type SplitStep = { gradients: Model; update: Model; state: Model; table: SplitTable };

/**
 * What `gradients` returns for data-parallel training, in `agd.split` of the metadata of both halves (JSON). Names are those of
 * outputs of `gradients`, and of inputs of `update` where this half reads them.
 */
export type SplitTable = {
  version: 1;
  /** The loss, a mean over the batch. */
  loss: string;
  /**
   * What that mean is divided by, a scalar: a number of positions, or the sum of their weights. Missing if it is unknown: then
   * each worker weighs the same. If `losses` are several, that of the first.
   */
  divisor?: string;
  /** The losses that add up to that of the batch: several if those of a sum count different positions, else `loss` alone. */
  losses: string[];
  lr: string;
  /** The int64 scalar that counts updates. */
  step: string;
  /** By parameter. With `rows`, the row numbers of a table (int64 vector), the gradient is that of these rows. */
  parameters: {
    name: string;
    grad: string;
    rows?: string;
    hessianProduct?: string;
    perturbedGrad?: string;
    state: Record<string, string>;
  }[];
  /** Running statistics that a step updates. */
  statistics: string[];
  exchange: Exchanged[];
};

/**
 * How the values that workers compute become one: multiplied by the worker's share if `weighted`, its `divisor` over the
 * sum of all of that name, then summed, or concatenated along the first axis in the same order for all values.
 */
export type Exchanged = { name: string; reduce: 'sum' | 'concat'; weighted: boolean; divisor?: string };

/**
 * An injected model's step in two halves, for work between gradients and update: `gradients` takes the batch and
 * returns loss and gradients, `update` takes these and returns the next state. Run one after the other, they compute
 * the same as the step. The first half updates state that depends on the batch alone (running statistics), unless the
 * second half decides whether to; then it is passed on, like everything else that only the batch determines.
 *
 * What workers on parts of a batch have to exchange in between is in `table`; it is exact if the step was injected with
 * `lossDivisor`.
 *
 * State and learning rate are plain inputs, which runtimes in all languages can feed; `state` is a model without
 * inputs whose outputs are the initial values. The oracle infers types of values that are passed on, if a model that
 * was read from a file lacks them. Throws `invalid-model` if the step cannot be split.
 */
export async function splitStep(injected: Model, oracle: ShapeOracle): Promise<SplitStep> {
  const model = await withTypes(injected, oracle);
  const description = readDescription(model);
  const { parameters, lr } = description;
  const { graph } = model;
  const updates = model.trainingInfo.flatMap(info => info.updates);
  const written = graph.nodes.flatMap(n => n.outputs.flatMap(v => v ?? []));
  const among = (names: readonly (string | undefined)[]) => written.filter(v => names.includes(v.name));
  const lossParts = lossPartsOf(description);
  const grads = among(lossParts.flatMap(part => part.terms.map(term => term.value)));
  const divisors = lossParts.map(part => part.divisor);
  const handed = new Set([...grads, ...among([...divisors, ...parameters.map(p => p.rows)])]);
  if (!grads.length)
    throw new AgdError(
      'invalid-model',
      'The model has a training step of its own, which cannot be split: start from the original model.',
    );
  const after = dependentValues(graph.nodes, grads);
  const data = graph.inputs.filter(v => !graph.initializers.has(v));
  const batch = dependentValues(graph.nodes, data, new Set([...after, ...handed]));

  const next = new Set(updates.map(u => u.value));
  const isLate = (v: Value) => next.has(v.name) && (after.has(v) || !batch.has(v));
  const late = graph.outputs.filter(isLate);
  const early = graph.outputs.filter(v => !isLate(v));
  const cut = frontier(late, v => handed.has(v) || (batch.has(v) && !after.has(v)));
  const fed = new Set([...updates.map(u => u.state), lr]);
  const result = {
    gradients: part(model, [...new Set([...early, ...cut])], [], fed),
    update: part(model, late, cut, fed),
    state: constantsOf(model, fed),
    table: tableOf(description, cut, early, updates),
  };
  for (const half of [result.gradients, result.update]) writeSplitTable(half, result.table);
  return result;
}

const KEY = 'agd.split';

function writeSplitTable({ metadata }: Model, table: SplitTable): void {
  metadata.set(KEY, JSON.stringify(table));
}

export const isSplit = ({ metadata }: Model): boolean => metadata.has(KEY);

/** The table of a half; undefined for other files. Throws `invalid-model` if it is damaged. */
export function readSplitTable({ metadata }: Model): SplitTable | undefined {
  const text = metadata.get(KEY);
  if (text === undefined) return undefined;
  try {
    return JSON.parse(text);
  } catch {
    throw new AgdError('invalid-model', `The metadata entry '${KEY}' is not JSON: the file is damaged.`);
  }
}

function tableOf(
  description: TrainingDescription,
  cut: readonly Value[],
  early: readonly Value[],
  updates: readonly Binding[],
): SplitTable {
  const { loss, lossDivisor, lr, step, parameters, statistics, dpSgd } = description;
  const lossParts = lossPartsOf(description);
  const exchange = new Map<string, Exchanged>();
  const add = (
    name: string | undefined,
    reduce: Exchanged['reduce'] = 'sum',
    weighted = true,
    divisor: string | undefined = lossDivisor,
  ) => {
    if (name === undefined || exchange.has(name)) return;
    exchange.set(name, { name, reduce, weighted, ...(weighted && divisor !== undefined && { divisor }) });
  };
  for (const part of lossParts) add(part.divisor, 'sum', false);
  for (const part of lossParts) add(part.loss, 'sum', true, part.divisor);
  for (const { terms, divisor } of lossParts)
    for (const { value, rows } of terms) {
      // Those of private training are sums, which the update divides.
      add(value, rows === undefined ? 'sum' : 'concat', !dpSgd, divisor);
      add(rows, 'concat', false);
    }
  // Running statistics. If a step may be skipped, its update decides which become the next ones.
  const next = new Set(updates.map(u => u.value));
  for (const v of [...cut, ...early.filter(v => next.has(v.name))]) add(v.name);
  return {
    version: 1,
    loss: loss.name,
    divisor: lossDivisor,
    losses: lossParts.map(part => part.loss),
    lr,
    step,
    parameters: parameters.map(({ name, grad, rows, hessianProduct, perturbedGrad, state }) => ({
      name,
      grad,
      rows,
      hessianProduct,
      perturbedGrad,
      state,
    })),
    statistics,
    exchange: [...exchange.values()],
  };
}

/** The model, or a typed copy if some values have no type. */
async function withTypes(model: Model, oracle: ShapeOracle): Promise<Model> {
  if (model.graph.nodes.every(n => n.outputs.every(v => !v || v.type))) return model;
  const typed = cloneModel(model);
  await inferShapes(typed, oracle);
  return typed;
}

/**
 * The values at which `stops` returns true, found by following inputs back from `outputs`. Throws if this reaches the
 * batch.
 */
function frontier(outputs: readonly Value[], stops: (v: Value) => boolean): Value[] {
  const seen = new Set<Value>();
  const cut: Value[] = [];
  const pending = [...outputs];
  for (let v = pending.pop(); v; v = pending.pop()) {
    if (seen.has(v)) continue;
    seen.add(v);
    const writer = v.producer;
    if (stops(v)) {
      if (!writer)
        throw new AgdError('invalid-model', `The step cannot be split: its update reads input '${v.name}'.`);
      cut.push(v);
    } else if (writer) pending.push(...reads(writer));
  }
  return cut.reverse();
}

/** The part of the step that computes `outputs`, with `cut` as inputs, and those of `fed` that it reads. */
function part(model: Model, outputs: Value[], cut: readonly Value[], fed: ReadonlySet<string>): Model {
  const { graph, trainingInfo } = model;
  const half = Graph.view(graph, {
    outputs,
    nodes: graph.nodes.filter(n => !n.outputs.some(o => o && cut.includes(o))),
    initializers: new Map([...graph.initializers].filter(([v]) => !fed.has(v.name))),
  });
  const result = like(model, half);
  eliminateDeadNodes(result);
  const read = new Set([...outputs, ...half.nodes.flatMap(reads)]);
  half.inputs = [...cut, ...graph.inputs].filter(v => read.has(v));
  const given = new Set(outputs.map(v => v.name));
  const own = trainingInfo.flatMap(info => info.updates).filter(u => given.has(u.value));
  recordUpdates(result, own);
  return result;
}
