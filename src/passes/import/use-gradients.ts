import { isFloat } from '../../graph/dtype.js';
import { AgdError } from '../../graph/errors.js';
import type { Graph, Model, Value } from '../../graph/ir.js';
import type { Builder } from '../../ops/core/builder.js';
import { ensure } from '../../ops/optimizers/optimizer.js';
import type { Facts } from '../common/context.js';
import { attachLoss } from '../differentiate/attach-loss.js';
import { checkType } from '../normalize/with-values.js';
import type { InjectOptions, LossSpec } from '../options.js';
import { headParameters } from '../select/find-head.js';
import type { ParameterChoice } from '../select/parameter-choice.js';
import { resolveGlobs } from '../select/resolve-globs.js';
import { FROZEN } from '../select/select-parameters.js';
import type { StateUpdate } from '../update/transition.js';

export type FoundGradients = Pick<
  Facts,
  | ('spec' | 'loss' | 'inference' | 'exports' | 'parameters' | 'trained' | 'given')
  | ('statistics' | 'leastBatch' | 'warnings' | 'model')
>;

/**
 * Finds loss and parameters of a graph that computes its gradients itself, as outputs or inner values.
 *
 * Throws `no-such-value` for a gradient that is missing or does not belong to a parameter, `bad-shape` or `bad-dtype`
 * for one that does not have the type of its parameter, `missing-data` for a parameter without a value.
 */
export function useGradients(g: Builder, work: Model, source: Model, options: InjectOptions): FoundGradients {
  const { batchNorm, straightThrough } = options;
  ensure(
    !(batchNorm || straightThrough || options.dropout),
    'Gradient options (batch norm, dropout, straight-through) do not apply: the graph already has gradients.',
  );
  const { graph } = work;
  const statistics = boundStatistics(work);
  const rules = options.gradients!.map(parseRule);
  const given = new Map<Value, Value>();
  for (const rule of rules) for (const [param, grad] of pairsOf(graph, rule)) given.set(param, grad);
  const inner = new Set([...given.values(), ...statistics.map(s => s.value)]);
  graph.outputs = graph.outputs.filter(v => !inner.has(v));
  const spec = lossOf(graph, options.loss);
  const loss = attachLoss(g, spec);
  const inference = graph.outputs.filter(v => v !== loss.loss && v.name !== spec.output).map(v => v.name);
  const { exports = inference } = options;
  const own = new Set(options.values?.keys() ?? [...source.graph.initializers.keys()].map(v => v.name));
  const others = graph.outputs.filter(v => v !== loss.loss);
  const head = () => headParameters(work, others.length ? others : [loss.output ?? loss.loss]);
  const parameters = choose(graph, given, own, options, head);
  const trained = parameters.flatMap(p => (p.trains ? [p.value] : []));
  g.forget(trained);
  return {
    spec,
    loss,
    inference,
    parameters,
    trained,
    given,
    statistics,
    model: source,
    exports: exports.length ? [...exports] : undefined,
    leastBatch: undefined,
    warnings: [],
  };
}

/** The state that the model updates itself, according to its `trainingInfo`. */
function boundStatistics({ graph, trainingInfo }: Model): StateUpdate[] {
  const named = (name: string) => valuesOf(graph).get(name)!;
  return trainingInfo
    .flatMap(info => info.updates)
    .map(({ state, value }) => ({ state: named(state), value: named(value) }));
}

/** Every value of the main graph, by name. */
function valuesOf({ inputs, initializers, nodes }: Graph): Map<string, Value> {
  const written = nodes.flatMap(n => n.outputs.flatMap(v => v ?? []));
  return new Map([...inputs, ...initializers.keys(), ...written].map(v => [v.name, v]));
}

/** The names on both sides of `=`, in which `{param}` stands for the same text. */
type Rule = { param: string; grad: string; text: string };

const HOLE = '{param}';

function parseRule(text: string): Rule {
  const [first = '', second, ...rest] = text.split('=');
  const rule =
    second === undefined ? { param: HOLE, grad: first, text } : { param: first, grad: second, text };
  const holes = [rule.param, rule.grad].map(side => side.split(HOLE).length - 1);
  ensure(
    !rest.length && !!rule.param && !!rule.grad && holes[0]! < 2 && holes[0] === holes[1],
    `A gradient is given as PARAMETER=GRADIENT or as a pattern with ${HOLE}, not as '${text}'.`,
  );
  return rule;
}

/** The text that `{param}` matches in `name`; '' for a pattern without it, undefined if the name does not match. */
function holeIn(pattern: string, name: string): string | undefined {
  const [head = '', tail] = pattern.split(HOLE);
  if (tail === undefined) return name === pattern ? '' : undefined;
  const fits = name.length > head.length + tail.length && name.startsWith(head) && name.endsWith(tail);
  return fits ? name.slice(head.length, name.length - tail.length) : undefined;
}

function pairsOf(graph: Graph, { param, grad, text }: Rule): [Value, Value][] {
  const values = valuesOf(graph);
  const parameters = [...graph.initializers.keys()].filter(v => isFloat(v.dtype));
  const single = !param.includes(HOLE);
  if (single) checkNamed(graph, values, param, grad, text);
  const pairs = parameters.flatMap((p): [Value, Value][] => {
    const part = holeIn(param, p.name);
    const value = part === undefined ? undefined : values.get(grad.replace(HOLE, part));
    return value ? [[p, value]] : [];
  });
  for (const [p, value] of pairs) {
    checkType(`The gradient '${value.name}' of`, value, p.name, p);
    value.type = p.type;
  }
  for (const { name } of single ? [] : graph.outputs) {
    const part = holeIn(grad, name);
    const owner = part === undefined ? undefined : param.replace(HOLE, part);
    if (owner !== undefined && !values.has(owner))
      throw new AgdError(
        'no-such-value',
        `By '${text}', output '${name}' is the gradient of '${owner}', but the model has no such value: name its gradients one by one.`,
      );
    if (pairs.length && owner !== undefined && !pairs.some(([p]) => p.name === owner))
      throw new AgdError(
        'missing-data',
        `'${owner}' has a gradient, '${name}', and no value: give it with --params, or, where it is data, name the gradients of parameters one by one.`,
      );
  }
  if (!pairs.length)
    throw new AgdError(
      'no-such-value',
      `'${text}' matches no gradient of the ${parameters.length} floating-point initializers. ` +
        'If parameters are inputs, give their values with --params.',
    );
  return pairs;
}

function checkNamed(
  graph: Graph,
  values: ReadonlyMap<string, Value>,
  param: string,
  grad: string,
  text: string,
): void {
  for (const name of [param, grad])
    if (!values.has(name))
      throw new AgdError('no-such-value', `The model has no value '${name}' (in '${text}').`);
  if (!graph.initializers.has(values.get(param)!))
    throw new AgdError(
      'missing-data',
      `Parameter '${param}' has no value in the model: give it with --params, a file that has '${param}'.`,
    );
}

/** The loss output: the one named, or else the only one with a single element. */
function lossOf(graph: Graph, given: LossSpec | undefined): LossSpec & { kind: 'output' } {
  if (given?.kind === 'output') return given;
  ensure(
    !given,
    'The graph has gradients already, of a loss that it computes: name that output with --loss-output.',
  );
  const scalars = graph.outputs.filter(v => isFloat(v.dtype) && v.shape?.every(d => d === 1));
  if (scalars.length === 1) return { kind: 'output', output: scalars[0]!.name };
  const names = graph.outputs.map(v => `'${v.name}'`).join(', ') || 'none';
  throw new AgdError(
    'bad-option',
    `Which output is the loss? Besides gradients the model has ${names}: name one with --loss-output.`,
  );
}

/** The parameters that the model declares, and those for which a gradient was found. */
function choose(
  graph: Graph,
  found: ReadonlyMap<Value, Value>,
  own: ReadonlySet<string>,
  { frozen: kept, ...globs }: InjectOptions,
  head: () => readonly string[],
): ParameterChoice[] {
  const candidates = [...graph.initializers.keys()].filter(
    v => found.has(v) || (own.has(v.name) && isFloat(v.dtype) && graph.initializers.get(v)!.size > 1),
  );
  const names = candidates.map(v => v.name);
  const choiceOf = resolveGlobs(globs, names, head);
  const choices = candidates.map((value): ParameterChoice => {
    const grad = found.get(value);
    if (choiceOf(value.name) === 'freeze')
      return { value, trains: false, why: 'frozen by --freeze', by: 'option' };
    if (kept?.includes(value.name)) return { value, trains: false, why: FROZEN, by: 'option' };
    if (grad) return { value, trains: true, why: `its gradient is '${grad.name}'`, by: 'file' };
    if (choiceOf(value.name) === 'train')
      throw new AgdError('no-such-value', `Cannot train '${value.name}': the graph has no gradient of it.`);
    return { value, trains: false, why: 'the graph has no gradient of it', by: 'file' };
  });
  if (choices.some(c => c.trains)) return choices;
  throw new AgdError('nothing-to-train', 'Nothing to train: all parameters are frozen.');
}
