/** Converts the training artifacts of ONNX Runtime to a model in standard operators. */
import { cloneModel } from '../../graph/clone.js';
import { AgdError } from '../../graph/errors.js';
import type { Graph, Model, Value } from '../../graph/ir.js';
import { encodeModel } from '../../graph/proto/codec.js';
import type { Tensor } from '../../graph/tensor.js';
import { ensure } from '../../ops/optimizers/optimizer.js';
import { partOfModel } from '../common/part-of-model.js';
import { inferShapes, type ShapeOracle } from '../normalize/infer-shapes.js';
import type { InjectOptions, StoredProperty } from '../options.js';
import { lowerOrtGradients } from './lower-ort-gradients.js';

/** What `onnxruntime.training.artifacts` writes, without the optimizer. */
export type Artifacts = {
  training: Model;
  evaluation?: Model;
  /** The checkpoint's parameters by name, including frozen ones. */
  values: ReadonlyMap<string, Tensor>;
  /** The other contents of the checkpoint. */
  properties?: Record<string, StoredProperty>;
};

/**
 * Converts artifacts of ONNX Runtime's training to a model in standard operators, with the options for `inject`:
 * loss, gradients and values, and the model that the trained parameters are written to. This is the evaluation model
 * with the outputs to export: `options.exports`, or those that the loss is computed from.
 *
 * Throws `missing-data` for a parameter without a value, `bad-option` for a loss other than that of the artifacts,
 * and as `lowerOrtGradients` does.
 */
export async function liftArtifacts(
  { training, evaluation, values, properties = {} }: Artifacts,
  options: InjectOptions,
  oracle: ShapeOracle,
): Promise<{ model: Model; options: InjectOptions }> {
  const { loss: given } = options;
  const model = cloneModel(training);
  const { gradients, closed } = await lowerOrtGradients(model, oracle, given);
  ensure(
    !!closed || !given || given.kind === 'output',
    'The artifacts compute their loss and its gradients: leave out --loss, or train the forward model.',
  );
  if (!gradients.size && !options.gradients)
    throw new AgdError(
      'no-such-value',
      'The training model accumulates no gradients and has no values named PARAMETER_grad: name its gradients with --grad.',
    );
  checkValues(model.graph, gradients, values, closed?.target);
  const names = model.graph.inputs.map(v => v.name).filter(name => values.has(name));
  const trains = (name: string) => gradients.has(name) && !options.frozen?.includes(name);
  const named = given?.kind === 'output' ? given.output : undefined;
  const loss = closed?.loss.name ?? named ?? model.graph.outputs[0]!.name;
  const handed = closed?.outputs.map(v => v.name).filter(name => name !== loss);
  const forward = evaluation ? cloneModel(evaluation) : partOfModel(model, [loss, ...(handed ?? [])]);
  const target = closed ? closed.target : targetOf(forward, values, given?.target);
  const exports = options.exports ?? handed ?? inferenceOutputs(forward, target);
  forward.graph.outputs = [loss, ...exports].map(name => valueNamed(forward.graph, name));
  await inferShapes(forward, oracle);
  return {
    model,
    options: {
      ...options,
      loss: { kind: 'output', output: loss, target: given?.target ?? target?.name },
      gradients: options.gradients ?? [...gradients].map(([param, grad]) => `${param}=${grad}`),
      values,
      exports: exports.length ? exports : undefined,
      checkpoint: {
        trainable: names.filter(trains),
        frozen: names.filter(name => !trains(name)),
        properties,
      },
      original: encodeModel(withConstants(forward, values)),
    },
  };
}

function checkValues(
  { inputs, initializers }: Graph,
  gradients: ReadonlyMap<string, string>,
  values: ReadonlyMap<string, Tensor>,
  target: Value | undefined,
): void {
  const known = new Set([...initializers.keys(), ...(target ? [target] : [])].map(v => v.name));
  // Data inputs precede parameters, among which are the frozen ones.
  const first = inputs.findIndex(v => gradients.has(v.name));
  const missing = inputs.filter(
    (v, i) => first >= 0 && i >= first && !values.has(v.name) && !known.has(v.name),
  );
  if (missing.length)
    throw new AgdError(
      'missing-data',
      `No values for ${missing.map(v => `'${v.name}'`).join(', ')}: they are in the checkpoint beside the training model, or give them with --params.`,
    );
}

/** An evaluation model with its parameters as constants, without the loss and its target. */
export async function inferenceModel(
  evaluation: Model,
  values: ReadonlyMap<string, Tensor>,
  oracle: ShapeOracle,
): Promise<Model> {
  const forward = withConstants(cloneModel(evaluation), values);
  await inferShapes(forward, oracle);
  const outputs = inferenceOutputs(forward, targetOf(forward, values));
  return partOfModel(forward, outputs.length ? outputs : forward.graph.outputs.map(v => v.name));
}

/** The blocks that compute ORT's losses append their target to the model's inputs. */
function targetOf({ graph }: Model, values: ReadonlyMap<string, Tensor>, name?: string): Value | undefined {
  const data = graph.inputs.filter(v => !values.has(v.name) && !graph.initializers.has(v));
  return data.find(v => v.name === name) ?? (data.length > 1 ? data.at(-1) : undefined);
}

/** The values that the loss is computed from, apart from its target. */
function inferenceOutputs({ graph, metadata }: Model, target: Value | undefined): string[] {
  const named = metadata.get('InferenceGraphOutputs');
  if (named) return named.split(',').map(name => name.trim());
  if (!target) return [];
  const tainted = new Set<Value | null>([target]);
  const written = new Set(graph.nodes.flatMap(n => n.outputs));
  const met = new Set<Value>();
  for (const node of graph.nodes) {
    if (!node.inputs.some(v => tainted.has(v))) continue;
    for (const o of node.outputs) tainted.add(o);
    for (const v of node.inputs) if (v && !tainted.has(v) && written.has(v)) met.add(v);
  }
  return [...met].map(v => v.name);
}

function valueNamed({ nodes }: Graph, name: string): Value {
  const value = nodes.flatMap(n => n.outputs).find(v => v?.name === name);
  if (!value) throw new AgdError('no-such-value', `The evaluation model computes no value '${name}'.`);
  return value;
}

/** The model with its parameters as constants. */
function withConstants(model: Model, values: ReadonlyMap<string, Tensor>): Model {
  const { graph } = model;
  for (const value of graph.inputs) {
    const tensor = values.get(value.name);
    if (tensor) graph.initializers.set(value, tensor);
  }
  graph.inputs = graph.inputs.filter(v => !graph.initializers.has(v));
  return model;
}
