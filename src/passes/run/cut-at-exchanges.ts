/** Cuts the gradient half of a step where ranks exchange synchronized values, such as the statistics of batch normalization. */
import { reads } from '../../graph/dependents.js';
import { AgdError } from '../../graph/errors.js';
import { Graph, type Model, type Node, type Value } from '../../graph/ir.js';
import { eliminateDeadNodes } from '../common/eliminate-dead-nodes.js';
import type { TrainingDescription } from '../file/description.js';
import { like } from '../file/plain-state.js';

/** A part of a model, and what the ranks exchange after it. */
export type Segment = { model: Model; statistics: ExchangedMoments[]; sums: ExchangedValue[] };

/** `own` is the output of the segment with what this rank computes, `all` the input of later ones. */
export type ExchangedValue = { own: string; all: string; dims: readonly number[] };
export type ExchangedMoments = Record<'count' | 'mean' | 'variance', ExchangedValue>;

/**
 * Cuts the gradient half of a step into segments to run one after the other, between which the ranks exchange what is to be
 * synchronized. A node is in the first segment in which all that it reads is known, and exchanges that do not depend on each
 * other are done together. The inputs of a segment are those of the model, outputs of earlier segments, and what was exchanged.
 *
 * Throws `bad-option` if the number of channels is not known.
 */
export function cutAtExchanges(
  model: Model,
  { statistics, sums }: NonNullable<TrainingDescription['synchronized']>,
): Segment[] {
  const { graph } = model;
  const named = new Set([...statistics.flatMap(s => [s.count, s.mean, s.variance]), ...sums]);
  const copies = new Map<string, Node>();
  const level = new Map<Value, number>();
  const levelOf = (node: Node) => Math.max(0, ...reads(node).map(v => level.get(v) ?? 0));
  const nodes: Node[][] = graph.nodes.map(() => []);
  for (const node of graph.nodes) {
    const [copy] = node.outputs;
    const own = levelOf(node);
    const isCopy = node.opType === 'Identity' && named.has(copy!.name);
    if (isCopy) copies.set(copy!.name, node);
    else nodes[own]!.push(node);
    for (const v of node.outputs) if (v) level.set(v, isCopy ? own + 1 : own);
  }
  const exchanged = (name: string): ExchangedValue => {
    const { inputs, outputs } = copies.get(name)!;
    const dims = outputs[0]!.shape?.map(d => (typeof d === 'number' ? d : undefined));
    if (!dims || dims.includes(undefined))
      throw new AgdError(
        'bad-option',
        `--sync-batch-norm: the number of channels of '${name}' is not known.`,
      );
    return { own: inputs[0]!.name, all: name, dims: dims as number[] };
  };
  const levelOfCopy = (name: string) => levelOf(copies.get(name)!);
  const kept = new Set([...graph.outputs, ...[...copies.values()].map(n => n.inputs[0]!)]);
  const last = Math.max(...level.values(), 0);
  return Array.from({ length: last + 1 }, (_, i) => {
    const here = nodes[i]!;
    const later = new Set(nodes.slice(i + 1, last + 1).flatMap(list => list.flatMap(reads)));
    const outputs = here.flatMap(n => n.outputs.filter(v => v !== null && (kept.has(v) || later.has(v))));
    return {
      model: part(model, here, outputs as Value[]),
      statistics: statistics
        .filter(({ mean }) => copies.has(mean) && levelOfCopy(mean) === i)
        .map(({ count, mean, variance }) => ({
          count: exchanged(count),
          mean: exchanged(mean),
          variance: exchanged(variance),
        })),
      sums: sums.filter(name => copies.has(name) && levelOfCopy(name) === i).map(exchanged),
    };
  });
}

function part(model: Model, nodes: readonly Node[], outputs: Value[]): Model {
  const { graph } = model;
  const view = Graph.view(graph, { outputs, nodes, initializers: new Map(graph.initializers) });
  const written = new Set(nodes.flatMap(n => n.outputs));
  const read = new Set(nodes.flatMap(reads));
  view.inputs = [...read].filter(v => !written.has(v) && !graph.initializers.has(v));
  const result = like(model, view);
  eliminateDeadNodes(result);
  return result;
}
