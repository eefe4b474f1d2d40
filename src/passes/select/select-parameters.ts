/** Decides which initializers train. */
import { reads } from '../../graph/dependents.js';
import { isFloat } from '../../graph/dtype.js';
import { AgdError } from '../../graph/errors.js';
import type { Graph, Value } from '../../graph/ir.js';
import type { Tensor } from '../../graph/tensor.js';
import { activeValues, type BackwardOptions } from '../differentiate/backward.js';
import { isAttached, isProjection } from '../normalize/attached.js';
import type { SelectOptions } from '../options.js';
import { NEVER_DIFFERENTIATED, notAWeight } from './classify-constants.js';
import { integerWeights, quantizationScales, ROUNDED, roundingNodes } from './detect-quantization.js';
import { groupLayers } from './group-layers.js';
import type { DecidedBy, ParameterChoice } from './parameter-choice.js';
import type { Origins } from './read-origins.js';
import { isCount, isSinusoid } from './recognize-contents.js';

/** The reason of a parameter that is frozen in the checkpoint. */
export const FROZEN = 'frozen in the checkpoint';

const onDemand = () => import('./on-demand.js');

/** What is known of a graph besides its nodes. */
type Knowledge = {
  /** Initializers that are none of the model's. */
  constants?: ReadonlySet<Value>;
  /** Names the parameters of the model's head. */
  head?: () => readonly string[];
  /** Names of adapters' parameters. */
  adapters?: ReadonlySet<string>;
  /** Names of the parameters of a new head that trains beside adapters. */
  newHead?: readonly string[];
  /** Names of scales of quantization-aware training that train, and of those that do not. */
  quantizers?: { learned: ReadonlySet<string>; constant: ReadonlySet<string> };
  /** Copies of parameters for each sample, and why they do not train. */
  copies?: ReadonlyMap<Value, string>;
};

/**
 * Decides which floating-point initializers train: those that a target (the loss) depends on through differentiable
 * operators and that the file declares as parameters; if it declares nothing, those for which `notAWeight` gives no
 * reason against. Without straight-through gradients, a parameter does not train if any path of its gradient passes
 * rounding, as a partial gradient would be wrong. Weights stored as integers are listed after these.
 *
 * In a model with adapters only these train, a new head, and what `--train` names. Weights in Constant nodes must have been lifted to
 * initializers. Throws `no-such-value` for a glob that matches nothing, and `nothing-to-train` if no parameter trains.
 */
export async function selectParameters(
  graph: Graph,
  targets: readonly Value[],
  origins: Origins,
  options: SelectOptions = {},
  { constants = new Set(), head, adapters = new Set(), newHead = [], quantizers, copies }: Knowledge = {},
): Promise<ParameterChoice[]> {
  const candidates = [...graph.initializers].filter(
    ([value, tensor]) => isFloat(tensor.dtype) && tensor.size > 0 && value.name && !constants.has(value),
  );
  const names = candidates.map(([value]) => value.name);
  const isChosen = options.train?.length || options.freeze?.length;
  const { resolveGlobs } = isChosen ? await onDemand() : {};
  const choiceOf = resolveGlobs?.(options, names, head);
  const reached = reach(graph, targets, options);
  const rounded = options.straightThrough ? new Set<Value>() : beforeRounding(graph, targets);
  const scales = quantizationScales(graph);
  const why = notAWeight(graph, candidates, origins);
  const choose = ([value, tensor]: [Value, Tensor]): ParameterChoice => {
    const no = (why: string, by: DecidedBy) => ({ value, trains: false, why, by });
    if (isProjection(value.name))
      return { value, trains: true, why: 'a projection of distillation', by: 'rule' };
    if (isAttached(value.name)) return no('of the teacher or the loss', 'rule');
    if (quantizers?.constant.has(value.name)) return no('a range of quantization', 'file');
    if (choiceOf?.(value.name) === 'freeze') return no('frozen by --freeze', 'option');
    if (options.frozen?.includes(value.name)) return no(FROZEN, 'option');
    if (!reached.has(value) && !rounded.has(value))
      return no('the loss does not depend on it through differentiable operators', 'rule');
    if (choiceOf?.(value.name) === 'train')
      return { value, trains: true, why: 'chosen by --train', by: 'option' };
    if (adapters.has(value.name)) return { value, trains: true, why: 'an adapter', by: 'file' };
    if (adapters.size && newHead.includes(value.name))
      return { value, trains: true, why: 'of the new head', by: 'file' };
    if (adapters.size) return no('only the adapters train', 'file');
    if (quantizers?.learned.has(value.name))
      return { value, trains: true, why: 'a scale of quantization', by: 'file' };
    if (scales.has(value)) return no('a scale of quantization', 'rule');
    const origin = origins.get(value);
    const copied = copies?.get(value);
    if (copied) return no(copied, 'rule');
    // No file records which parameters do not require gradients, but 0, 1, 2 ... or a table of waves is not a weight.
    const isTable = origin?.kind === 'parameter' && (isCount(tensor) || isSinusoid(tensor));
    const isTold = origin && origin.kind !== 'named' && !isTable;
    if (isTold) return { value, trains: origin.kind === 'parameter', why: origin.why, by: 'file' };
    const reason = why(value, tensor);
    return reason ? no(reason, 'rule') : { value, trains: true, why: 'a weight', by: 'rule' };
  };
  const chosen = candidates.map((candidate): ParameterChoice => {
    const choice = choose(candidate);
    if (!choice.trains || !rounded.has(choice.value)) return choice;
    return { value: choice.value, trains: false, why: ROUNDED, by: 'rule' };
  });
  const choices = lastLayers(graph, chosen, options.unfreezeLast);
  const integers = integerWeights(graph);
  if (!choices.some(c => c.trains || c.why === ROUNDED)) {
    const { nothingTrains } = await onDemand();
    throw nothingTrains(graph, targets, candidates.length, integers);
  }
  return [...choices, ...integers];
}

/** Freezes the parameters of all but the last `count` layers that train. */
function lastLayers(
  graph: Graph,
  choices: readonly ParameterChoice[],
  count: number | undefined,
): readonly ParameterChoice[] {
  if (count === undefined) return choices;
  const trained = choices.flatMap(c => (c.trains && !isProjection(c.value.name) ? [c.value] : []));
  const layers = groupLayers(graph, trained);
  if (count > layers.length)
    throw new AgdError(
      'bad-option',
      `--unfreeze-last ${count}: the model has ${layers.length} layers that train: ${listLayers(layers.map(l => l.name))}.`,
    );
  const kept = new Set(layers.slice(-count).flatMap(l => l.parameters));
  return choices.map(c =>
    !c.trains || kept.has(c.value) || isProjection(c.value.name)
      ? c
      : { value: c.value, trains: false, why: 'before the layers of --unfreeze-last', by: 'option' },
  );
}

const listLayers = (names: readonly string[]) =>
  names.slice(0, 8).join(', ') + (names.length > 8 ? ' ...' : '');

/** The values that the targets depend on through a node that rounds. */
function beforeRounding(graph: Graph, targets: readonly Value[]): Set<Value> {
  const rounding = roundingNodes(graph);
  if (!rounding.length) return new Set();
  const options = { straightThrough: true };
  const reached = reach(graph, targets, options);
  const nodes = rounding.filter(node => node.outputs.some(o => o && reached.has(o)));
  return reach(graph, [...new Set(nodes.flatMap(reads))], options);
}

/** The values that `targets` depend on through differentiable operators. */
function reach(graph: Graph, targets: readonly Value[], options: BackwardOptions): Set<Value> {
  const floating = [...graph.initializers.keys()].filter(v => isFloat(v.dtype));
  const active = activeValues(graph.nodes, floating, options);
  const reached = new Set<Value>(targets);
  const isReached = (o: Value | null) => o !== null && reached.has(o) && active.has(o);
  const { nodes } = graph;
  for (let i = nodes.length - 1; i >= 0; i--) {
    const node = nodes[i]!;
    if (!node.outputs.some(isReached)) continue;
    const never = NEVER_DIFFERENTIATED[node.opType];
    const read = never ? node.inputs.filter((_, i) => !never.includes(i)) : reads(node);
    for (const v of read) if (v && active.has(v)) reached.add(v);
  }
  return reached;
}
