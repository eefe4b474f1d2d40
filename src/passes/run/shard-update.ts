/** Divides the update and the optimizer state over ranks. */
import { cloneModel } from '../../graph/clone.js';
import { reads } from '../../graph/dependents.js';
import { AgdError } from '../../graph/errors.js';
import type { Binding, Graph, Model, Node, Value } from '../../graph/ir.js';
import { optimizerOfStep } from '../../ops/optimizers/wrappers/index.js';
import { eliminateDeadNodes } from '../common/eliminate-dead-nodes.js';
import type { TrainingDescription } from '../file/description.js';

/** The part of an update that one of several ranks does. */
export type UpdateShard = {
  model: Model;
  /** The parameters that it updates, and other weights at which gradients are taken: all ranks have them. */
  parameters: string[];
  /** Their optimizer state and averages, which no other rank has. */
  states: string[];
};

/**
 * Divides an update over ranks, by parameters and their optimizer state: the idea of ZeRO, stage 1 (Rajbhandari et al., 2020).
 * Small parameters that are updated together stay together; tables with sparse updates are left to all ranks. Throws
 * `bad-option` if something else reads optimizer state, as telemetry does, or if the optimizer sums over all parameters. State that
 * `gradients`, the other half of the step, reads is on all ranks.
 */
export function shardUpdate(
  update: Model,
  description: Pick<TrainingDescription, 'parameters' | 'optimizer' | 'scheduleFree'>,
  updates: readonly Binding[],
  ranks: number,
  gradients: Model,
): UpdateShard[] {
  const { name } = description.optimizer;
  if (optimizerOfStep(description)?.totals)
    throw new AgdError(
      'bad-option',
      `--shard-optimizer divides the optimizer's state, and ${name} reads that of all parameters in each step: leave out one.`,
    );
  const owners = new Map<string, string>();
  const parameters = description.parameters.filter(p => p.rows === undefined);
  const statesOf = new Map(
    parameters.map(p => [p.name, [...Object.values(p.state), ...[p.carry, p.ema].flatMap(n => n ?? [])]]),
  );
  for (const [name, states] of statesOf) for (const state of states) owners.set(state, name);

  const bindings = new Map(updates.map(u => [u.state, u.value]));
  const outputs = new Map(update.graph.outputs.map(v => [v.name, v]));
  const group = new Map(parameters.map(p => [p.name, p.name]));
  const rootOf = (name: string): string => (group.get(name) === name ? name : rootOf(group.get(name)!));
  for (const [name, states] of statesOf)
    for (const written of [name, ...states])
      for (const input of inputsOf(outputs.get(bindings.get(written)!)!, update.graph)) {
        const owner = owners.get(input);
        if (owner !== undefined) group.set(rootOf(owner), rootOf(name));
      }

  const sizes = new Map<string, number>();
  const extent = new Map(update.graph.inputs.map(v => [v.name, sizeOf(v)]));
  for (const { name } of parameters) {
    const root = rootOf(name);
    sizes.set(root, (sizes.get(root) ?? 0) + (extent.get(name) ?? 0) * (1 + statesOf.get(name)!.length));
  }
  const loads = Array<number>(ranks).fill(0);
  const rankOf = new Map<string, number>();
  for (const [root, size] of [...sizes].sort(([, a], [, b]) => b - a)) {
    const rank = loads.indexOf(Math.min(...loads));
    rankOf.set(root, rank);
    loads[rank]! += size;
  }
  const read = new Set(gradients.graph.inputs.map(v => v.name));
  return loads.map((_, rank) => {
    const own = parameters.filter(p => rankOf.get(rootOf(p.name)) === rank).map(p => p.name);
    const kept = own.flatMap(name => statesOf.get(name)!);
    const states = kept.filter(name => !read.has(name));
    const others = new Set(
      parameters.flatMap(p => (own.includes(p.name) ? [] : [p.name, ...statesOf.get(p.name)!])),
    );
    const left = new Set(updates.flatMap(u => (others.has(u.state) ? [u.value] : [])));
    const shared = [...own, ...kept.filter(name => read.has(name))];
    return { model: partOf(update, left, others, owners), parameters: shared, states };
  });
}

/** The update without these outputs. */
function partOf(
  update: Model,
  left: ReadonlySet<string>,
  others: ReadonlySet<string>,
  owners: ReadonlyMap<string, string>,
): Model {
  const model = cloneModel(update);
  const { graph } = model;
  graph.outputs = graph.outputs.filter(v => !left.has(v.name));
  pruneBranches(graph);
  eliminateDeadNodes(model);
  const read = new Set<Value>([...graph.outputs, ...graph.nodes.flatMap(reads)]);
  graph.inputs = graph.inputs.filter(v => read.has(v));
  const foreign = graph.inputs.find(v => others.has(v.name) && owners.has(v.name));
  if (foreign)
    throw new AgdError(
      'bad-option',
      `--shard-optimizer divides the optimizer's state, but all of it is read together, such as '${foreign.name}': leave out --telemetry.`,
    );
  return model;
}

/** Removes what no node reads of the outputs of branches, so that the nodes that compute it can be removed. */
function pruneBranches(graph: Graph): void {
  const isRead = (v: Value | null) => v !== null && (v.readers.length > 0 || v.outputOf.length > 0);
  for (const node of [...graph.nodes].reverse()) {
    if (node.opType !== 'If') continue;
    const kept = node.outputs.map(isRead);
    if (kept.every(Boolean) || !kept.includes(true)) continue;
    for (const branch of node.subgraphs()) branch.outputs = branch.outputs.filter((_, i) => kept[i]);
    node.outputs = node.outputs.filter((_, i) => kept[i]);
  }
  for (const node of graph.nodes) for (const sub of node.subgraphs()) pruneBranches(sub);
}

/** The names of the graph inputs that a value depends on: of an If, through the same output of both branches. */
function inputsOf(value: Value, { inputs }: Graph): Set<string> {
  const ends = new Set(inputs);
  const seen = new Set<Value>();
  const found = new Set<string>();
  const pending = [value];
  for (let v = pending.pop(); v; v = pending.pop()) {
    if (seen.has(v)) continue;
    seen.add(v);
    if (ends.has(v)) found.add(v.name);
    else if (v.producer) pending.push(...readFor(v.producer, v));
  }
  return found;
}

function readFor(node: Node, output: Value): readonly Value[] {
  if (node.opType !== 'If') return reads(node);
  const i = node.outputs.indexOf(output);
  return [...node.inputs.flatMap(v => v ?? []), ...node.subgraphs().map(branch => branch.outputs[i]!)];
}

const sizeOf = ({ shape = [] }: Value) =>
  shape.reduce<number>((n, d) => n * (typeof d === 'number' ? d : 1), 1);
