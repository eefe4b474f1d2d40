/** Adds a teacher, or a graph that computes the loss, to the model that is to be trained. */
import { cloneModel, cloneNodes } from '../../graph/clone.js';
import { dtypeCode, isFloat } from '../../graph/dtype.js';
import { AgdError } from '../../graph/errors.js';
import { type Model, Node, Value } from '../../graph/ir.js';
import { encodeModel } from '../../graph/proto/codec.js';
import { toAttrs } from '../../ops/core/builder.js';
import { lossNamed } from '../../ops/losses/index.js';
import { type Distilled, parseDistillation } from '../options/parse-distillation.js';
import type { InjectOptions, LossSpec, LossTerm } from '../options.js';
import { addProjection, projectedAxis } from './add-projection.js';
import { LOSS, TEACHER } from './attached.js';
import { inferShapes, type ShapeOracle } from './infer-shapes.js';
import { inlineFunctions } from './inline-functions.js';
import { lossGraphOf } from './loss-function.js';
import { upgradeOpset } from './upgrade-opset.js';

/** What `attachModels` does where there is a model to attach. */
export async function joinModels(
  source: Model,
  options: InjectOptions,
  oracle?: ShapeOracle,
): Promise<{ model: Model; options: InjectOptions }> {
  const { teacherModel, lossGraph: loaded, distill, ...others } = options;
  const lossGraph = typeof loaded === 'function' ? lossGraphOf(source, loaded) : loaded;
  const model = cloneModel(source);
  const exports = model.graph.outputs.map(v => v.name);
  let loss = others.loss;
  if (lossGraph) loss = attachLossGraph(model, lossGraph);
  if (teacherModel) {
    attach(model, teacherModel, TEACHER, name => {
      const inputs = dataInputs(model);
      const only = inputs.length === 1 && dataInputs(teacherModel).length === 1 ? inputs[0] : undefined;
      return inputs.find(v => v.name === name) ?? only;
    });
    const wanted = parseDistillation(distill!);
    const pairs = wanted.map(each => pairOf(model, exports, teacherModel, loss, each));
    if (oracle) await project(model, pairs, oracle, options.seed ?? 0);
    loss = distilled(loss, pairs);
  }
  return { model, options: { ...others, loss, exports, original: encodeModel(model) } };
}

const dataInputs = ({ graph }: Model) => graph.inputs.filter(v => !graph.initializers.has(v));

/** Adds the nodes of another model; `find` has the values that its inputs are. The others become inputs, which are returned. */
function attach(
  model: Model,
  given: Model,
  prefix: string,
  find: (name: string) => Value | undefined,
): Value[] {
  const other = cloneModel(given);
  inlineFunctions(other);
  const opset = Math.max(model.opset, other.opset);
  upgradeOpset(other, opset);
  upgradeOpset(model, opset);
  for (const [domain, version] of other.opsetImports)
    model.opsetImports.set(domain, Math.max(version, model.opsetImports.get(domain) ?? 0));
  const { graph } = model;
  const name = (n: string) => prefix + n;
  const values = new Map<Value, Value>();
  const added: Value[] = [];
  const casts: Node[] = [];
  for (const input of dataInputs(other)) {
    const found = find(input.name);
    const value = found ?? new Value(input.name, input.type);
    if (!found) added.push(value);
    values.set(input, value);
    if (!found?.dtype || !input.dtype || found.dtype === input.dtype) continue;
    const made = new Value(name(input.name), input.type);
    casts.push(new Node('Cast', [found], [made], toAttrs({ to: dtypeCode(input.dtype) })));
    values.set(input, made);
  }
  for (const [value, tensor] of other.graph.initializers) {
    const copy = new Value(name(value.name), value.type);
    values.set(value, copy);
    graph.initializers.set(copy, tensor);
  }
  graph.inputs.push(...added);
  graph.append(...casts, ...cloneNodes(other.graph.nodes, { values, name }));
  return added;
}

function attachLossGraph(model: Model, given: Model): LossSpec {
  const { graph } = model;
  const written = [...graph.inputs, ...graph.nodes.flatMap(node => node.outputs)];
  const added = attach(model, given, LOSS, name => written.find(v => v?.name === name) ?? undefined);
  const [result, ...rest] = given.graph.outputs;
  if (!result || rest.length)
    throw new AgdError(
      'bad-option',
      `The loss model has ${given.graph.outputs.length} outputs, but needs one: the loss, as one number or one per sample.`,
    );
  const read = new Set(dataInputs(given).map(v => v.name));
  if (!written.some(v => v && read.has(v.name) && v.producer))
    throw new AgdError(
      'no-such-value',
      `The loss model reads ${[...read].map(n => `'${n}'`).join(', ')}, none of which is an output of the model: ${graph.outputs.map(v => `'${v.name}'`).join(', ')}.`,
    );
  const value = valueNamed(model, LOSS + result.name);
  graph.addOutputs(value);
  return { kind: 'mean', output: value.name, target: added[0]?.name };
}

type Pair = { term: LossTerm; own: Value; theirs: Value; alpha?: number; weight?: number };

/** What is compared with what. */
function pairOf(
  model: Model,
  outputs: readonly string[],
  teacher: Model,
  loss: LossSpec | undefined,
  { alpha, weight, output, teacherOutput, ...rest }: Distilled,
): Pair {
  const own = output ?? loss?.output ?? onlyFloat(model, outputs, 'The model');
  const theirs =
    teacherOutput ??
    teacher.graph.outputs.find(v => v.name === own)?.name ??
    onlyFloat(
      teacher,
      teacher.graph.outputs.map(v => v.name),
      'The teacher',
    );
  const value = valueNamed(model, TEACHER + theirs);
  if (!model.graph.outputs.includes(value)) model.graph.addOutputs(value);
  const term = { ...rest, output: own, target: value.name } as LossTerm;
  return { term, own: valueNamed(model, own), theirs: value, alpha, weight };
}

/** Compares values of other widths than the teacher's through projections. */
async function project(
  model: Model,
  pairs: readonly Pair[],
  oracle: ShapeOracle,
  seed: number,
): Promise<void> {
  // Probabilities of other classes have no projection.
  const vectors = pairs.filter(({ term }) => !lossNamed(term.kind).activation);
  if (!vectors.length) return;
  let typeOf = (v: Value) => v.type;
  if (vectors.some(({ own, theirs }) => !own.shape || !theirs.shape)) {
    const typed = cloneModel(model);
    inlineFunctions(typed);
    await inferShapes(typed, oracle);
    typeOf = v => valueNamed(typed, v.name).type;
  }
  vectors.forEach(({ term, own, theirs }, stream) => {
    const axis = projectedAxis(typeOf(own), typeOf(theirs));
    if (axis === undefined) return;
    const [from, to] = [typeOf(own), typeOf(theirs)];
    const width = (type: typeof from) => (type?.kind === 'tensor' ? Number(type.shape![axis]) : 0);
    const projected = addProjection(model, own, typeOf(own)!, axis, width(to), seed, stream);
    term.output = projected.name;
  });
}

/** The loss with those of distillation: of alpha and the rest of 1, or added with a weight. */
function distilled(loss: LossSpec | undefined, terms: readonly Pair[]): LossSpec {
  if (loss?.kind === 'output')
    throw new AgdError(
      'bad-option',
      '--distill cannot be combined with --loss-output: use --loss mean(OUTPUT).',
    );
  // Rounded: 0.34 + 0.56 + 0.1 is more than 1 in binary.
  const share = Number(terms.reduce((sum, t) => sum + (t.alpha ?? 0), 0).toPrecision(12));
  if (share > 1)
    throw new AgdError('bad-option', `--distill: the alphas must add up to at most 1, not ${share}.`);
  const added = terms.map(({ term, alpha, weight }) => ({
    ...term,
    weight: (loss ? alpha : undefined) ?? weight ?? 1,
  }));
  if (!loss) {
    const [first, ...plus] = added;
    return { ...first!, plus };
  }
  const { plus = [], ...first } = loss;
  const scaled = [first, ...plus].map(term => ({ ...term, weight: (term.weight ?? 1) * (1 - share) }));
  return { ...scaled[0]!, plus: [...scaled.slice(1), ...added] };
}

function onlyFloat(model: Model, names: readonly string[], what: string): string {
  const floats = names.filter(n => isFloat(valueNamed(model, n).dtype ?? 'float32'));
  if (floats.length === 1) return floats[0]!;
  throw new AgdError(
    'bad-option',
    `${what} has several outputs (${floats.join(', ')}): name those to compare in --distill, as in kl:logits=logits,T=2.`,
  );
}

function valueNamed({ graph }: Model, name: string): Value {
  const found = [...graph.outputs, ...graph.nodes.flatMap(node => node.outputs)].find(v => v?.name === name);
  if (found) return found;
  const what = name.startsWith(TEACHER)
    ? `The teacher computes no value '${name.slice(TEACHER.length)}'`
    : `There is no value '${name}'`;
  throw new AgdError('no-such-value', `${what}.`);
}
