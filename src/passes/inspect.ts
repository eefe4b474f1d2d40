/** Describes a model without changing it: inputs, outputs, parameters, which of them train and why, and what prevents training. */
import { reads } from '../graph/dependents.js';
import { byteLength, isFloat } from '../graph/dtype.js';
import { AgdError } from '../graph/errors.js';
import { allGraphs, type Model, type Node, showShape, type Value, type ValueType } from '../graph/ir.js';
import type { Tensor } from '../graph/tensor.js';
import { loadOperators, opDef } from '../ops/index.js';
import { adapterNames } from './adapters/adapter-names.js';
import { activeValues } from './differentiate/backward.js';
import type { TrainingDescription } from './file/description.js';
import { isInjected, readStep } from './file/step-metadata.js';
import { notLowered } from './import/lower-ort-gradients.js';
import { isOrtTraining } from './import/ort-operators.js';
import type { ShapeOracle } from './normalize/infer-shapes.js';
import { beforeWidening } from './normalize/widen-bfloat16.js';
import { normalize } from './pipeline.js';
import { isSplit, readSplitTable, type SplitTable } from './run/split-step.js';
import { explain, ROUNDED } from './select/detect-quantization.js';
import { findCopies } from './select/find-copies.js';
import { headParameters } from './select/find-head.js';
import type { ParameterChoice } from './select/parameter-choice.js';
import { selectParameters } from './select/select-parameters.js';

export type InspectOptions = {
  output?: string;
  train?: readonly string[];
  freeze?: readonly string[];
  unfreezeLast?: number;
  /** As `inject` would be told. */
  straightThrough?: boolean;
};

/** `none`: gradients stop here by nature; `missing`: no rule, so that nothing before it can train. */
export type GradientStatus = 'yes' | 'zero' | 'none' | 'missing';

export type OperatorUse = {
  operator: string;
  count: number;
  gradient: GradientStatus;
  /** Whether it lies between a parameter and an output. */
  onPath: boolean;
};

export type Inspection = {
  /**
   * The kind of file: a forward model, one with a training step (injected or other) or half of one, or an artifact of ONNX
   * Runtime.
   */
  kind: 'forward' | 'injected' | 'split' | 'gradients' | 'ort-training' | 'training-info';
  irVersion: number;
  opsets: Record<string, number>;
  producer: string;
  inputs: { name: string; type: string }[];
  outputs: { name: string; type: string }[];
  functions: string[];
  nodes: number;
  parameters: (Omit<ParameterChoice, 'value'> & {
    name: string;
    type: string;
    elements: number;
    bytes: number;
  })[];
  operators: OperatorUse[];
  /** The training step of an injected model. */
  training?: TrainingDescription;
  /** What workers exchange between the halves of a step, if the file is one of them. */
  split?: SplitTable;
  /** What `inject` still needs, or why it cannot work; one line each. */
  needs: string[];
};

/** The contents of a model, and what training it requires. Does not change the model. */
export async function inspect(
  model: Model,
  options: InspectOptions = {},
  oracle: ShapeOracle,
): Promise<Inspection> {
  const kind = kindOf(model);
  const needs: string[] = [];
  const nodes = [...allGraphs(model.graph)].flatMap(g => g.nodes);
  const own = new Set(model.graph.initializers.keys());
  const base = {
    kind,
    irVersion: model.irVersion,
    opsets: Object.fromEntries([...model.opsetImports].map(([domain, v]) => [domain || 'ai.onnx', v])),
    producer: [model.producerName, model.producerVersion].filter(Boolean).join(' '),
    inputs: model.graph.inputs.filter(v => !own.has(v)).map(v => ({ name: v.name, type: showType(v.type) })),
    outputs: model.graph.outputs.map(v => ({ name: v.name, type: showType(v.type) })),
    functions: model.functions.map(f => `${f.domain}.${f.name}`),
    nodes: nodes.length,
  };
  await loadOperators(model.graph);
  if (kind !== 'forward')
    return {
      ...base,
      ...(kind === 'injected' ? { training: readStep(model) } : {}),
      ...(kind === 'split' ? { split: readSplitTable(model) } : {}),
      parameters: [],
      operators: countOperators(nodes, new Set()),
      needs: [...notLowered(model.graph).map(n => `standard operators for ${n.label}`), KIND_NEEDS[kind]],
    };
  try {
    const { work, origins } = await normalize(model, oracle);
    const { graph } = work;
    const targets = graph.outputs.filter(
      v => isFloat(v.dtype) && (options.output === undefined || v.name === options.output),
    );
    if (options.output !== undefined && !targets.length)
      throw new AgdError('no-such-value', `The model has no floating-point output '${options.output}'.`);
    const head = () => headParameters(work, targets);
    const copies = findCopies(graph, origins);
    const parameters = targets.length
      ? await selectParameters(graph, targets, origins, options, {
          head,
          adapters: adapterNames(work),
          copies,
        })
      : [];
    const trained = parameters.filter(p => p.trains).map(p => p.value);
    const path = between(graph.nodes, trained, targets, options);
    const lost = parameters.filter(p => p.why === ROUNDED);
    if (lost.length)
      needs.push(
        explain(
          graph,
          lost,
          parameters.filter(p => p.trains),
        ),
      );
    const operators = countOperators(graph.nodes, path);
    if (!targets.length)
      needs.push('--output: the model has no floating-point output, but an inner value can be one');
    if (targets.length > 1)
      needs.push(
        `--output: the model has ${targets.length} floating-point outputs (${targets.map(v => v.name).join(', ')})`,
      );
    for (const { operator, onPath, gradient } of operators)
      if (onPath && gradient === 'missing')
        needs.push(`a gradient rule for ${operator}, or --freeze for what lies before it`);
    if (targets.length)
      needs.push('--loss KIND and a target of its shape, or --loss-output NAME if an output is the loss');
    return {
      ...base,
      operators,
      needs,
      parameters: parameters.map(p => showParameter(p, graph.initializers.get(p.value))),
    };
  } catch (error) {
    if (!(error instanceof AgdError) || error.code === 'no-such-value') throw error;
    return { ...base, parameters: [], operators: countOperators(nodes, new Set()), needs: [error.message] };
  }
}

const KIND_NEEDS: Record<Exclude<Inspection['kind'], 'forward'>, string> = {
  injected: 'nothing: it is ready for `agd-onnx train`',
  split: 'nothing: it is half of a training step, to be run by a program',
  gradients:
    "--grad '{param}_grad', with the names of the gradients, and --loss-output NAME if several outputs could be the loss",
  'ort-training': 'nothing but the checkpoint beside it, or --params FILE',
  'training-info': 'nothing: its own step trains; --replace-optimizer uses --optimizer instead',
};

function kindOf(model: Model): Inspection['kind'] {
  if (isInjected(model)) return 'injected';
  if (isSplit(model)) return 'split';
  if (model.graph.nodes.some(isOrtTraining)) return 'ort-training';
  if (model.trainingInfo.length) return 'training-info';
  const names = new Set([...model.graph.initializers.keys(), ...model.graph.inputs].map(v => v.name));
  if (
    model.graph.outputs.some(
      v => names.has(v.name.replace(/[._](grad|gradient)$/, '')) && /grad/.test(v.name),
    )
  )
    return 'gradients';
  return 'forward';
}

/** The nodes on a differentiable path from `sources` to `targets`. */
function between(
  nodes: readonly Node[],
  sources: readonly Value[],
  targets: readonly Value[],
  options: InspectOptions,
): Set<Node> {
  const active = activeValues(nodes, sources, options);
  const wanted = new Set(targets);
  const path = new Set<Node>();
  for (const node of [...nodes].reverse()) {
    if (!node.outputs.some(o => o && wanted.has(o) && active.has(o))) continue;
    path.add(node);
    for (const v of reads(node)) if (active.has(v)) wanted.add(v);
  }
  return path;
}

function countOperators(nodes: readonly Node[], path: ReadonlySet<Node>): OperatorUse[] {
  const uses = new Map<string, OperatorUse>();
  for (const node of nodes) {
    const operator = node.domain ? `${node.domain}.${node.opType}` : node.opType;
    const use = uses.get(operator) ?? { operator, count: 0, gradient: statusOf(node), onPath: false };
    use.count++;
    use.onPath ||= path.has(node);
    uses.set(operator, use);
  }
  return [...uses.values()].sort((a, b) => b.count - a.count || (a.operator < b.operator ? -1 : 1));
}

function statusOf(node: Node): GradientStatus {
  if (isOrtTraining(node)) return 'none';
  const kind = opDef(node)?.kind;
  return kind === undefined ? 'missing' : kind === 'none' || kind === 'zero' ? kind : 'yes';
}

function showParameter({ value, trains, why, by }: ParameterChoice, tensor: Tensor | undefined) {
  const elements = (value.shape as number[]).reduce((n, d) => n * d, 1);
  const dtype = (tensor && beforeWidening(tensor))?.dtype ?? value.dtype!;
  const bytes = byteLength(dtype, elements);
  const type = showType({ kind: 'tensor', dtype, shape: value.shape });
  return { name: value.name, type, elements, bytes, trains, why, by };
}

/** As in float32[batch,3,32,32]; an unknown extent is a question mark. */
export function showType(type: ValueType | undefined): string {
  switch (type?.kind) {
    case 'tensor':
      return `${type.dtype}${type.shape ? showShape(type.shape) : ''}`;
    case 'sequence':
    case 'optional':
      return `${type.kind}(${showType(type.elem)})`;
    default:
      return 'unknown';
  }
}
