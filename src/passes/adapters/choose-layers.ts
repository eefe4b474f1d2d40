/** Which layers of a model an option or a file of adapters names. */
import { AgdError } from '../../graph/errors.js';
import type { Node } from '../../graph/ir.js';
import { globTest } from '../common/match-names.js';
import { type AdaptedLayer, describeLayer } from './adapted-layers.js';

const listed = (layers: readonly AdaptedLayer[]) =>
  layers.length
    ? `there are ${layers.slice(0, 12).map(describeLayer).join(', ')}${layers.length > 12 ? ` and ${layers.length - 12} more` : ''}.`
    : 'the model has none.';

/** The layers whose module, weight or node matches; some or all parts of one, not both. Throws `no-such-value` if none does. */
export function layersMatching(layers: readonly AdaptedLayer[], glob: string, flag: string): AdaptedLayer[] {
  const test = globTest(glob);
  const matching = new Set(
    layers.filter(({ module, name, weight, node, part }) =>
      [module, name, ...(part ? [] : [weight.value.name, node.name])].some(n => n && test(n)),
    ),
  );
  const parts = new Map<Node, AdaptedLayer[]>();
  for (const l of layers) if (l.part) parts.set(l.node, [...(parts.get(l.node) ?? []), l]);
  // '*v_proj' is the values of a layer 'qkv_proj', and '*' all of it.
  const found = layers.filter(l => {
    if (!matching.has(l)) return false;
    const own = parts.get(l.node) ?? [];
    const count = own.filter(p => matching.has(p)).length;
    if (!l.part) return count === 0 || count === own.length;
    return count < own.length || !layers.some(o => o.node === l.node && !o.part && matching.has(o));
  });
  if (found.length) return found;
  throw new AgdError(
    'no-such-value',
    `${flag} '${glob}' matches no layer that multiplies with a weight; ${listed(layers)}`,
  );
}

/**
 * The layers that the entries of the file `name` are for, by the module; a file may name modules from further out. Throws
 * `no-such-value` for an entry without a layer, and `bad-option` for a layer of two.
 */
export function layersNamed<T extends { module: string; kind?: string }>(
  layers: readonly AdaptedLayer[],
  entries: readonly T[],
  name: string,
): Map<AdaptedLayer, T> {
  const taken = new Map<AdaptedLayer, T>();
  for (const entry of entries) {
    const { module, kind } = entry;
    const fits = (l: AdaptedLayer) => kind === undefined || l.kind === kind;
    const exact = layers.filter(l => fits(l) && l.module === module);
    const found = exact.length
      ? exact
      : layers.filter(l => fits(l) && (l.module.endsWith(`.${module}`) || module.endsWith(`.${l.module}`)));
    if (!found.length)
      throw new AgdError(
        'no-such-value',
        `${name} is an adapter of another model: it has values for '${module}', but of such layers ${listed(layers)}`,
      );
    for (const layer of found) {
      const other = taken.get(layer);
      if (other !== undefined)
        throw new AgdError(
          'bad-option',
          `${name} has two adapters for layer ${describeLayer(layer)}: '${other.module}' and '${module}'. It belongs to a larger model, or to one with other module names.`,
        );
      taken.set(layer, entry);
    }
  }
  return taken;
}
