/** The graphs of ModelProto.training_info, which the IR keeps as decoded. */
import type { Graph, Model, TrainingInfo } from '../ir.js';
import { readGraph, type TrainingExtra } from './read.js';
import type { GraphProto } from './schema.js';
import { inline } from './tensor.js';
import { writeGraph } from './write.js';

/** Whether the entry has an algorithm, that is a training step and not only bindings. */
export function hasAlgorithm(info: TrainingInfo): boolean {
  return !!rest(info)?.algorithm?.node?.length;
}

/**
 * The graph of a training step, by ONNX's definition: the inference graph with the lists of the algorithm appended.
 * Throws `invalid-model` if the two are inconsistent.
 */
export function trainingGraph(model: Model, info: TrainingInfo): Graph {
  const [first, second] = [writeGraph(model.graph, inline), rest(info)?.algorithm ?? {}];
  const joined: GraphProto = { ...first };
  for (const list of ['node', 'initializer', 'input', 'output', 'valueInfo', 'sparseInitializer'] as const)
    Object.assign(joined, { [list]: [...(first[list] ?? []), ...(second[list] ?? [])] });
  return readGraph(joined);
}

/** The graph without inputs that computes the initial state; undefined if there is none. */
export function initializationGraph(info: TrainingInfo): Graph | undefined {
  const graph = rest(info)?.initialization;
  return graph?.node?.length || graph?.initializer?.length ? readGraph(graph) : undefined;
}

/** An entry with this graph as its algorithm, which may read values of the model's graph. */
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
