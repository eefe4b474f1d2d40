import picomatch from 'picomatch';
import { isFloat } from '../graph/dtype.js';
import { AgdError } from '../graph/errors.js';
import type { Graph, Value } from '../graph/ir.js';
import { activeValues, type BackwardOptions } from './backward.js';
import { NEVER_DIFFERENTIATED, notAWeight } from './tell-weights.js';

/** What becomes of a floating-point constant of the model, and why. */
export type ParameterChoice = { value: Value; trains: boolean; why: string };

export type SelectOptions = BackwardOptions & {
  /** Globs over names: what matches trains, even where the rule says otherwise. */
  train?: readonly string[];
  /** Globs over names: what matches does not train; stronger than `train`. */
  freeze?: readonly string[];
  /** Names of what does not train in a checkpoint either. */
  frozen?: readonly string[];
};

/** Why a parameter does not train that the checkpoint has frozen. */
export const FROZEN = 'frozen in the checkpoint';

/**
 * Decides which floating-point initializers train. One is a weight, and trains, if a target (the loss) depends on it
 * through differentiable operators, unless `notAWeight` says why not.
 *
 * Weights in Constant nodes must have been lifted to initializers; `constants` are initializers that are none of the
 * model's. Throws `no-such-value` for a glob that
 * matches nothing and `nothing-to-train` where nothing is left.
 */
export function selectParameters(
  graph: Graph,
  targets: readonly Value[],
  options: SelectOptions = {},
  constants: ReadonlySet<Value> = new Set(),
): ParameterChoice[] {
  const candidates = [...graph.initializers].filter(
    ([value, tensor]) => isFloat(tensor.dtype) && tensor.size > 0 && value.name && !constants.has(value),
  );
  const names = candidates.map(([value]) => value.name);
  const forced = matcher('--train', options.train, names);
  const frozen = matcher('--freeze', options.freeze, names);
  const reached = reach(graph, targets, options);
  const why = notAWeight(graph, candidates);
  const choices = candidates.map(([value, tensor]): ParameterChoice => {
    const no = (why: string) => ({ value, trains: false, why });
    if (frozen?.(value.name)) return no('frozen by --freeze');
    if (options.frozen?.includes(value.name)) return no(FROZEN);
    if (!reached.has(value)) return no('the loss does not depend on it through differentiable operators');
    if (forced?.(value.name)) return { value, trains: true, why: 'chosen by --train' };
    const reason = why(value, tensor);
    return reason ? no(reason) : { value, trains: true, why: 'a weight' };
  });
  if (!choices.some(c => c.trains))
    throw new AgdError(
      'nothing-to-train',
      `Nothing to train: of ${candidates.length} floating-point initializers none is a weight that ${targets.map(v => `'${v.name}'`).join(', ')} depends on. ` +
        'Choose with --train GLOB; `agd-onnx inspect` lists them.',
    );
  return choices;
}

/** The values that `targets` depend on through differentiable operators, from them back. */
function reach(graph: Graph, targets: readonly Value[], options: BackwardOptions): Set<Value> {
  const floating = [...graph.initializers.keys()].filter(v => isFloat(v.dtype));
  const active = activeValues(graph.nodes, floating, options);
  const reached = new Set<Value>(targets);
  for (const node of [...graph.nodes].reverse()) {
    if (!node.outputs.some(o => o && reached.has(o) && active.has(o))) continue;
    const read = node.inputs.filter((_, i) => !NEVER_DIFFERENTIATED[node.opType]?.includes(i));
    for (const v of [...read, ...node.subgraphs().flatMap(s => s.captures())])
      if (v && active.has(v)) reached.add(v);
  }
  return reached;
}

/** Whether a name matches one of the globs; throws `no-such-value` for one that matches no name at all. */
export function matcher(
  flag: string,
  globs: readonly string[] | undefined,
  names: readonly string[],
  what = 'floating-point initializer',
) {
  if (!globs?.length) return undefined;
  const tests = globs.map(glob => picomatch(glob, { bash: true, dot: true }));
  globs.forEach((glob, i) => {
    if (!names.some(name => tests[i]!(name)))
      throw new AgdError(
        'no-such-value',
        `${flag} '${glob}' matches no ${what}; \`agd-onnx inspect\` lists them.`,
      );
  });
  return (name: string) => tests.some(test => test(name));
}
