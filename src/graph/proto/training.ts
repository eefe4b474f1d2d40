/** The graphs of ModelProto.training_info: the IR keeps them as decoded. */
import type { Graph, Model, TrainingInfo } from '../ir.js';
import { readGraph, type TrainingExtra } from './read.js';
import type { GraphProto } from './schema.js';
import { inline } from './tensor.js';
import { writeGraph } from './write.js';

/** Whether the entry has an algorithm: a training step, not only bindings. */
export function hasAlgorithm(info: TrainingInfo): boolean {
  return !!rest(info)?.algorithm?.node?.length;
}

/**
 * The graph that a training step is, by ONNX's definition: the inference graph, and the algorithm's lists after its
 * own. Throws `invalid-model` where the two do not fit together.
 */
export function trainingGraph(model: Model, info: TrainingInfo): Graph {
  const [first, second] = [writeGraph(model.graph, inline), rest(info)?.algorithm ?? {}];
  const joined: GraphProto = { ...first };
  for (const list of ['node', 'initializer', 'input', 'output', 'valueInfo', 'sparseInitializer'] as const)
    Object.assign(joined, { [list]: [...(first[list] ?? []), ...(second[list] ?? [])] });
  return readGraph(joined);
}

/** The graph without inputs that gives the first values of the state; undefined where there is none. */
export function initializationGraph(info: TrainingInfo): Graph | undefined {
  const graph = rest(info)?.initialization;
  return graph?.node?.length || graph?.initializer?.length ? readGraph(graph) : undefined;
}

/** An entry whose algorithm is this graph, which may read values of the model's own. */
export function algorithmInfo(algorithm: Graph, updates: TrainingInfo['updates']): TrainingInfo {
  const extra: TrainingExtra = {
    rest: { algorithm: writeGraph(algorithm, inline) },
    updates: [],
    initializations: [],
  };
  return { updates, initializations: [], extra };
}

function rest(info: TrainingInfo) {
  return (info.extra as TrainingExtra | undefined)?.rest;
}
